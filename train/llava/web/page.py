"""The page of the radiology model: a report of an image, held against other images, and reports of many images."""

from collections import deque
from collections.abc import Iterator
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from dllm.inference.command_line import seed_of
from dllm.web.page import NOTICE, QUIET, Page, Session, Updates
from dllm.web.texts import link, say
from dllm.web.uploads import remove
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.radiology.annotation import clinical_prompt
from llava.radiology.findings import findings_of
from llava.radiology.release import CONTEXT_FIELDS, TARGETS
from llava.web import texts
from llava.web.uploads import jpeg_uri, take_image

MAX_BATCH, BATCH_SIZE = 200, 8
SHOWN_PX, SMALL_PX = 448, 160


class ReportPage(Page):
    """`examples` are records of an annotation with the `path` of their image and a `title`."""

    title, tab, product, hint = "LLaDA-V-Qwen", "One image", "report", "choose an image and press Write"
    style = Page.style + (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    split = staticmethod(texts.split)

    def __init__(self, writer: ReportWriter, model_name: str, at_first: dict, examples: list[dict]):
        super().__init__(writer, model_name, at_first)
        self.examples = examples

    def inputs(self) -> list[gr.components.Component]:
        titles = [(example["title"], number) for number, example in enumerate(self.examples)]
        self.example = gr.Dropdown(titles, label="Example", visible=bool(titles), elem_id="example")
        upload = gr.File(label="or one of yours", height=150, elem_id="upload")
        preview = gr.HTML(elem_id="preview")
        first, *others = (gr.Textbox(label=name.capitalize(), max_lines=4, render=False) for name in CONTEXT_FIELDS)
        first.render()
        with gr.Accordion("More clinical context", open=False):
            for box in others:
                box.render()
        context = [first, *others]
        self.chosen = [preview, self.example, upload, *context]
        self.example.input(self.choose, self.example, self.chosen, **QUIET)
        upload.upload(self.take, [upload, *context], self.chosen, **QUIET)
        return context

    def build_settings(self) -> dict[str, gr.components.Component]:
        info = "what the model was trained to write"
        return super().build_settings() | {"target": gr.Dropdown(TARGETS, label="target", info=info, min_width=200)}

    def outputs(self) -> None:
        super().outputs()
        compare = gr.Button("Is it looking? Write for a blank and another image too", elem_id="compare")
        self.compared = gr.HTML(elem_id="compared")
        self.written.append(self.compared)
        self.press(compare, self.compare, self.values, [self.compared], self.status)

    def blocks(self) -> gr.Blocks:
        with super().blocks() as blocks, gr.Tab("Many images"):
            gr.HTML(f"<p>Up to {MAX_BATCH} images; context and settings are those of the other tab.</p>")
            self.files = gr.File(label="Images", file_count="multiple", height=150, elem_id="files")
            with gr.Row():
                start = gr.Button("Write all", variant="primary", elem_id="write_all")
                gr.Button("Stop").click(self.stop, queue=False, **QUIET)
            self.progress, self.table = gr.HTML(elem_id="progress"), gr.HTML(elem_id="table")
            self.files.upload(self.remember, self.files, None, **QUIET)
            self.press(start, self.write_all, [self.files, *self.values], [self.table, self.files], self.progress)
            if self.examples:
                blocks.load(self.choose, self.example, self.chosen, **QUIET)
        return blocks

    def remarks(self, session: Session, text: str) -> str:
        if (truth := session.truth) is None:
            return f"<h2>Findings</h2>{texts.findings_html(text)}"
        told = f"<details><summary>The true report</summary><p>{escape(truth)}</p></details>"
        return f"<h2>Findings ({texts.SIGNS_EXPLAINED})</h2>{texts.findings_html(text, truth)}{told}"

    def request(self, session: Session, given: tuple, settings: dict, template: str = "") -> Request:
        if session.given is None:
            raise ValueError("there is no image: choose an example, or give one of yours")
        seed = seed_of(settings["seed"], session.name)
        return Request([session.given], _question(given, settings), seed, template, session.name)

    # What is done when something is pressed

    def choose(self, request: gr.Request, number: int) -> dict:
        """An example takes the place of the image."""
        session, example = self.sessions.of(request), self.examples[number]
        session.given, session.name = load_image(example["path"]), example["path"].name
        session.example, session.truth = example, example["report"]
        context = [gr.update(value=example.get(name) or "") for name in CONTEXT_FIELDS]
        caption = f"Example {example['title']}. Its true report is known."
        return dict(zip(self.chosen, [_figure(session.given, caption), number, None, *context], strict=True))

    def take(self, request: gr.Request, path: str, *context: str) -> dict:
        """An upload takes the place of the image, also if it cannot be read; an example's context goes with it."""
        session = self.sessions.of(request)
        before = session.example
        shown = session.take(path, take_image) or _figure(session.given, f"Yours: {session.name}")
        kept = ["" if text == before.get(name) else text for name, text in zip(CONTEXT_FIELDS, context, strict=True)]
        return dict(zip(self.chosen, [shown, None, None, *kept], strict=True))

    def remember(self, request: gr.Request, paths: list[str]) -> None:
        self.sessions.of(request).uploads += paths

    def write(self, session: Session, *values, edited: list[tuple[str, str]] | None = None) -> Updates:
        yield {self.compared: ""}
        yield from super().write(session, *values, edited=edited)

    def compare(self, session: Session, *values) -> Updates:
        """The same report for the image, a blank one, and an example with other findings."""
        given, settings, arguments = self.asked(values)
        requests = [self.request(session, given, settings)]
        others = {"a blank image": Image.new("RGB", session.given.size, (127, 127, 127))}
        known = findings_of(session.truth or "")
        for other in [each for each in self.examples if findings_of(each["report"]) != known][:1]:
            others[f"example {other['title'].partition(':')[0]}"] = load_image(other["path"])
        requests += [Request([image], requests[0].question, requests[0].seed) for image in others.values()]
        yield {self.status: say(f"writing {len(requests)} reports")}
        reports = [report.text for report in self.writer.write(requests, **arguments)]
        found = [findings_of(report) for report in reports]
        changes = [f"{len(found[0] ^ each)} with {title}" for title, each in zip(others, found[1:], strict=True)]
        told = f"Findings that change: {', '.join(changes)}. None at all would mean that the model does not look."
        columns = zip(["the image", *others], [request.inputs[0] for request in requests], reports, strict=True)
        shown = f"<h2>Is it looking?</h2><p>{escape(told)}</p><div class='columns'>"
        for title, image, report in columns:
            marked = texts.findings_html(report, first=reports[0])
            shown += f"<article>{_figure(image, title, SMALL_PX)}<p>{escape(report)}</p>{marked}</article>"
        yield {self.status: say(told), self.compared: f"{shown}</div>"}

    def write_all(self, session: Session, paths: list[str] | None, *values) -> Updates:
        """Reports of many images, BATCH_SIZE at a time; each file is removed when it is read, the others at the end."""
        paths, rows, taken = paths or [], [], deque()
        given, settings, arguments = self.asked(values)
        question = _question(given, settings)

        def requests() -> Iterator[Request]:
            for path in [] if session.stop else paths:
                rows.append(row := {"name": Path(path).name})
                try:
                    image = take_image(path)
                except ValueError as error:
                    row["error"] = str(error)
                    continue
                row["image"] = jpeg_uri(image, SHOWN_PX)
                taken.append(row)
                yield Request([image], question, seed_of(settings["seed"], row["name"]), name=row["name"])

        try:
            if not 0 < len(paths) <= MAX_BATCH:
                raise ValueError(f"{len(paths)} images are given; give 1 to {MAX_BATCH}")
            for number, report in enumerate(self.writer.write_all(requests(), BATCH_SIZE, **arguments), start=1):
                taken.popleft()["report"] = report
                bar = f'<progress max="{len(paths)}" value="{len(rows) - len(taken)}"></progress>'
                yield {self.progress: bar + say(f"{number} reports")}
                if session.stop:
                    break
            page = texts.reports_page(rows, question.splitlines()[-1], NOTICE, self.style)
            saved = link("Save reports.html", "reports.html", "text/html", page)
            said = f"{sum('report' in row for row in rows)} reports of {len(paths)} images"
            yield {self.progress: say(said), self.table: saved + texts.reports_table(rows), self.files: None}
        finally:
            for path in paths:
                remove(path)


def _question(context: tuple[str, ...], settings: dict) -> str:
    return clinical_prompt(dict(zip(CONTEXT_FIELDS, context, strict=True)) | {"target": settings["target"]})


def _figure(image: Image.Image, caption: str, side: int = SHOWN_PX) -> str:
    return f'<figure><img alt="" src="{jpeg_uri(image, side)}"><figcaption>{escape(caption)}</figcaption></figure>'
