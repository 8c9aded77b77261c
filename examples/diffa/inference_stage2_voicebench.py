"""Answers the spoken questions of VoiceBench; its own evaluate.py scores the file.

python examples/diffa/inference_stage2_voicebench.py --model_path DIR --data mmsu --split history --output_dir results

writes results/myModel-mmsu-history.jsonl: the fields of the data set but the audio, and `response`.
"""

from pathlib import Path

from diffa.evaluation.answers import Question, add_arguments, answer
from dllm.program import argument_parser, run_program

PROMPT = (
    "\n### Instruction:\nNow, strictly follow my instructions: \n1. Do not repeat what you hear. \n"
    "2. Write an answer to response the question in the audio.\n\n### Response:\n"
)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--dataset", default="hlt-lab/voicebench", help="name on the hub, or a folder of the same form")
    parser.add_argument("--data", default="mmsu", help="part of VoiceBench: mmsu, sd-qa, openbookqa, ...")
    parser.add_argument("--split", default="history", help="of the part")
    parser.add_argument("--output_dir", type=Path, default="results/voicebench", help="folder of the results")
    parser.add_argument("--output_json", type=Path, help="a file in that folder's stead")
    add_arguments(parser, tokens=16)
    args = parser.parse_args()
    from datasets import Audio, load_dataset  # takes seconds: mistakes are told before

    try:
        data = load_dataset(args.dataset, args.data, split=args.split)
    except Exception as error:  # of many kinds: no such name, no network, no such part
        line = " ".join(str(error).split())
        raise ValueError(f"--dataset {args.dataset} --data {args.data} --split {args.split}: {line}") from None
    clips = [row["audio"] for row in data.select_columns("audio").cast_column("audio", Audio(decode=False))]
    records = data.remove_columns("audio").to_list()
    questions = [Question(str(number), PROMPT, clip["bytes"] or clip["path"]) for number, clip in enumerate(clips)]
    out = args.output_json or args.output_dir / f"myModel-{args.data}-{args.split}.jsonl"
    answer(args, records, questions, out, "response")


if __name__ == "__main__":
    run_program(main)
