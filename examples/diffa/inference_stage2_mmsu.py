r"""Answers the questions of MMSU; examples/diffa/mmsu/evaluate.py scores the file, run_mmsu_inference.sh does both.

python examples/diffa/inference_stage2_mmsu.py --model_path DIR --input_jsonl mmsu.jsonl --output_jsonl results.jsonl \
    --steps 4 --block_length 4 --max_new_tokens 4
"""

from functools import partial
from pathlib import Path

from diffa.evaluation import mmsu
from diffa.evaluation.answers import add_arguments, answer_file
from dllm.program import argument_parser, run_program


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--input_jsonl", default="data/mmsu/question/mmsu.jsonl", help="questions as published")
    parser.add_argument("--output_jsonl", type=Path, required=True, help="the questions with their `response`")
    learnt = "what the model was trained to answer"
    parser.add_argument("--answers", choices=mmsu.ANSWERS, default="letter", help=learnt)
    add_arguments(parser, tokens=4)
    args = parser.parse_args()
    prompt, names = partial(mmsu.prompt, answers=args.answers), ("id", "audio_path", "response")
    answer_file(args, args.input_jsonl, prompt, args.output_jsonl, names)


if __name__ == "__main__":
    run_program(main)
