r"""Instruction tuning of Qwen3-VL as a masked-diffusion model on conversations about images (docs/qwen3_vl.md).

accelerate launch --config_file scripts/accelerate_configs/ddp.yaml --num_processes 1 examples/qwen3_vl/sft.py \
    --lora True --r 16 --dataset_args "jp1924/KoDocumentTableVisualSFT[train:1000,test:10]"

accelerate launch --config_file scripts/accelerate_configs/fsdp.yaml examples/qwen3_vl/sft.py --lora True

--model_name_or_path and --dataset_args are local paths or names on the Hugging Face hub. The vision encoder and the
merger behind it stay as they are, unless --freeze_vision False or --freeze_merger False. The same command again goes
on from the last checkpoint.
"""

from dllm.pipelines.qwen3_vl.sft import sft

if __name__ == "__main__":
    sft(
        __doc__,
        model_name_or_path="Qwen/Qwen3-VL-2B-Instruct",
        dataset_args="jp1924/KoDocumentTableVisualSFT",
        output_dir="exp/qwen3_vl_sft",
        model_max_length=4096,
        per_device_train_batch_size=4,
        learning_rate=2e-4,
        num_train_epochs=3,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
    )
