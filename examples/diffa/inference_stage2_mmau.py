r"""Answers the questions of MMAU; examples/diffa/mmau/evaluate.py scores the file.

python examples/diffa/inference_stage2_mmau.py --model_path DIR --input_json_path mmau-test-mini.json \
    --output_json results.json
"""

from pathlib import Path

from diffa.evaluation import mmau
from diffa.evaluation.answers import Question, add_arguments, answer
from diffa.evaluation.files import find_clip, read_records
from dllm.program import argument_parser, run_program


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--input_json_path", default="data/mmau/mmau-test-mini.json", help="questions as published")
    parser.add_argument(
        *("--output_json_path", "--output_json"), type=Path, required=True, help="the questions with `model_prediction`"
    )
    add_arguments(parser, tokens=16)
    args = parser.parse_args()
    records = read_records(args.input_json_path)
    clips = [find_clip(record.get("audio_id"), args.input_json_path) for record in records]
    questions = [Question(str(each["id"]), mmau.prompt(each), clip) for each, clip in zip(records, clips, strict=True)]
    answer(args, records, questions, args.output_json_path, "model_prediction")


if __name__ == "__main__":
    run_program(main)
