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
    parser.add_argument(
        *("--output_json_path", "--output_json"), type=Path, required=True, help="the questions with `model_prediction`"
    )
    add_arguments(parser, tokens=16)
    args = parser.parse_args()

    def asked(record: dict) -> tuple[str, str, str | None]:
        return str(record["id"]), mmau.prompt(record), record.get("audio_id")

    answer_file(args, args.input_json_path, asked, args.output_json_path, "model_prediction")


if __name__ == "__main__":
    run_program(main)
