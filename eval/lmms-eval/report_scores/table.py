"""The scores of runs laid out as Markdown, in columns that also line up on a terminal."""

from report_scores.intervals import FEWEST

BLOCK = 5  # scores beside each other


def run_table(summary: dict) -> str:
    """The table of a run, from what scores.json holds: the model, its baselines, and its gains."""
    rows = run_rows(summary)
    notes = [
        f"{summary['studies']} studies; in brackets the interval ({summary['intervals']}).",
        "The gain from the image is model minus shuffled_images on the same studies; * where an interval excludes 0.",
        f"BLEU, METEOR, ROUGE_L, CIDEr: {summary['task']['normalisation']}. rouge_score_L: that package's own tokens.",
        f"constant_report: {summary['task']['constant_report']}.",
        *(f"{baseline} is left out: {reason}" for baseline, reason in summary["left_out"].items()),
    ]
    gains = summary["gain_from_image"], summary["gain_over_constant"]
    return _page(summary["checkpoint"], rows, notes + _without_interval(*summary["scores"].values(), *gains))


def run_rows(summary: dict) -> dict[str, dict[str, str]]:
    """Its rows, cells by score: value, interval, star."""
    rows = {row: _estimates(scores) for row, scores in summary["scores"].items()}
    rows["gain from the image"] = _differences(summary["gain_from_image"])
    rows["gain over constant_report"] = _differences(summary["gain_over_constant"])
    return rows


def comparison_table(comparison: dict) -> str:
    """The table of several runs, from what comparison.json holds: models, baselines, gains, and the models compared."""
    models = comparison["models"]
    first = models[0]["checkpoint"]
    rows = {model["checkpoint"]: _estimates(model["scores"]) for model in models}
    rows |= {baseline: _estimates(scores) for baseline, scores in comparison["baselines"].items()}
    rows |= {f"gain from the image: {model['checkpoint']}": _differences(model["gain_from_image"]) for model in models}
    rows |= {f"{model['checkpoint']} - {first}": _differences(model["minus_first"], p=True) for model in models[1:]}
    notes = [
        f"{comparison['studies']} studies; in brackets the interval ({comparison['intervals']}).",
        "Differences are those on the same studies; * where the interval excludes 0.",
    ]
    kinds = "scores", "gain_from_image", "minus_first"
    found = [model[kind] for model in models for kind in kinds if model[kind] is not None]
    return _page("Checkpoints compared", rows, notes + _without_interval(*found, *comparison["baselines"].values()))


def _estimates(scores: dict) -> dict[str, str]:
    return {name: f"{score['value']:.3f}{_interval(score, '.3f')}" for name, score in scores.items()}


def _differences(comparisons: dict, p: bool = False) -> dict[str, str]:
    cells = {}
    for name, found in comparisons.items():
        star = "*" if found["excludes_0"] else ""
        cells[name] = f"{found['value']:+.3f}{_interval(found, '+.3f')}{star}"
        if p and found["p"] is not None:
            cells[name] += f" p={found['p']:.2g}"
    return cells


def _interval(score: dict, form: str) -> str:
    return "" if score["low"] is None else f" [{score['low']:{form}}, {score['high']:{form}}]"


def _without_interval(*rows: dict) -> list[str]:
    """A note, if some score or difference has no interval."""
    missing = any(score["low"] is None for row in rows for score in row.values())
    return [f"No interval and no star where the studies are fewer than {FEWEST}, or all score alike."] * missing


def _page(title: str, rows: dict[str, dict[str, str]], notes: list[str]) -> str:
    """Rows of cells by score as tables of at most BLOCK scores."""
    names = list(next(iter(rows.values())))
    parts = [f"# {title}"]
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        parts.append(_table([["", *block], *([row, *(cells[name] for name in block)] for row, cells in rows.items())]))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _table(lines: list[list[str]]) -> str:
    """Lines of cells, the first of them the head, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *body = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body])
