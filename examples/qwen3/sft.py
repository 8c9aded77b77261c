r"""Instruction tuning of Qwen3 as a masked-diffusion language model; any other family that dllm knows works too.

accelerate launch --config_file scripts/accelerate_configs/ddp.yaml --num_processes 1 examples/qwen3/sft.py \
    --lora True --r 16 --dataset_args "tatsu-lab/alpaca[train:1000,test:100]" --max_seq_length 1024

--model_name_or_path and --dataset_args are local paths or names on the Hugging Face hub (docs/text.md). The same
command again goes on from the last checkpoint.
"""

from dllm.pipelines.text import sft

if __name__ == "__main__":
    sft(
        __doc__,
        model_name_or_path="Qwen/Qwen3-0.6B",
        dataset_args="tatsu-lab/alpaca",
        output_dir="exp/qwen3_sft",
        learning_rate=1e-4,
    )
