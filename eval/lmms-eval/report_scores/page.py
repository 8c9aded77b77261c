"""Writes a page to look at: the film, the reference and the generated report of every study side by side.

    python -m report_scores.page RUN_FOLDER

writes RUN_FOLDER/reports.html from the newest results in the folder: one file without anything outside it, the films as
small JPEGs in it. What both reports state, what the model missed and what it invented is marked in the texts: clinical
labels, or with --finding_f1 the findings of phantom films. The page holds reports and films, so the terms of the data
set apply to it.
"""

import argparse
import base64
import io
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from dllm.data.parallel import map_parallel
from llava.data.images import load_image
from llava.radiology.findings import parse_report
from llava.radiology.labels import NO_FINDING, labels
from llava.radiology.negation import sentences
from report_scores.data import read_studies
from report_scores.run import TASK, read_results, read_samples, results_file

FILM_PX = 256  # the long side of a film on the page: 10 KB a film, so 30 MB for the test set of MIMIC-CXR
STATES = {"agree": "✓", "missed": "−", "invented": "+"}


@dataclass(frozen=True)
class Study:
    """A study on the page.

    films           paths relative to the image folder
    prompt          what the model was asked
    agree, missed, invented   findings in both reports, only in the reference, only in the generated one
    """

    number: int
    films: list[str]
    prompt: str
    reference: str
    generated: str
    rouge_l: float
    agree: frozenset[str]
    missed: frozenset[str]
    invented: frozenset[str]

    @property
    def errors(self) -> int:
        return len(self.missed) + len(self.invented)


def phantom_findings(report: str) -> frozenset[str]:
    """The findings of a phantom's report, each with its side: "effusion left"."""
    return frozenset(f"{name} {side}".strip() for name, side in parse_report(report))


def read_run(folder: Path, read: Callable[[str], frozenset[str]]) -> tuple[list[Study], Path]:
    """Return the studies of the newest results in the folder, the worst first, and the folder of their films.

    The worst have the most findings missed or invented, and among equals the lowest ROUGE_L. `read` takes the findings
    from a report. Raises ValueError with one line: no results, or the test file is gone or another one by now.
    """
    about = read_results(results_file(folder))["configs"][TASK]["metadata"]
    samples = [sample for sample in read_samples(folder) if "ROUGE_L" in sample]
    test_file = Path(about["test_file"])
    records = read_studies(test_file)[: len(samples)]
    if [record["report"] for record in records] != [sample["target"] for sample in samples]:
        raise ValueError(f"{test_file}: not the file that was scored any more; evaluate again")
    studies = []
    for number, (record, sample) in enumerate(zip(records, samples, strict=True), start=1):
        reference, generated = record["report"], sample["filtered_resps"]
        true, found = read(reference), read(generated)
        texts = {"prompt": record["question"], "reference": reference, "generated": generated}
        findings = {"agree": true & found, "missed": true - found, "invented": found - true}
        studies.append(Study(number, record["images"], rouge_l=sample["ROUGE_L"], **texts, **findings))
    return sorted(studies, key=lambda study: (-study.errors, study.rouge_l)), Path(about["image_folder"])


def film_uri(path: Path) -> str | None:
    """The film as a data URI of a grey JPEG of at most FILM_PX a side; None when it cannot be read."""
    try:
        film = load_image(path).convert("L")
    except ValueError:
        return None
    film.thumbnail((FILM_PX, FILM_PX))
    file = io.BytesIO()
    film.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def page(studies: list[Study], films: dict[str, str | None], title: str, read: Callable[[str], frozenset[str]]) -> str:
    """The page as HTML. `films` are the data URIs of the films by path, None for one that is missing."""
    counts = {state: Counter(name for study in studies for name in getattr(study, state)) for state in STATES}
    names = [name for name, _ in sum(counts.values(), Counter()).most_common()]
    missing = sum(uri is None for uri in films.values())
    return _PAGE.substitute(
        title=escape(title),
        studies=len(studies),
        missing=f" {missing} of {len(films)} films cannot be read." if missing else "",
        totals="".join(_totals_row(name, [counts[state][name] for state in STATES]) for name in names),
        sums=_totals_row("all", [counts[state].total() for state in STATES]),
        legend="".join(f'<mark class="{state}">{_LEGEND[state]}</mark> {_tag(state, state)} ' for state in STATES),
        options="".join(f'<option value="{place}">{escape(name)}</option>' for place, name in enumerate(names)),
        rows="".join(_row(study, films, names, read) for study in studies),
    )


def _totals_row(name: str, numbers: list[int]) -> str:
    return f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{number}</td>" for number in numbers) + "</tr>"


def _tag(state: str, name: str) -> str:
    return f'<span class="tag {state}"><b title="{state}">{STATES[state]}</b> {escape(name)}</span>'


def _tags(found: list[tuple[str, str]]) -> str:
    return " ".join(_tag(state, name) for state, name in found)


def _row(study: Study, films: dict[str, str | None], names: list[str], read: Callable) -> str:
    """A study as HTML. Its attributes are what the script sorts and filters by."""
    by_state = {state: sorted(getattr(study, state)) for state in STATES}
    marks = " ".join(f"{state}{names.index(name)}" for state, found in by_state.items() for name in found)
    tags = _tags([(state, name) for state, found in by_state.items() for name in found])
    figures = "".join(_figure(film, films[film], study.number) for film in study.films)
    return (
        f'<article data-number="{study.number}" data-errors="{study.errors}" data-rouge="{study.rouge_l:.4f}" '
        f'data-marks="{marks}"><header><h2>Study {study.number}</h2><p>{tags or "no finding in either report"}'
        f"</p><p class=score>ROUGE_L {study.rouge_l:.3f}</p></header><div class=films>{figures}</div>"
        f"<section><h3>Reference</h3><p class=text>{_marked(study.reference, study, 'missed', read)}</p></section>"
        f"<section><h3>Generated</h3><p class=text>{_marked(study.generated, study, 'invented', read)}</p></section>"
        f"<details><summary>Prompt</summary><p class=text>{escape(study.prompt)}</p></details></article>\n"
    )


def _figure(film: str, uri: str | None, number: int) -> str:
    image = f'<img loading=lazy alt="film of study {number}" src="{uri}">' if uri else "<p>cannot be read</p>"
    return f"<figure>{image}<figcaption>{escape(film)}</figcaption></figure>"


def _marked(report: str, study: Study, wrong: str, read: Callable) -> str:
    """A report as HTML in which every sentence that states findings is marked, and followed by their tags."""
    parts = []
    for sentence in sentences(report):
        stated = read(sentence) - {NO_FINDING}  # which the report says as a whole
        found = [(state, name) for state in ("agree", wrong) for name in sorted(stated & getattr(study, state))]
        text = escape(sentence)
        if found:
            words = text.lstrip()
            text = f'{text[: -len(words)]}<mark class="{found[-1][0]}">{words}</mark> {_tags(found)}'
        parts.append(text)
    return "".join(parts) or "<i>no text</i>"


def write_page(folder: Path, read: Callable[[str], frozenset[str]]) -> str:
    """Write `reports.html` into the folder of a run and return a line that says so. Raises ValueError with one line."""
    studies, image_folder = read_run(folder, read)
    paths = sorted({film for study in studies for film in study.films})
    films = dict(
        zip(paths, map_parallel(film_uri, [image_folder / path for path in paths], "films", "film"), strict=True)
    )
    target, partial = folder / "reports.html", folder / ".reports.html.partial"
    try:
        partial.write_text(page(studies, films, f"{folder.name}: reports", read), encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror})") from error
    missing = sum(uri is None for uri in films.values())
    return f"{target}: {len(studies)} studies, {len(paths)} films" + (
        f", {missing} of them not readable" if missing else ""
    )


_LEGEND = {
    "agree": "stated by both reports",
    "missed": "only by the reference",
    "invented": "only by the generated one",
}
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { --agree: #dcefdc; --missed: #fde3c4; --invented: #f8d3e6; --line: #c9ced4; --quiet: #5a6470 }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 92rem; color: #15191e }
h1 { font-size: 1.3rem; margin: 0 0 .3rem } h2 { font-size: 1rem; margin: 0 }
h3 { font-size: .8rem; margin: 0 0 .2rem; color: var(--quiet); text-transform: uppercase; letter-spacing: .04em }
p { margin: 0 } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 0 .6rem; text-align: right; border-bottom: 1px solid var(--line) }
thead th { white-space: nowrap } th:first-child { text-align: left; font-weight: normal }
tfoot th:first-child, tfoot td { font-weight: bold }
form { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center;
  background: #fff; padding: .6rem 0; border-bottom: 1px solid var(--line) }
select { font: inherit; max-width: 100% } .legend { margin: .6rem 0; line-height: 2 }
article { display: grid; grid-template: auto auto 1fr / 16rem minmax(0, 1fr) minmax(0, 1fr); gap: .7rem 1.4rem;
  padding: 1.1rem 0; border-bottom: 1px solid var(--line);
  content-visibility: auto; contain-intrinsic-size: auto 20rem }
article[hidden] { display: none }
header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline }
.films { grid-row: 2 / 4 } .score { margin-left: auto }
.score, figcaption, summary { color: var(--quiet); font-size: .8rem }
figure { margin: 0 0 .5rem } img { width: 100%; display: block; background: #000 }
figcaption { overflow-wrap: anywhere; line-height: 1.3 } details { grid-column: 2 / -1 }
.text { white-space: pre-line; overflow-wrap: anywhere }
mark { color: inherit; padding: 0 .1em } .agree { background: var(--agree) }
.missed { background: var(--missed) } .invented { background: var(--invented) }
mark.agree { border-bottom: 2px solid #2e7d32 } mark.missed { border-bottom: 2px dashed #b35c00 }
mark.invented { border-bottom: 3px double #ad1457 }
.tag { font-size: .8rem; border-radius: .7em; padding: .05em .55em; margin-right: .25em; white-space: nowrap }
@media (max-width: 60rem) { article { grid-template: none / minmax(0, 1fr) minmax(0, 1fr) }
  details { grid-column: 1 / -1 }
  .films { grid-area: auto / 1 / auto / -1; display: flex; gap: .6rem } figure { flex: 0 1 16rem; min-width: 0 } }
@media (max-width: 36rem) { article { grid-template-columns: minmax(0, 1fr) } .score { margin-left: 0 } }
</style></head><body>
<h1>$title</h1>
<p>$studies studies, the one with the most findings missed or invented first.$missing The findings are read from the
texts by rules; a mark is on the sentence that states them.</p>
<p class="legend">$legend</p>
<details open><summary>Findings of all studies</summary><table><thead><tr><th>finding</th><th>✓ agree</th>
<th>− missed</th><th>+ invented</th></tr></thead><tbody>$totals</tbody><tfoot>$sums</tfoot></table></details>
<form><label>Order <select id="order"><option value="errors">most errors first</option>
<option value="rouge">lowest ROUGE_L first</option><option value="number">test set</option></select></label>
<label>Finding <select id="finding"><option value="">any</option>$options</select></label>
<label>that is <select id="state"><option value="">anything</option><option>agree</option><option>missed</option>
<option>invented</option></select></label><output id="shown"></output></form>
<main>
$rows</main>
<script>
const [order, finding, state, shown] = ["order", "finding", "state", "shown"].map(id => document.getElementById(id));
const main = document.querySelector("main"), rows = [...main.children];
const value = (row, key) => Number(row.dataset[key]);
const orders = {
  errors: (a, b) => value(b, "errors") - value(a, "errors") || value(a, "rouge") - value(b, "rouge"),
  rouge: (a, b) => value(a, "rouge") - value(b, "rouge"),
  number: (a, b) => value(a, "number") - value(b, "number"),
};
function update() {
  const wanted = new RegExp("^" + (state.value || "[a-z]+") + (finding.value || "[0-9]+") + "$$");
  const all = !state.value && !finding.value;
  rows.sort(orders[order.value]);
  for (const row of rows) row.hidden = !all && !row.dataset.marks.split(" ").some(mark => wanted.test(mark));
  main.append(...rows);
  shown.value = rows.filter(row => !row.hidden).length + " of " + rows.length + " studies shown";
}
document.querySelector("form").addEventListener("change", update);
update();
</script></body></html>
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --output_path of lmms_eval")
    parser.add_argument("--finding_f1", action="store_true", help="the findings of phantom films, not clinical labels")
    args = parser.parse_args()
    try:
        print(write_page(args.folder, phantom_findings if args.finding_f1 else labels))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
