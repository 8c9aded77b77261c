r"""Training of any text model on plain text (a column `text`), packed into samples of --max_seq_length tokens.

accelerate launch --config_file scripts/accelerate_configs/ddp.yaml --num_processes 1 examples/pt.py \
    --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_args "data/corpus.jsonl[test:100]" --max_seq_length 1024

--model_name_or_path and --dataset_args are local paths or names on the Hugging Face hub (docs/text.md). The same
command again goes on from the last checkpoint.
"""

from dllm.pipelines.text import pt

if __name__ == "__main__":
    pt(__doc__, output_dir="exp/pt", learning_rate=1e-4)
