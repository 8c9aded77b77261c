"""The page of a text model: a prompt on the left, the text as it denoises on the right, then edited and filled in.

Pages of models that are given more than text are made of it.

What a visitor gives lives in a `Session` in memory until the page is closed. All that uses the model shares one
concurrency id, so that there is one generation at a time and the others queue.
"""

import hashlib
import json
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from dllm.core.decoding import CFG_AGAINST, Decoding
from dllm.core.patterns import SHIFTED
from dllm.inference.canvas_html import Painter, State, legend
from dllm.inference.command_line import seed_of
from dllm.inference.templates import BLANK_LENGTH
from dllm.inference.text import TextRequest
from dllm.inference.writer import Request, Response, Writer, tokens_per_step
from dllm.web import texts
from dllm.web.texts import link, say
from dllm.web.uploads import remove

NOTICE = "For research, not for clinical use."
STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
MAX_SESSIONS, MAX_SENTENCES = 20, 40
HELP = {each.name: each.metadata["help"] for each in fields(Decoding)}
QUIET = {"api_visibility": "private", "show_progress": "hidden"}
MODEL = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "model", "concurrency_limit": 1}

Updates = Iterator[dict]  # of components


@dataclass
class Session:
    """What one visitor has open. `given` is what the model gets beside text, and `name` its file, which keys the seed;
    `example` is the record that it is of, and `truth` what should be written; `uploads` are files not read yet.
    """

    given: Any = None
    name: str = ""
    example: dict = field(default_factory=dict)
    truth: str | None = None
    states: list[State] = field(default_factory=list)
    painter: Painter | None = None
    stop: bool = False
    uploads: list[str] = field(default_factory=list)

    def take(self, path: str, read: Callable) -> str:
        """What `read` makes of an upload takes the place of what was given. If it cannot be read, that is gone all the
        same, and a line for the visitor is returned.
        """
        self.given, self.example, self.truth, self.name = None, {}, None, Path(path).name
        try:
            self.given = read(path)
        except ValueError as error:
            return say(f"{error}", "alert")
        return ""


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
    """Builds the page of a model and answers its events. `at_first` are arguments of the writer, that the settings have
    at first in the place of the model's own.

    A subclass says what the model is given (`inputs`) and how that becomes a request, what it writes (`product`), and
    what else there is to see.
    """

    title, tab, product, hint = "dLLM", "Text", "text", "type a prompt and press Write"
    style, split = STYLE, staticmethod(texts.split)

    def __init__(self, writer: Writer, model_name: str, at_first: dict):
        self.writer, self.model_name, self.sessions = writer, model_name, Sessions()
        self.decoding = writer.parse(at_first).decoding

    def inputs(self) -> list[gr.components.Component]:
        """Builds what the model is given; returns the components whose values `request` is called with."""
        prompt = gr.Textbox(label="Prompt", lines=4, max_lines=12, elem_id="prompt")
        template = gr.Textbox(label="Template: it stays, and the model writes where ____ stands", max_lines=8)
        return [prompt, template, gr.Textbox(label="System prompt; empty: the model's own", max_lines=4)]

    def request(self, session: Session, given: tuple, settings: dict, template: str = "") -> Request:
        """The request of what stands on the page. Raises ValueError, as a sentence, if something is missing."""
        prompt, typed, system = given
        if not prompt.strip():
            raise ValueError("there is no prompt: type one")
        # The name, and so the seed, of the one prompt of examples/sample.py.
        return TextRequest([], prompt, seed_of(settings["seed"], "0"), template or typed, "the prompt", system or None)

    def remarks(self, session: Session, text: str) -> str:
        """HTML below a text that is done."""
        return ""

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title=self.title, analytics_enabled=False, delete_cache=(60, 900)) as blocks:
            name = f"<span>model {escape(self.model_name)}</span>"
            gr.HTML(f"<h1>{self.title}</h1>{name}<strong id='notice'>{NOTICE}</strong>", elem_id="title")
            with gr.Tab(self.tab), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self.given = self.inputs()
                    with gr.Row():
                        write = gr.Button("Write", variant="primary", elem_id="write")
                        gr.Button("Stop", elem_id="stop").click(self.stop, queue=False, **QUIET)
                    with gr.Accordion("Settings", open=False, elem_id="settings"), gr.Row():
                        self.settings = self.build_settings()
                self.values = [*self.given, *self.settings.values()]
                with gr.Column(scale=3, min_width=300):
                    self.outputs()
                self.press(write, self.write, self.values, self.written, self.status)
            blocks.unload(self.leave)
        return blocks

    def build_settings(self) -> dict[str, gr.components.Component]:
        def number(name: str, value: float, info: str = "", **more) -> gr.Number:
            return gr.Number(value, label=name, info=info or HELP[name], elem_id=name, min_width=200, **more)

        whole, at_first = {"precision": 0, "minimum": 0}, self.decoding
        threshold, steps = at_first.threshold or 0, at_first.gen_steps or 0
        drafts = gr.Checkbox(at_first.speculative, label="speculative", info=HELP["speculative"], elem_id="speculative")
        drafts.visible = self.writer.diffusion.attention_pattern == SHIFTED
        return {
            "threshold": number("threshold", threshold, f"{HELP['threshold']}; 0: no threshold", step=0.05),
            "gen_steps": number("gen_steps", steps, "denoising steps over the canvas; 0: one a token", **whole),
            "speculative": drafts,
            "gen_length": number("gen_length", at_first.gen_length, **whole),
            "cfg_scale": number("cfg_scale", at_first.cfg_scale, step=0.5),
            "cfg_against": gr.Dropdown(CFG_AGAINST, label="cfg_against", info=HELP["cfg_against"], min_width=200),
            "temperature": number("temperature", at_first.temperature, step=0.1),
            "seed": number("seed", 0, "of temperature and random remasking", precision=0),
            "blank_length": number("blank_length", BLANK_LENGTH, "most tokens of a blank that text follows", **whole),
            "pace": number("pace", 120, "milliseconds that a step stays in sight; the model waits", minimum=0),
        }

    def outputs(self) -> None:
        """Builds where the text is written and edited. `written` are the components that a new one changes."""
        self.status = gr.HTML(say(self.hint), elem_id="status")
        self.canvas = gr.HTML(elem_id="canvas", min_height=120)
        gr.HTML(legend())
        self.slider = gr.Slider(1, 2, 1, step=1, label="Step", visible=False, elem_id="step")
        self.remarked, self.saved = gr.HTML(elem_id="remarks"), gr.HTML(elem_id="saved")
        self.draft, self.changes = gr.State((0, [])), gr.HTML(elem_id="changes", render=False)
        self.written = [self.canvas, self.slider, self.remarked, self.saved, self.draft, self.changes]
        gr.render(self.draft, triggers=[self.draft.change], show_progress="hidden")(self._editor)
        self.changes.render()
        self.slider.input(self.look_back, self.slider, self.canvas, trigger_mode="always_last", **QUIET)

    def _editor(self, draft: tuple[int, list[str]]) -> None:
        """A row for each sentence of the text, in which it can be edited, locked, blanked or struck out."""
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
            return self.write(session, *values[len(rows) :], edited=edited)

        self.press(fill, fill_in, [*rows, *self.values], self.written, self.status)

    def press(self, button: gr.Button, function, inputs: list, outputs: list, status: gr.HTML) -> None:
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

    def leave(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)

    def stop(self, request: gr.Request) -> None:
        self.sessions.of(request).stop = True

    def look_back(self, request: gr.Request, step: int) -> str:
        session = self.sessions.of(request)
        states = [None, *session.states]
        return session.painter.html(states[step], states[step - 1]) if 1 <= step < len(states) else gr.skip()

    def asked(self, values: tuple) -> tuple[tuple, dict, dict]:
        """What stands on the page: what is given, the settings, those of them that are the writer's arguments."""
        given, settings = values[: len(self.given)], values[len(self.given) :]
        settings = dict(zip(self.settings, settings, strict=True))
        settings["seed"] = settings["seed"] or 0
        arguments = {name: settings[name] for name in HELP if settings.get(name) is not None}
        # What stands on the page holds, not the model's own pace: 0 is no threshold, and one token a step.
        arguments |= {name: settings[name] or None for name in ("threshold", "gen_steps")}
        return given, settings, arguments

    def write(self, session: Session, *values, edited: list[tuple[str, str]] | None = None) -> Updates:
        """The page while the model writes, step by step, and when it is done or stopped.

        `edited` are the sentences of a draft and what becomes of each.
        """
        given, settings, arguments = self.asked(values)
        request = self.request(session, given, settings, texts.template(edited) if edited else "")
        arguments["blank_length"] = settings["blank_length"] or BLANK_LENGTH
        decoding = self.writer.parse(arguments).decoding
        painter = Painter(self.writer.tokenizer, self.writer.diffusion.stop_token_ids, decoding.block_length)
        session.painter, session.states, response, seconds, before = painter, [], None, 0.0, None
        steps = self.writer.denoise([request], **arguments)
        yield {self.slider: gr.update(visible=False), self.remarked: "", self.saved: "", self.changes: ""}
        while response is None and not session.stop:
            started = time.perf_counter()
            try:
                state = State.of(next(steps))
            except StopIteration as end:
                (response,) = end.value
            seconds += time.perf_counter() - started
            if response is None:
                session.states.append(state)
                pace = painter.pace(state, len(session.states))
                yield {self.canvas: painter.html(state, before), self.status: say(f"{pace}, {seconds:.2f} s")}
                before = state
                time.sleep((settings["pace"] or 0) / 1000)
        count = len(session.states)
        yield {self.slider: gr.update(maximum=max(2, count), value=count, visible=count > 1)}
        if response is None:
            yield {self.status: say(f"stopped after {count} steps")}
            return
        yield self._done(session, response, seconds, request, asdict(decoding) | settings, edited)

    def _done(self, session, response: Response, seconds: float, request: Request, settings: dict, edited) -> dict:
        """The page when a text is done."""
        record = {"model": self.model_name, "prompt": request.question, "template": request.template}
        record |= {"settings": settings, "request_seed": request.seed, "seconds": round(seconds, 3)}
        record |= asdict(response) | {"truth": session.truth}
        if session.given is not None:
            record["input_sha256"] = hashlib.sha256(session.given.tobytes()).hexdigest()
        told = f"{response.tokens} tokens in {response.steps} steps ({tokens_per_step([response]):.1f} tokens per step)"
        was = " ".join(text for text, choice in edited or [] if choice != "strike out")
        saved = f"Save settings and {self.product}", f"{self.product}.json", "application/json", json.dumps(record)
        return {
            self.status: say(f"{told}, {seconds:.2f} s of the model"),
            self.remarked: self.remarks(session, response.text),
            self.saved: link(*saved),
            self.draft: (time.monotonic_ns(), self.split(response.text)[:MAX_SENTENCES]),
            self.changes: f"<h2>What the model changed</h2>{texts.changes_html(was, response.text)}" if edited else "",
        }
