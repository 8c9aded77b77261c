"""Reads what lmms_eval wrote: the scores beside both floors, and the generated reports.

    python -m report_results eval/results

prints the table of the newest results in the folder. Without results, or with a score missing, the exit status is 1:
that of lmms_eval is 0 even after a failure.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from report_metrics import METRICS

TASK = "mimic_cxr"
PREFIXES = {"model": "", "shuffled_images": "shuffled_images_", "constant_report": "constant_report_"}


def results_file(folder: str | Path) -> Path:
    """Return the newest results file in the folder or below it; ValueError when there is none."""
    files = list(Path(folder).rglob("*_results.json"))
    if not files:
        raise ValueError(f"{folder}: no results; the output of lmms_eval says why")
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def read_scores(file: str | Path) -> dict[str, dict[str, float]]:
    """Return {"model": scores, "shuffled_images": scores, "constant_report": scores}, each with all METRICS, 0-1.

    Raises ValueError with one line that names the scores which are missing or not numbers.
    """
    results = json.loads(Path(file).read_text(encoding="utf-8"))["results"].get(TASK, {})
    names = {row: {metric: f"{prefix}{metric}" for metric in METRICS} for row, prefix in PREFIXES.items()}
    values = {name: results.get(f"{name},none") for row in names.values() for name in row.values()}
    missing = [name for name, value in values.items() if not isinstance(value, float | int) or not math.isfinite(value)]
    if missing:
        raise ValueError(f"{file}: no score for {', '.join(missing)} of task {TASK}")
    return {row: {metric: values[name] for metric, name in columns.items()} for row, columns in names.items()}


def generations(folder: str | Path) -> dict[str, list[tuple[str, str]]]:
    """Return (reference, generated report) of the newest results in the folder, in the order of the test set.

    The keys are "model" and, for the same texts with the films of other studies, "shuffled_images". Raises ValueError
    when there are no results or lmms_eval ran without --log_samples.
    """
    file = results_file(folder)
    samples_file = file.with_name(file.name.replace("_results.json", f"_samples_{TASK}.jsonl"))
    if not samples_file.exists():
        raise ValueError(f"{samples_file}: no generated reports; run lmms_eval with --log_samples")
    with open(samples_file, encoding="utf-8") as lines:
        samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    texts = {"model": [], "shuffled_images": []}
    for sample in samples:
        half = "model" if "ROUGE_L" in sample else "shuffled_images"
        texts[half].append((sample["target"], sample["filtered_resps"]))
    return texts


def table(scores: dict[str, dict[str, float]]) -> str:
    """Lay out the scores as one row for the model and one for each floor."""
    lines = ["".join([f"{'':16}", *(f"{metric:>9}" for metric in METRICS)])]
    for row, columns in scores.items():
        lines.append("".join([f"{row:16}", *(f"{columns[metric]:9.4f}" for metric in METRICS)]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the --output_path of lmms_eval")
    args = parser.parse_args()
    try:
        file = results_file(args.folder)
        print(f"{file}\n{table(read_scores(file))}")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
