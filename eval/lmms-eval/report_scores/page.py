"""Writes a page to look at: the scores of a run, then the images of every study beside its reference, the generated
report, and what the model wrote for the same text with the image of another study.

It is one file without anything outside it, the images as small JPEGs in it. What both reports state, what the model
missed and what it invented is marked in the texts. The page holds reports and images, so the terms of the data set
apply to it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dllm.data.files import replacing
from dllm.data.parallel import map_parallel
from llava.data.images import load_image
from llava.radiology.labels import NO_FINDING
from llava.radiology.negation import sentences
from llava.web.uploads import jpeg_uri
from report_scores.data import read_studies
from report_scores.lmms_eval_output import TASK, generations, read_results, read_samples, results_file
from report_scores.table import run_rows

IMAGE_PX = 256  # the long side of an image on the page: 10 KB an image, so 30 MB for the test set of MIMIC-CXR
STATES = ("agree", "missed", "invented")

Findings = list[tuple[str, str]]  # (state, name)
Read = Callable[[str], frozenset[str]]  # takes the findings from a text


@dataclass(frozen=True)
class Study:
    """A study on the page.

    images      paths relative to the image folder
    prompt      what the model was asked
    reference   sentences of a report: the space in front, the words, the findings that they state
    shuffled    the same of what was written for another study's image; None where nothing was
    findings    those of both reports (agree), only of the reference (missed), only of the generated one (invented)
    """

    number: int
    images: list[str]
    prompt: str
    reference: list[tuple[str, str, Findings]]
    generated: list[tuple[str, str, Findings]]
    shuffled: list[tuple[str, str, Findings]] | None
    rouge_l: float
    findings: Findings

    @property
    def errors(self) -> int:
        return sum(state != "agree" for state, _ in self.findings)


def read_run(folder: Path, read: Read) -> tuple[list[Study], Path]:
    """Return the studies of the newest results in the folder, the worst first, and the folder of their images.

    The worst have the most findings missed or invented, and among equals the lowest ROUGE_L. Raises ValueError with one
    line: no results, or the test file is gone or another one by now.
    """
    about = read_results(results_file(folder))["configs"][TASK]["metadata"]
    samples = [sample for sample in read_samples(folder) if "ROUGE_L" in sample]
    test_file = Path(about["test_file"])
    records = read_studies(test_file)[: len(samples)]
    if [record["report"] for record in records] != [sample["target"] for sample in samples]:
        raise ValueError(f"{test_file}: not the file that was scored any more; evaluate again")
    shuffled = dict(enumerate((text for _, text in generations(folder)["shuffled_images"]), start=1))
    studies = []
    for number, (record, sample) in enumerate(zip(records, samples, strict=True), start=1):
        reference, generated = record["report"], sample["filtered_resps"]
        findings = _compared(reference, generated, read)
        other = shuffled.get(number)
        reports = [
            _marked(reference, findings, "invented", read),
            _marked(generated, findings, "missed", read),
            None if other is None else _marked(other, _compared(reference, other, read), "missed", read),
        ]
        studies.append(Study(number, record["images"], record["question"], *reports, sample["ROUGE_L"], findings))
    return sorted(studies, key=lambda study: (-study.errors, study.rouge_l)), Path(about["image_folder"])


def image_uri(path: Path) -> str | None:
    """The image as a data URI of a grey JPEG of at most IMAGE_PX a side; None when it cannot be read."""
    try:
        return jpeg_uri(load_image(path).convert("L"), IMAGE_PX)
    except ValueError:
        return None


def page(studies: list[Study], images: dict[str, str | None], title: str, summary: dict | None) -> str:
    """The page as HTML. `images` are the data URIs of the images by path, None for one that is missing; `summary` is
    what scores.json holds.
    """
    counts = Counter(finding for study in studies for finding in study.findings)
    by_state = Counter(state for study in studies for state, _ in study.findings)
    by_name = Counter(name for study in studies for _, name in study.findings)
    totals = {name: [counts[state, name] for state in STATES] for name, _ in by_name.most_common()}
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.jinja").render(
        title=title,
        scores=run_rows(summary) if summary else {},
        intervals=summary and summary["intervals"],
        studies=studies,
        images=images,
        missing=list(images.values()).count(None),
        totals=totals,
        sums=[by_state[state] for state in STATES],
    )


def write_page(folder: Path, read: Read, summary: dict | None = None) -> str:
    """Write `reports.html`, with the scores of `summary` on top, into the folder of a run and return a line that says
    so. Raises ValueError with one line.
    """
    studies, image_folder = read_run(folder, read)
    paths = sorted({image for study in studies for image in study.images})
    uris = map_parallel(image_uri, [image_folder / path for path in paths], "images", "image")
    images = dict(zip(paths, uris, strict=True))
    checkpoint = Path(read_results(results_file(folder))["model_name"]).name
    title, target = f"Radiology reports by {checkpoint}", folder / "reports.html"
    try:
        with replacing(target) as file:
            file.write_text(page(studies, images, title, summary), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror})") from error
    missing = list(images.values()).count(None)
    return f"{target}: {len(studies)} studies, {len(paths)} images" + (f", {missing} not readable" if missing else "")


def _compared(reference: str, report: str, read: Read) -> Findings:
    """The findings of a report beside those of the reference."""
    true, found = read(reference), read(report)
    by_state = zip(STATES, (true & found, true - found, found - true), strict=True)
    return [(state, name) for state, names in by_state for name in sorted(names)]


def _marked(report: str, findings: Findings, absent: str, read: Read) -> list[tuple[str, str, Findings]]:
    """The sentences of a report, each with what it states of the findings of its study but for those `absent` in it."""
    parts = []
    for sentence in sentences(report):
        stated = read(sentence) - {NO_FINDING}  # which the report says as a whole
        words = sentence.lstrip()
        space = sentence[: len(sentence) - len(words)]
        parts.append((space, words, [(state, name) for state, name in findings if state != absent and name in stated]))
    return parts
