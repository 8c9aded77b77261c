"""Reads what lmms_eval writes into the folder of a run: scores beside the baselines, and the generated reports."""

import json
import math
from pathlib import Path

from dllm.data.files import read_json

TASK, TASK_VERSION = "mimic_cxr", 2.0
TASK_METRICS = ("BLEU_1", "BLEU_4", "METEOR", "ROUGE_L")  # those that lmms_eval itself prints
PREFIXES = {"model": "", "shuffled_images": "shuffled_images_", "constant_report": "constant_report_"}


def results_file(folder: str | Path) -> Path:
    """Return the newest results file in the folder or below it; ValueError when there is none."""
    files = list(Path(folder).rglob("*_results.json"))
    if not files:
        raise ValueError(f"{folder}: no results; the output of lmms_eval says why")
    return max(files, key=lambda file: file.stat().st_mtime_ns)


def read_results(file: str | Path) -> dict:
    """Return all that the results file holds; ValueError unless it is whole and of this version of the task."""
    results = read_json(file, "it was not written to its end; remove it and evaluate again")
    if TASK not in results.get("configs", ()):
        raise ValueError(f"{file}: no scores of task {TASK}")
    version = results["configs"][TASK]["metadata"]["version"]
    if version != TASK_VERSION:
        raise ValueError(f"{file}: of version {version} of the task, not {TASK_VERSION}; evaluate again")
    return results


def read_scores(file: str | Path) -> dict[str, dict[str, float]]:
    """Return {"model": scores, "shuffled_images": scores, "constant_report": scores}, each with TASK_METRICS, 0-1.

    Raises ValueError with one line that names the scores which are missing or not numbers.
    """
    results = read_results(file)["results"].get(TASK, {})
    names = [f"{prefix}{metric}" for prefix in PREFIXES.values() for metric in TASK_METRICS]
    values = {name: results.get(f"{name},none") for name in names}
    missing = [name for name, value in values.items() if not isinstance(value, float | int) or not math.isfinite(value)]
    if missing:
        raise ValueError(f"{file}: no score for {', '.join(missing)} of task {TASK}")
    return {row: {metric: values[f"{prefix}{metric}"] for metric in TASK_METRICS} for row, prefix in PREFIXES.items()}


def read_statistics(folder: str | Path, metric: str) -> dict[str, list[list[float]]]:
    """Return the statistics of a metric that lmms_eval logged: by row, of each study in the order of the test set."""
    samples = read_samples(folder)
    names = {row: f"{prefix}{metric}" for row, prefix in PREFIXES.items()}
    return {row: [sample[name] for sample in samples if name in sample] for row, name in names.items()}


def read_samples(folder: str | Path) -> list[dict]:
    """Return what lmms_eval logged of each document of the newest results, in the order of the test set.

    Raises ValueError when there are no results, or lmms_eval ran without --log_samples or with --offset.
    """
    file = results_file(folder)
    samples_file = file.with_name(file.name.replace("_results.json", f"_samples_{TASK}.jsonl"))
    if not samples_file.exists():
        raise ValueError(f"{samples_file}: no generated reports; run lmms_eval with --log_samples")
    try:
        with open(samples_file, encoding="utf-8") as lines:
            samples = sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])
    except ValueError:
        raise ValueError(f"{samples_file}: was not written to its end; evaluate again") from None
    wanted = read_results(file).get("n-samples", {}).get(TASK, {}).get("effective")
    if wanted is not None and len(samples) != wanted:
        raise ValueError(f"{samples_file}: {len(samples)} of {wanted} documents; evaluate again")
    if [sample["doc_id"] for sample in samples] != list(range(len(samples))):
        raise ValueError(f"{samples_file}: not the first documents of the test set; run lmms_eval without --offset")
    return samples


def generations(folder: str | Path) -> dict[str, list[tuple[str, str]]]:
    """Return (reference, generated report) of the newest results in the folder, in the order of the test set.

    The keys are "model" and, for the same texts with the images of other studies, "shuffled_images". Raises ValueError
    as `read_samples` does.
    """
    samples = read_samples(folder)
    return {
        row: [(sample["target"], sample["filtered_resps"]) for sample in samples if f"{PREFIXES[row]}ROUGE_L" in sample]
        for row in ("model", "shuffled_images")
    }


def check_complete(folder: str | Path) -> None:
    """Raise ValueError with one line unless all scores and reports are there; lmms_eval ends with 0 after a failure."""
    read_scores(results_file(folder))
    read_samples(folder)
