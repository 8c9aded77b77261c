"""Runs and their scores, for evaluate.sh and by hand. An error is one line on stderr and exit status 1.

python -m report_scores name CHECKPOINT_FOLDER [SETTING ...]
python -m report_scores complete RUN_FOLDER
python -m report_scores report RUN_FOLDER [RUN_FOLDER ...]
"""

from pathlib import Path

from dllm.program import argument_parser, run_program
from dllm.training.model_card import put_scores
from llava.radiology.findings import findings_of
from llava.radiology.labels import labels
from report_scores.lmms_eval_output import check_complete
from report_scores.metrics.clinical import clinical_metrics
from report_scores.page import write_page
from report_scores.provenance import run_name
from report_scores.results import compare_runs, score_run
from report_scores.scorer import FINDING_F1, METRICS, Scorer
from report_scores.table import comparison_table, run_table


def report(folders: list[Path], finding_f1: bool, clinical: bool) -> None:
    """Print the table of each run, compare several with the first, and write the page of each."""
    scorer = Scorer([*METRICS, *([FINDING_F1] if finding_f1 else []), *(clinical_metrics() if clinical else [])])
    runs = [score_run(folder, scorer) for folder in folders]
    for run in runs:
        table = run_table(run.summary)
        print(table)
        put_scores(run.summary["checkpoint"], table.partition("\n\n")[2])  # without its title
    if len(runs) > 1:
        print(comparison_table(compare_runs(runs, scorer, folders[0].absolute().parent)))
    for folder, run in zip(folders, runs, strict=True):
        print(write_page(folder, findings_of if finding_f1 else labels, run.summary))


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, help="each has its own --help")

    command = commands.add_parser("name", help="print the name of the run that scores a checkpoint")
    command.add_argument("checkpoint", help="folder of the checkpoint")
    command.add_argument("settings", nargs="*", help="all else that the reports depend on")

    command = commands.add_parser("complete", help="fail unless lmms_eval wrote all scores and reports of a run")
    command.add_argument("folder", help="the --output_path of lmms_eval")

    command = commands.add_parser("report", help="print and write the tables of runs, and write their pages")
    command.add_argument("folders", nargs="+", type=Path, help="the --output_path of each lmms_eval run")
    command.add_argument("--finding_f1", action="store_true", help="findings of phantom images: their F1, on the page")
    command.add_argument("--clinical", action="store_true", help="also CheXbert F1, RadGraph F1 and RadCliQ (radeval)")

    args = parser.parse_args(arguments)
    if args.command == "name":
        print(run_name(args.checkpoint, args.settings))
    elif args.command == "complete":
        check_complete(args.folder)
    else:
        report(args.folders, args.finding_f1, args.clinical)


if __name__ == "__main__":
    run_program(main)
