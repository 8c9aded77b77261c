r"""Answers the questions of MMAU; examples/diffa/mmau/evaluate.py scores the file.

python examples/diffa/inference_stage2_mmau.py --model_path DIR --input_json_path mmau-test-mini.json \
    --output_json results.json
"""

from pathlib import Path

from diffa.evaluation import mmau
from diffa.evaluation.answers import add_arguments, answer_file
from dllm.program import argument_parser, run_program


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--input_json_path", default="data/mmau/mmau-test-mini.json", help="questions as published")
    spellings = ("--output_json_path", "--output_json")
    parser.add_argument(*spellings, type=Path, required=True, help="the questions with `model_prediction`")
    add_arguments(parser, tokens=16)
    args = parser.parse_args()
    names = ("id", "audio_id", "model_prediction")
    answer_file(args, args.input_json_path, mmau.prompt, args.output_json_path, names)


if __name__ == "__main__":
    run_program(main)
