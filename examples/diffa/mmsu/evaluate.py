"""Scores the answers to MMSU by the published rule, beside those with shuffled audio and without audio.

python examples/diffa/mmsu/evaluate.py results.jsonl
python examples/diffa/mmsu/evaluate.py results.jsonl --answers text    # of a model that answers with an option's text
"""

from functools import partial

from diffa.evaluation import mmsu
from diffa.evaluation.files import print_scores
from dllm.program import argument_parser, run_program


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("jsonl_path", help="file of inference_stage2_mmsu.py")
    parser.add_argument("--answers", choices=mmsu.ANSWERS, default="letter", help="what a response is")
    args = parser.parse_args()
    print_scores(args.jsonl_path, "response", "answer_gt", partial(mmsu.is_right, answers=args.answers), mmsu.report)


if __name__ == "__main__":
    run_program(main)
