"""The scores of a run: the model beside its baselines, every score with its interval, and the gain from the image.

They are read from the newest results that lmms_eval wrote into the folder of the run, and left there as scores.md and
scores.json; those of several runs, compared with the first, as comparison.md and comparison.json.
"""

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dllm.data.files import read_json, replacing, sha256, write_json
from report_scores.data import nearest_reports
from report_scores.intervals import FEWEST, LEVEL, RESAMPLES, compare, estimate, resampled_sums
from report_scores.lmms_eval_output import TASK, generations, read_results, read_scores, read_statistics, results_file
from report_scores.provenance import SCORING, code_sha256, digest
from report_scores.scorer import METEOR, Scorer
from report_scores.table import comparison_table, run_table

HOW = f"{LEVEL:.0%}, percentile bootstrap over studies, {RESAMPLES} resamples, seed 0"


@dataclass(frozen=True)
class Scores:
    """The scores of a run: what scores.json holds, and the statistics [studies, k] of each row of the table."""

    summary: dict
    statistics: dict[str, np.ndarray]


def score_run(folder: Path, scorer: Scorer) -> Scores:
    """Return the scores of the newest results in the folder, and write them there, unless they are there already.

    Raises ValueError with one line when results are missing, incomplete or of another version of the task.
    """
    file = results_file(folder)
    made_from = digest([sha256(file), scorer.names, code_sha256(SCORING)])
    if (scores := _read(folder, made_from)) is None:
        scores = _score(folder, file, scorer, made_from)
        with replacing(folder / "statistics.npz") as partial, open(partial, "wb") as file:
            np.savez(file, **scores.statistics)
        _write(folder / "scores", run_table(scores.summary), scores.summary)
    return scores


def compare_runs(runs: list[Scores], scorer: Scorer, folder: Path) -> dict:
    """Return the scores of every model, and each but the first compared with the first, and write them to the folder.

    Raises ValueError with one line unless all were scored on the same studies.
    """
    first = runs[0].summary
    for run in (run.summary for run in runs):
        if (run["task"]["test_sha256"], run["studies"]) != (first["task"]["test_sha256"], first["studies"]):
            raise ValueError(f"{run['run']} and {first['run']} were scored on different studies: compare them apart")
    values, resampled = _bootstrap(np.stack([run.statistics["model"] for run in runs]), scorer)
    models = [
        {
            "checkpoint": run.summary["checkpoint"],
            "run": run.summary["run"],
            "scores": run.summary["scores"]["model"],
            "gain_from_image": run.summary["gain_from_image"],
            "minus_first": _comparisons(values, resampled, index, 0) if index else None,
        }
        for index, run in enumerate(runs)
    ]
    baselines = {row: scores for row, scores in first["scores"].items() if row not in ("model", "shuffled_images")}
    comparison = {"studies": first["studies"], "intervals": HOW, "models": models, "baselines": baselines}
    _write(folder / "comparison", comparison_table(comparison), comparison)
    return comparison


def _score(folder: Path, file: Path, scorer: Scorer, made_from: str) -> Scores:
    read_scores(file)
    results = read_results(file)
    about = results["configs"][TASK]["metadata"]
    statistics, left_out = _statistics(folder, about, scorer)
    values, resampled = _bootstrap(np.stack(list(statistics.values())), scorer)
    rows = list(statistics)
    settings = folder / "reports" / "settings.json"  # of report_scores.resume
    summary = {
        "run": str(folder),
        "checkpoint": results["model_name"],
        "studies": len(statistics["model"]),
        "scores": {
            row: {name: asdict(estimate(values[name][index], resampled[name][index])) for name in scorer.names}
            for index, row in enumerate(rows)
        },
        "gain_from_image": _comparisons(values, resampled, rows.index("model"), rows.index("shuffled_images")),
        "gain_over_constant": _comparisons(values, resampled, rows.index("model"), rows.index("constant_report")),
        "intervals": HOW,
        "left_out": left_out,
        "task": about,
        "generation": read_json(settings, "remove it") if settings.exists() else None,
        "lmms_eval": results["config"],
        "made_from": made_from,
    }
    return Scores(summary, statistics)


def _statistics(folder: Path, about: dict, scorer: Scorer) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The statistics of each row [studies, k], and why a baseline is left out."""
    texts, meteor = generations(folder), read_statistics(folder, "METEOR")
    if len(texts["model"]) != len(texts["shuffled_images"]):
        raise ValueError(f"{folder}: an odd number of documents; give lmms_eval an even --limit")
    references, model = map(list, zip(*texts["model"], strict=True))
    rows = {
        "model": model,
        "shuffled_images": [text for _, text in texts["shuffled_images"]],
        "constant_report": [about["constant_report_text"]] * len(model),
    }
    known = {row: {METEOR.name: np.array(statistics)} for row, statistics in meteor.items()}
    left_out = {}
    try:
        files = Path(about["test_file"]), Path(about["image_folder"])
        rows["nearest_image"] = nearest_reports(*files, (about["test_sha256"], about["train_sha256"]), len(model))
    except ValueError as error:
        left_out["nearest_image"] = str(error)
    return {row: scorer.statistics(texts, references, known.get(row)) for row, texts in rows.items()}, left_out


def _bootstrap(statistics: np.ndarray, scorer: Scorer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores by name, [rows], and those of the resamples, [rows, resamples], of statistics [rows, studies, k]."""
    resamples = RESAMPLES if statistics.shape[-2] >= FEWEST else 0
    return scorer.scores(statistics.sum(axis=-2)), scorer.scores(resampled_sums(statistics, resamples))


def _comparisons(values: dict, resampled: dict, row: int, other: int) -> dict[str, dict]:
    """One row minus another, by score."""
    return {
        name: asdict(compare(values[name][row], values[name][other], resampled[name][row], resampled[name][other]))
        for name in values
    }


def _read(folder: Path, made_from: str) -> Scores | None:
    """The scores in the folder if they were made from just this and no baseline is missing."""
    try:
        summary = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        statistics = dict(np.load(folder / "statistics.npz"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # missing, or not written to its end
        return None
    return Scores(summary, statistics) if summary["made_from"] == made_from and not summary["left_out"] else None


def _write(path: Path, table: str, record: dict) -> None:
    """Write PATH.md and then PATH.json."""
    with replacing(path.with_suffix(".md")) as file:
        file.write_text(table, encoding="utf-8")
    write_json(path.with_suffix(".json"), record)
