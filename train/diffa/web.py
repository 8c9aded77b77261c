"""The page of a model that listens."""

import io
from html import escape

import gradio as gr
import numpy as np

from diffa.constants import SAMPLING_RATE
from diffa.conversation import TRANSCRIBE
from diffa.data.audio import read_audio, write_wav
from dllm.inference.command_line import seed_of
from dllm.inference.writer import Request
from dllm.web.page import QUIET, Page, Session
from dllm.web.uploads import data_uri, take


class SpeechPage(Page):
    """A clip, uploaded or recorded, and a question about it."""

    title, tab, product, hint = "DIFFA", "Audio", "answer", "give a clip, or record one, and press Write"

    def inputs(self) -> list[gr.components.Component]:
        sources = {"sources": ["upload", "microphone"], "type": "filepath", "editable": False, "buttons": []}
        clip = gr.Audio(label="A clip, uploaded or recorded", elem_id="clip", **sources)
        preview = gr.HTML(elem_id="preview")
        for event in (clip.upload, clip.stop_recording):
            event(self.take, clip, [clip, preview], **QUIET)
        return [gr.Textbox(TRANSCRIBE, label="Question", max_lines=4, elem_id="question")]

    def take(self, request: gr.Request, path: str) -> tuple[None, str]:
        """An upload or a recording takes the place of the clip."""
        session = self.sessions.of(request)
        if failed := session.take(path, lambda path: take(path, self.read)):
            return None, failed
        caption = f"Yours: {session.name}, {len(session.given) / SAMPLING_RATE:.1f} s, as the model hears it"
        return None, f"<p>{escape(caption)}</p><audio controls src='{wav_uri(session.given)}'></audio>"

    def read(self, path: str) -> np.ndarray:
        most = self.writer.preprocessor.max_samples
        clip = read_audio(path, max_samples=most + 1)
        if len(clip) > most:
            raise ValueError(f"{path} is longer than the {most / SAMPLING_RATE:g} s that the model hears; shorten it")
        self.writer.preprocessor.num_tokens(len(clip))  # or too short
        return clip

    def request(self, session: Session, given: tuple, settings: dict, template: str = "") -> Request:
        if session.given is None:
            raise ValueError("there is no clip: upload or record one")
        return Request([session.given], given[0], seed_of(settings["seed"], session.name), template, session.name)


def wav_uri(clip: np.ndarray) -> str:
    """The clip as a data URI."""
    file = io.BytesIO()
    write_wav(file, clip.clip(-1, 1))
    return data_uri("audio/wav", file.getvalue())
