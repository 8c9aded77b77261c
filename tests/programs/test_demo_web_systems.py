"""demo_web.py on models of dllm and diffa in a real browser: a tab for prompts, a tab for clips."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffa.conversation import TRANSCRIBE
from diffa.data.audio import read_audio
from diffa.inference import SpeechWriter
from dllm.inference.command_line import seed_of
from dllm.inference.text import TextRequest
from dllm.inference.writer import Request
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.pipelines.text import load_writer
from oracles.sounds import tone, write_wav
from oracles.tiny import CHECKOUT, widen
from oracles.web import (
    CHROMIUM,
    HOSTILE,
    chromium,
    files_left,
    saved,
    served,
    set_,
    visits,
    wait,
    watch,
    write,
    written,
)

PROMPT = "Name the organs of the chest."
LENGTH = 12

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "tiny<b>model"
    torch.manual_seed(0)
    save_language_model(str(folder), train_tokenizer([PROMPT], 320, "qwen3"), 64, 2, "qwen3")
    return str(folder)


@pytest.fixture(scope="module")
def text_server(text_model, tmp_path_factory):
    with served(tmp_path_factory.mktemp("tmp"), "--model_path", text_model) as found:
        yield found


@pytest.fixture
def open_text(text_server, browser):
    with visits(browser, text_server[0]) as open_:
        yield open_


@pytest.fixture(scope="module")
def audio_model(sounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio") / "model"
    tokenizer, model, extractor = sounds.build()
    for part in (tokenizer, widen(model), extractor):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def audio_server(audio_model, tmp_path_factory):
    with served(tmp_path_factory.mktemp("tmp"), "--model_path", audio_model) as found:
        yield found


@pytest.fixture
def open_audio(audio_server, browser):
    with visits(browser, audio_server[0]) as open_:
        yield open_


def upload(page, path: Path) -> None:
    page.set_input_files("#clip input[type=file]", path)


def test_a_prompt_is_answered_step_by_step_as_sample_py_does(open_text, text_model, monkeypatch, capsys):
    page = open_text()
    assert "tiny<b>model" in page.inner_text("#title") and "not for clinical use" in page.inner_text("#notice")
    assert page.get_by_role("tab").all_inner_texts() == ["Text"] and page.locator("input[type=file]").count() == 0
    page.click("#write")
    assert "type one" in wait(page, "there is no prompt")
    set_(page, gen_length=LENGTH, temperature=1, seed=3)
    page.fill("#prompt textarea", PROMPT)
    assert watch(page) >= 3
    request = TextRequest([], PROMPT, seed_of(3, "0"))
    (expected,) = load_writer(text_model).write([request], gen_length=LENGTH, temperature=1.0)
    assert written(page) == expected.text and saved(page)["prompt"] == PROMPT

    command = ["sample.py", "--model_name_or_path", text_model, "--prompt", PROMPT]
    monkeypatch.setattr(sys, "argv", [*command, "--gen_length", str(LENGTH), "--temperature", "1", "--seed", "3"])
    runpy.run_path(str(CHECKOUT / "examples/sample.py"), run_name="__main__")
    assert f"answer: {expected.text}\n" in capsys.readouterr().out


def test_a_template_stays_whatever_it_says_and_is_edited_and_filled_in(open_text):
    page = open_text(width=390, color_scheme="dark")
    set_(page, pace=0, gen_length=128)
    page.fill("#prompt textarea", HOSTILE)
    page.get_by_label("Template").fill("no blank")
    page.click("#write")
    assert "has no blank" in wait(page, "put ____")
    page.get_by_label("Template").fill(f"The heart. {HOSTILE} ____")
    assert write(page).startswith(f"The heart. {HOSTILE}") and HOSTILE in page.inner_text("#canvas")
    assert page.title() == "dLLM" and page.locator("#canvas script, .sentence script").count() == 0
    sync_api.expect(page.get_by_label("Sentence 1", exact=True)).to_have_value("The heart.")
    page.get_by_label("Sentence 1", exact=True).fill(f"The lungs ____ are. {HOSTILE}")
    for radio in page.get_by_role("radio", name="strike out").all()[1:]:
        radio.check()
    page.click("#fill")
    page.wait_for_selector("#changes ins")
    assert re.fullmatch(rf"The lungs.* are. {re.escape(HOSTILE)}", saved(page)["text"], re.DOTALL)
    assert HOSTILE in page.inner_text("#changes")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_a_clip_is_heard_and_leaves_no_file(open_audio, audio_server, audio_model, tmp_path):
    page = open_audio(width=390)
    assert page.get_by_role("tab").all_inner_texts() == ["Audio"]
    page.click("#write")
    assert "upload or record one" in wait(page, "there is no clip")
    clip = write_wav(tmp_path / "a clip.wav", tone(1.7), 44_100, channels=2)
    upload(page, clip)
    wait(page, "Yours: a clip.wav, 0.6 s", "#preview")
    page.wait_for_function("document.querySelector('#preview audio').duration > .6")
    assert files_left(audio_server[1]) == []
    set_(page, gen_length=LENGTH)
    assert watch(page) >= 3
    request = Request([read_audio(clip)], TRANSCRIBE, seed_of(0, clip.name))
    (expected,) = SpeechWriter(audio_model).write([request], gen_length=LENGTH)
    assert written(page) == expected.text and "input_sha256" in saved(page)
    page.fill("#question textarea", f"What? {HOSTILE}")
    write(page)
    assert saved(page)["prompt"] == f"What? {HOSTILE}"
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert files_left(audio_server[1]) == []


def test_what_cannot_be_heard_is_one_sentence(open_audio, audio_server, tmp_path):
    page, hostile = open_audio(), tmp_path / "<img src=x onerror=alert(1)>.wav"
    hostile.write_bytes(b"no sound")
    cases = {
        hostile: r"img src=x onerror=alert\(1\).wav is no audio file",  # Gradio takes < and > out of a name
        write_wav(tmp_path / "long.wav", tone(3.5)): "long.wav is longer than the 3 s that the model hears",
        write_wav(tmp_path / "short.wav", tone(0.02)): "too short to be heard",
    }
    for path, said in cases.items():
        upload(page, path)
        line = wait(page, said, "#preview")
        assert str(audio_server[1]) not in line and page.locator("#preview img").count() == 0
        page.click("#write")
        wait(page, "there is no clip")
        assert files_left(audio_server[1]) == []


def test_a_recording_is_heard_and_leaves_no_file(open_audio, audio_server):
    page = open_audio()
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(700)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    wait(page, r"Yours: .*, \d\.\d s", "#preview")
    assert files_left(audio_server[1]) == []
    set_(page, gen_length=LENGTH, pace=0)
    write(page)


def test_frozen_parts_that_are_gone_are_one_line(audio_model, tmp_path):
    command = [sys.executable, CHECKOUT / "demo_web.py", "--model_path", audio_model, "--whisper_path", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and f"{tmp_path} is incomplete" in errors[0] and "Traceback" not in done.stderr
