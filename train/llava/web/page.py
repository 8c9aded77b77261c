"""The page: a report as it denoises, edited, filled in, held against other images, and written for many images.

What a visitor gives lives in a `Session` in memory until the page is closed. All that uses the model shares one
concurrency id, so that there is one generation at a time and the others queue.
"""

import hashlib
import json
import sys
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from dllm.core.decoding import CFG_AGAINST, Decoding
from dllm.inference.canvas_html import Painter, State, legend
from dllm.inference.command_line import seed_of
from llava.data.images import load_image
from llava.inference import BLANK_LENGTH, Report, ReportWriter, Request, tokens_per_step
from llava.radiology.annotation import clinical_prompt
from llava.radiology.release import CONTEXT_FIELDS, TARGETS
from llava.web import texts
from llava.web.uploads import data_uri, jpeg_uri, remove, take_image

NOTICE = "For research, not for clinical use."
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
MAX_SESSIONS, MAX_BATCH, MAX_SENTENCES = 20, 200, 40
SHOWN_PX, SMALL_PX = 448, 160
BATCH_SIZE = 8
HELP = {each.name: each.metadata["help"] for each in fields(Decoding)}
QUIET = {"api_visibility": "private", "show_progress": "hidden"}
MODEL = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "model", "concurrency_limit": 1}

Updates = Iterator[dict]  # of components


@dataclass
class Session:
    """What one visitor has open. `name` is the image's file, which keys the seed; `uploads` are files not read yet."""

    image: Image.Image | None = None
    name: str = ""
    example: dict | None = None
    states: list[State] = field(default_factory=list)
    painter: Painter | None = None
    stop: bool = False
    uploads: list[str] = field(default_factory=list)

    @property
    def truth(self) -> str | None:
        return self.example["report"] if self.example else None


class Sessions(OrderedDict):
    """Sessions by the hash that Gradio gives each open page; the one that was used longest ago makes room."""

    def of(self, request: gr.Request) -> Session:
        session = self.setdefault(request.session_hash, Session())
        self.move_to_end(request.session_hash)
        while len(self) > MAX_SESSIONS:
            self.close(next(iter(self)))
        return session

    def close(self, key: str) -> None:
        session = self.pop(key, Session())
        session.stop = True
        for path in session.uploads:
            remove(path)


class Page:
    """Builds the page of a model and answers its events.

    `examples` are records of an annotation with the `path` of their image and a `title`; `decoding` is that of the
    settings at first.
    """

    def __init__(self, writer: ReportWriter, model_name: str, examples: list[dict], decoding: Decoding):
        self.writer, self.model_name, self.examples = writer, model_name, examples
        self.decoding, self.sessions = decoding, Sessions()

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title="LLaDA-V-Qwen", analytics_enabled=False, delete_cache=(60, 900)) as blocks:
            name = f"<span>model {escape(self.model_name)}</span>"
            gr.HTML(f"<h1>LLaDA-V-Qwen</h1>{name}<strong id='notice'>{NOTICE}</strong>", elem_id="title")
            with gr.Tab("One image"), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._inputs()
                with gr.Column(scale=3, min_width=300):
                    self._outputs()
            with gr.Tab("Many images"):
                self._many_images()
            if self.examples:
                blocks.load(self.choose, self.example, self.chosen, **QUIET)
            blocks.unload(self.leave)
        return blocks

    def _inputs(self) -> None:
        titles = [(example["title"], number) for number, example in enumerate(self.examples)]
        self.example = gr.Dropdown(titles, label="Example", visible=bool(titles), elem_id="example")
        self.upload = gr.File(label="or one of yours", height=150, elem_id="upload")
        self.preview = gr.HTML(elem_id="preview")
        first, *others = (gr.Textbox(label=name.capitalize(), max_lines=4, render=False) for name in CONTEXT_FIELDS)
        self.context = [first, *others]
        first.render()
        with gr.Accordion("More clinical context", open=False):
            for box in others:
                box.render()
        with gr.Row():
            self.write_button = gr.Button("Write", variant="primary", elem_id="write")
            gr.Button("Stop", elem_id="stop").click(self.stop, queue=False, **QUIET)
        with gr.Accordion("Settings", open=False, elem_id="settings"), gr.Row():
            self.settings = self._settings()
        self.values = [*self.context, *self.settings.values()]
        self.chosen = [self.preview, self.example, self.upload, *self.context]
        self.example.input(self.choose, self.example, self.chosen, **QUIET)
        self.upload.upload(self.take, [self.upload, *self.context], self.chosen, **QUIET)

    def _settings(self) -> dict[str, gr.components.Component]:
        def number(name: str, value: float, info: str = "", **more) -> gr.Number:
            return gr.Number(value, label=name, info=info or HELP[name], elem_id=name, min_width=200, **more)

        whole, at_first = {"precision": 0, "minimum": 0}, self.decoding
        threshold, steps = at_first.threshold or 0, at_first.gen_steps or 0
        return {
            "threshold": number("threshold", threshold, f"{HELP['threshold']}; 0: no threshold", step=0.05),
            "gen_steps": number("gen_steps", steps, "denoising steps over the canvas; 0: one a token", **whole),
            "gen_length": number("gen_length", at_first.gen_length, **whole),
            "cfg_scale": number("cfg_scale", at_first.cfg_scale, step=0.5),
            "cfg_against": gr.Dropdown(CFG_AGAINST, label="cfg_against", info=HELP["cfg_against"], min_width=200),
            "temperature": number("temperature", at_first.temperature, step=0.1),
            "seed": number("seed", 0, "of temperature and random remasking", precision=0),
            "target": gr.Dropdown(TARGETS, label="target", info="what the model was trained to write", min_width=200),
            "blank_length": number("blank_length", BLANK_LENGTH, "most tokens of a blank that text follows", **whole),
            "pace": number("pace", 120, "milliseconds that a step stays in sight; the model waits", minimum=0),
        }

    def _outputs(self) -> None:
        self.status = gr.HTML(say("choose an image and press Write"), elem_id="status")
        self.canvas = gr.HTML(elem_id="canvas", min_height=120)
        gr.HTML(legend())
        self.slider = gr.Slider(1, 2, 1, step=1, label="Step", visible=False, elem_id="step")
        self.findings = gr.HTML(elem_id="findings")
        self.saved = gr.HTML(elem_id="saved")
        self.draft, self.changes = gr.State((0, [])), gr.HTML(elem_id="changes", render=False)
        self.written = [self.canvas, self.slider, self.findings, self.saved, self.draft, self.changes]
        gr.render(self.draft, triggers=[self.draft.change], show_progress="hidden")(self._editor)
        self.changes.render()
        self.compare_button = gr.Button("Is it looking? Write for a blank and another image too", elem_id="compare")
        self.compared = gr.HTML(elem_id="compared")
        self.slider.input(self.look_back, self.slider, self.canvas, trigger_mode="always_last", **QUIET)
        self._press(self.write_button, self.write, self.values, [*self.written, self.compared], self.status)
        self._press(self.compare_button, self.compare, self.values, [self.compared], self.status)

    def _editor(self, draft: tuple[int, list[str]]) -> None:
        """A row for each sentence of the report, in which it can be edited, locked, blanked or struck out."""
        if not draft[1]:
            return
        gr.HTML("<h2>Edit and fill</h2><p>What is locked stays; the model writes blanks, also ____ in a text.</p>")
        rows = []
        for number, sentence in enumerate(draft[1], start=1):
            with gr.Row(elem_classes="sentence"):
                lines, more = 1 + len(sentence) // 45, {"interactive": True, "min_width": 300}
                rows.append(gr.Textbox(sentence, lines=lines, label=f"Sentence {number}", **more))
                rows.append(gr.Radio(texts.CHOICES, value="lock", label=f"What becomes of {number}", **more))
        fill = gr.Button("Fill the blanks", elem_id="fill")

        def fill_in(session: Session, *values) -> Updates:
            edited = list(zip(values[: len(rows) : 2], values[1 : len(rows) : 2], strict=True))
            return self._denoise(session, values[len(rows) :], edited)

        self._press(fill, fill_in, [*rows, *self.values], self.written, self.status)

    def _many_images(self) -> None:
        gr.HTML(f"<p>Up to {MAX_BATCH} images; context and settings are those of the other tab.</p>")
        self.files = gr.File(label="Images", file_count="multiple", height=150, elem_id="files")
        with gr.Row():
            start = gr.Button("Write all", variant="primary", elem_id="write_all")
            gr.Button("Stop").click(self.stop, queue=False, **QUIET)
        self.progress, self.table = gr.HTML(elem_id="progress"), gr.HTML(elem_id="table")
        self.files.upload(self.remember, self.files, None, **QUIET)
        self._press(start, self.write_all, [self.files, *self.values], [self.table, self.files], self.progress)

    def _press(self, button: gr.Button, function, inputs: list, outputs: list, status: gr.HTML) -> None:
        """`function` (session, *values), which yields updates, runs when the button is pressed and it is its turn."""

        def arm(request: gr.Request):
            self.sessions.of(request).stop = False
            return gr.update(interactive=False)

        def run(request: gr.Request, *values):
            try:
                yield from function(self.sessions.of(request), *values)
            except ValueError as error:
                yield {status: say(f"{error}", "alert")}
            except Exception:
                traceback.print_exc(file=sys.stderr)
                yield {status: say("something went wrong here; the terminal of the server says what", "alert")}
            yield {button: gr.update(interactive=True)}

        armed = button.click(arm, None, button, queue=False, **QUIET)
        armed.then(run, inputs, [button, status, *outputs], show_progress_on=status, **MODEL)

    # What is done when something is pressed

    def choose(self, request: gr.Request, number: int) -> dict:
        """An example takes the place of the image."""
        session, example = self.sessions.of(request), self.examples[number]
        session.image, session.name, session.example = load_image(example["path"]), example["path"].name, example
        context = [gr.update(value=example.get(name) or "") for name in CONTEXT_FIELDS]
        caption = f"Example {example['title']}. Its true report is known."
        return dict(zip(self.chosen, [_figure(session.image, caption), number, None, *context], strict=True))

    def take(self, request: gr.Request, path: str, *context: str) -> dict:
        """An upload takes the place of the image, also if it cannot be read; an example's context goes with it."""
        session = self.sessions.of(request)
        before = session.example or {}
        session.image, session.example, session.name = None, None, Path(path).name
        try:
            session.image = take_image(path)
            shown = _figure(session.image, f"Yours: {session.name}")
        except ValueError as error:
            shown = say(f"{error}", "alert")
        kept = ["" if text == before.get(name) else text for name, text in zip(CONTEXT_FIELDS, context, strict=True)]
        return dict(zip(self.chosen, [shown, None, None, *kept], strict=True))

    def leave(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)

    def remember(self, request: gr.Request, paths: list[str]) -> None:
        self.sessions.of(request).uploads += paths

    def stop(self, request: gr.Request) -> None:
        self.sessions.of(request).stop = True

    def look_back(self, request: gr.Request, step: int) -> str:
        session = self.sessions.of(request)
        states = [None, *session.states]
        return session.painter.html(states[step], states[step - 1]) if 1 <= step < len(states) else gr.skip()

    def write(self, session: Session, *values) -> Updates:
        yield {self.compared: ""}
        yield from self._denoise(session, values)

    def compare(self, session: Session, *values) -> Updates:
        """The same report for the image, a blank one, and an example with other findings."""
        settings, arguments, question = self._asked(values)
        requests = [self._request(session, question, settings)]
        others = {"a blank image": Image.new("RGB", session.image.size, (127, 127, 127))}
        known = texts.findings_of(session.truth or "")
        for other in [each for each in self.examples if texts.findings_of(each["report"]) != known][:1]:
            others[f"example {other['title'].partition(':')[0]}"] = load_image(other["path"])
        requests += [Request([image], question, requests[0].seed) for image in others.values()]
        yield {self.status: say(f"writing {len(requests)} reports")}
        reports = [report.text for report in self.writer.write(requests, **arguments)]
        found = [texts.findings_of(report) for report in reports]
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
        settings, arguments, question = self._asked(values)

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
            page = texts.reports_page(rows, question.splitlines()[-1], NOTICE, STYLE)
            link = _link("Save reports.html", "reports.html", "text/html", page)
            said = f"{sum('report' in row for row in rows)} reports of {len(paths)} images"
            yield {self.progress: say(said), self.table: link + texts.reports_table(rows), self.files: None}
        finally:
            for path in paths:
                remove(path)

    def _asked(self, values: tuple) -> tuple[dict, dict, str]:
        """The settings, those of them that are the writer's arguments, and the question, of what stands on the page."""
        context = dict(zip(CONTEXT_FIELDS, values[: len(CONTEXT_FIELDS)], strict=True))
        settings = dict(zip(self.settings, values[len(CONTEXT_FIELDS) :], strict=True))
        settings["seed"] = settings["seed"] or 0
        arguments = {name: settings[name] for name in HELP if settings.get(name) is not None}
        # What stands on the page holds, not the model's own pace: 0 is no threshold, and one token a step.
        arguments |= {name: settings[name] or None for name in ("threshold", "gen_steps")}
        return settings, arguments, clinical_prompt(context | {"target": settings["target"]})

    def _request(self, session: Session, question: str, settings: dict, draft: str = "") -> Request:
        if session.image is None:
            raise ValueError("there is no image: choose an example, or give one of yours")
        return Request([session.image], question, seed_of(settings["seed"], session.name), draft, session.name)

    def _denoise(self, session: Session, values: tuple, edited: list[tuple[str, str]] | None = None) -> Updates:
        """The page while the model writes, step by step, and when it is done or stopped.

        `edited` are the sentences of a draft and what becomes of each.
        """
        settings, arguments, question = self._asked(values)
        request = self._request(session, question, settings, texts.template(edited) if edited else "")
        arguments["blank_length"] = settings["blank_length"] or BLANK_LENGTH
        decoding = self.writer.parse(arguments).decoding
        painter = Painter(self.writer.tokenizer, self.writer.diffusion.stop_token_ids, decoding.block_length)
        session.painter, session.states, report, seconds, before = painter, [], None, 0.0, None
        steps = self.writer.denoise([request], **arguments)
        yield {self.slider: gr.update(visible=False), self.findings: "", self.saved: "", self.changes: ""}
        while report is None and not session.stop:
            started = time.perf_counter()
            try:
                state = State.of(next(steps))
            except StopIteration as end:
                (report,) = end.value
            seconds += time.perf_counter() - started
            if report is None:
                session.states.append(state)
                pace = painter.pace(state, len(session.states))
                yield {self.canvas: painter.html(state, before), self.status: say(f"{pace}, {seconds:.2f} s")}
                before = state
                time.sleep((settings["pace"] or 0) / 1000)
        count = len(session.states)
        yield {self.slider: gr.update(maximum=max(2, count), value=count, visible=count > 1)}
        if report is None:
            yield {self.status: say(f"stopped after {count} steps")}
            return
        yield self._report(session, report, seconds, request, asdict(decoding) | settings, edited)

    def _report(self, session, report: Report, seconds: float, request: Request, settings: dict, edited) -> dict:
        """The page when a report is done."""
        record = {"model": self.model_name, "prompt": request.question, "template": request.template}
        record |= {"image_sha256": hashlib.sha256(session.image.tobytes()).hexdigest(), "request_seed": request.seed}
        record |= {"settings": settings, "seconds": round(seconds, 3), **asdict(report), "truth": session.truth}
        truth = f"<details><summary>The true report</summary><p>{escape(session.truth or '')}</p></details>"
        signs = "" if session.truth is None else f" ({texts.SIGNS_EXPLAINED})"
        found = f"<h2>Findings{signs}</h2>{texts.findings_html(report.text, session.truth)}"
        rate = f"{tokens_per_step([report]):.1f} tokens per step"
        was = " ".join(text for text, choice in edited or [] if choice != "strike out")
        return {
            self.status: say(f"{report.tokens} tokens in {report.steps} steps ({rate}), {seconds:.2f} s of the model"),
            self.findings: found + (truth if session.truth is not None else ""),
            self.saved: _link("Save settings and report", "report.json", "application/json", json.dumps(record)),
            self.draft: (time.monotonic_ns(), texts.split(report.text)[:MAX_SENTENCES]),
            self.changes: f"<h2>What the model changed</h2>{texts.changes_html(was, report.text)}" if edited else "",
        }


def say(text: str, kind: str = "status") -> str:
    """A line for the visitor; `alert` is what went wrong."""
    return f'<p class="say {kind}" role="{kind}">{escape(text)}</p>'


def _figure(image: Image.Image, caption: str, side: int = SHOWN_PX) -> str:
    return f'<figure><img alt="" src="{jpeg_uri(image, side)}"><figcaption>{escape(caption)}</figcaption></figure>'


def _link(text: str, name: str, kind: str, content: str) -> str:
    return f'<p><a download="{name}" href="{data_uri(kind, content.encode())}">{text}</a></p>'
