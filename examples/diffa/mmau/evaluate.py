"""Scores the answers to MMAU by the published rule, beside those with shuffled audio and without audio.

python examples/diffa/mmau/evaluate.py results.json        # or --input results.json
"""

from diffa.evaluation import mmau
from diffa.evaluation.files import print_scores
from dllm.program import argument_parser, run_program


def main() -> None:
    parser = argument_parser(__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("file", nargs="?", help="file of inference_stage2_mmau.py")
    group.add_argument("--input", help="the same")
    args = parser.parse_args()
    print_scores(args.file or args.input, "model_prediction", "answer", mmau.is_right, mmau.report)


if __name__ == "__main__":
    run_program(main)
