"""Reports as HTML, with their findings."""

from html import escape

from llava.radiology.findings import findings_of
from llava.radiology.negation import sentences

SIGNS = {"agree": "✓", "missed": "−", "invented": "+"}  # of a finding, beside the truth
SIGNS_EXPLAINED = "✓ true, − missed, + invented"


def findings_html(report: str, truth: str | None = None, first: str | None = None) -> str:
    """The findings of a report as a list: beside those of the truth if it is known, or changed from the `first`."""
    found, known = findings_of(report), findings_of(truth or "")
    base = found if first is None else findings_of(first)
    states = {name: "stated" if truth is None else "agree" if name in known else "invented" for name in found}
    states |= dict.fromkeys(known - found, "missed")
    tags = [_tag(name, state, name in found and name not in base) for name, state in sorted(states.items())]
    tags += [_tag(name, "gone", True) for name in sorted(base - found - states.keys())]
    return f'<p class="tags">{" ".join(tags) or "<i>no finding</i>"}</p>'


def _tag(name: str, state: str, changed: bool) -> str:
    kind, mark = (f"{state} changed", " ≠") if changed else (state, "")
    words = f"{SIGNS.get(state, '')} {name}{mark}".strip()
    return f'<span class="tag {kind}">{escape(words)}</span>'


def split(report: str) -> list[str]:
    """The sentences of a report without the space around them."""
    return [sentence.strip() for sentence in sentences(report) if sentence.strip()]


def reports_table(rows: list[dict]) -> str:
    """Images with their reports and findings as a table. A row has `name`, and `image` (a data URI) and `report` (a
    `Report`), or `error`; one without a report was not reached.
    """
    cells = ""
    for row in rows:
        image = f'<img alt="" src="{row["image"]}">' if "image" in row else ""
        cells += f"<tr><td>{image}{escape(row['name'])}</td><td>{_outcome(row)}</td></tr>"
    return f'<table class="reports">{cells}</table>'


def _outcome(row: dict) -> str:
    if "report" in row:
        return f"<p>{escape(row['report'].text)}</p>{findings_html(row['report'].text)}"
    return f'<p class="say alert">{escape(row.get("error", "not written: stopped"))}</p>'


def reports_page(rows: list[dict], prompt: str, notice: str, style: str) -> str:
    """One file without anything outside it: what the model was asked, and the table."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Reports</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem }}{style}</style>"
        f"</head><body><h1>Reports</h1><p><strong>{notice}</strong></p><p>{escape(prompt)}</p>{reports_table(rows)}"
        "</body></html>"
    )
