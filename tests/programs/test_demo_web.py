"""demo_web.py in a real browser, on a tiny random model: one server for all tests, a session of its own for each."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from html import escape
from pathlib import Path

import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

import generate_demo
from dllm.inference.command_line import seed_of
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.radiology.annotation import ANNOTATION, clinical_prompt
from llava.radiology.release import CONTEXT_FIELDS
from oracles.tiny import widen
from oracles.web import (
    CHROMIUM,
    HOSTILE,
    canvas,
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

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"gen_length": 48, "threshold": 0.3}

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")


@pytest.fixture(scope="module")
def model_path(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "tiny<b>model"
    parts = world.build(mm_resampler_type="none")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def writer(model_path):
    return ReportWriter(str(model_path))


@pytest.fixture(scope="module")
def records(world):
    return json.loads((world.images.parent / ANNOTATION).read_text())["test"]


@pytest.fixture(scope="module")
def server(model_path, world, tmp_path_factory):
    """What `served` yields."""
    arguments = ("--model_path", model_path, "--annotation", world.images.parent / ANNOTATION)
    arguments += ("--images", world.images, "--threshold", WRITTEN["threshold"])
    with served(tmp_path_factory.mktemp("tmp"), *arguments) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(server, browser):
    with visits(browser, server[0]) as open_:
        yield partial(open_, shown="#preview img")


def request_of(world, record: dict, seed: int = 0) -> Request:
    image = world.images / record["image_path"][0]
    return Request([load_image(image)], clinical_prompt(record), seed)


def test_every_step_is_shown_as_on_step_sees_it_and_the_last_is_the_report_of_generate_demo(
    open_page, world, writer, records, model_path, monkeypatch, capsys
):
    page = open_page()
    assert "For research, not for clinical use." in page.inner_text("#notice")
    assert "tiny<b>model" in page.inner_text("#title")
    assert watch(page) >= 3

    states, stops = [], writer.diffusion.stop_token_ids

    def on_step(ids, todo):
        ids, todo = ids[0].tolist(), todo[0].tolist()
        end = next((n for n, token in enumerate(ids) if not todo[n] and token in stops), len(ids))
        states.append((["|" if todo[n] else writer.tokenizer.decode([ids[n]]) for n in range(end)], sum(todo[:end])))

    (expected,) = writer.write([request_of(world, records[0])], on_step=on_step, **WRITTEN)
    assert written(page) == expected.text
    assert f"{expected.tokens} tokens in {expected.steps} steps" in page.inner_text("#status")
    slider = page.get_by_role("slider")
    assert slider.get_attribute("max") == str(len(states)) and len(states) == expected.steps
    slider.focus()
    for number, (tokens, masked) in list(enumerate(states, start=1))[::-1]:
        page.wait_for_function("n => document.querySelectorAll('#canvas .masked').length == n", arg=masked)
        plain = "".join(tokens).replace("|", "")
        if "\ufffd" not in plain:
            assert page.text_content("#canvas .canvas").rstrip("■") == plain, number
        page.keyboard.press("ArrowLeft")

    film = world.images / records[0]["image_path"][0]
    context = [part for name in CONTEXT_FIELDS if records[0].get(name) for part in (f"--{name}", records[0][name])]
    arguments = ["--model_path", model_path, "--image", film, "--threshold", 0.3, *context]
    monkeypatch.setattr(sys, "argv", ["generate_demo.py", *map(str, arguments)])
    generate_demo.main()
    assert f"report: {expected.text}\n" in capsys.readouterr().out


def test_stop_stops_and_the_next_report_is_whole(open_page, world, writer, records):
    page = open_page()
    set_(page, pace=400)
    page.click("#write")
    wait(page, r"step \d+,")
    page.click("#stop")
    (expected,) = writer.write([request_of(world, records[0])], **WRITTEN)
    assert 0 < int(re.search(r"stopped after (\d+) steps", wait(page, "stopped"))[1]) < expected.steps
    assert canvas(page)[1] > 0
    set_(page, pace=0)
    assert write(page) == expected.text


def test_locked_text_stays_whatever_it_says_and_the_model_writes_the_blanks(open_page):
    page = open_page()
    set_(page, pace=0, gen_length=160)
    write(page)
    page.get_by_label("Sentence 1", exact=True).fill(f"The heart is normal. {HOSTILE} No change.")
    blanks = page.get_by_role("radio", name="blank")
    if blanks.count() > 1:
        blanks.nth(1).check()
    else:
        page.get_by_label("Sentence 1", exact=True).fill(f"The heart is normal. {HOSTILE} No change. ____")
    page.click("#fill")
    page.wait_for_selector("#changes ins")
    text = saved(page)["text"]
    assert text.startswith(f"The heart is normal. {HOSTILE} No change.") and HOSTILE in page.inner_text("#canvas")
    assert HOSTILE in page.inner_text("#changes") and page.title() == "LLaDA-V-Qwen"
    assert page.locator("#canvas .given").count() > 10 and page.locator("#canvas script, #changes script").count() == 0

    sync_api.expect(page.get_by_label("Sentence 1", exact=True)).to_have_value("The heart is normal.")
    page.get_by_role("radio", name="strike out").first.check()
    page.click("#fill")
    assert "nothing to fill" in wait(page, "blank a sentence")


def test_is_it_looking_shows_three_images_and_what_changes(open_page, world, writer, records):
    page = open_page()
    page.click("#compare")
    page.wait_for_selector("#compared article")
    columns = page.locator("#compared article")
    assert columns.count() == 3 and page.locator("#compared img").count() == 3
    shown = [column.split("\n") for column in columns.all_inner_texts()]
    (expected,) = writer.write([request_of(world, records[0])], **WRITTEN)
    assert expected.text.split() == " ".join(shown[0]).split()[2 : 2 + len(expected.text.split())]
    assert "a blank image" in shown[1][0] and "example" in shown[2][0]
    assert "Findings that change:" in wait(page, "Findings that change")


def test_uploads_are_described_as_generate_demo_does_and_leave_no_file(
    open_page, server, world, writer, records, tmp_path
):
    page, film = open_page(), tmp_path / "film 1.png"
    Image.open(world.images / records[1]["image_path"][0]).save(film)
    dicom = write_dicom(tmp_path / "film.dcm", film)
    set_(page, pace=0, temperature=1, seed=3)
    for path in (film, dicom):
        page.set_input_files("#upload input[type=file]", path)
        wait(page, f"Yours: {path.name}", "#preview")
        assert page.get_by_label("Indication").input_value() == "", "the context of the example went with it"
        page.get_by_label("Indication").fill("")
        seed = seed_of(3, path.name)
        request = Request([load_image(path)], clinical_prompt({}), seed)
        (expected,) = writer.write([request], temperature=1.0, **WRITTEN)
        assert write(page) == expected.text and "The true report" not in page.inner_text("#remarks")
    assert files_left(server[1]) == []

    broken = tmp_path / "<img src=x onerror=alert(1)>.png"
    broken.write_bytes(film.read_bytes()[:200])
    page.set_input_files("#upload input[type=file]", broken)
    said = wait(page, "truncated or damaged", "#preview")
    assert "Traceback" not in said and str(server[1]) not in said and page.locator("#preview img").count() == 0
    page.click("#write")
    assert "there is no image" in wait(page, "there is no image")


def write_dicom(path: Path, film: Path) -> Path:
    image, data = Image.open(film).convert("L"), Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Columns, data.Rows = image.size
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelData = 8, 8, 7, image.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def test_two_visitors_at_once_get_their_own_reports_and_see_their_place(open_page, world, writer, records):
    pages = [open_page(), open_page()]
    set_(pages[0], pace=200)
    set_(pages[1], pace=0)
    pages[1].get_by_label("Example").click()
    pages[1].get_by_role("option").nth(1).click()
    wait(pages[1], "Example 2", "#preview")
    pages[0].click("#write")
    wait(pages[0], r"step \d+,")
    pages[1].click("#write")
    assert re.search(r"queue: \d+", wait(pages[1], "queue"))
    for page, record in zip(pages, records, strict=False):
        wait(page, "s of the model")
        assert written(page) == writer.write([request_of(world, record)], **WRITTEN)[0].text


def test_many_images_give_a_table_and_a_page(open_page, world, writer, records, tmp_path):
    page = open_page()
    set_(page, pace=0)
    page.get_by_label("Indication").fill("cough")
    for number, record in enumerate(records[:2]):
        Image.open(world.images / record["image_path"][0]).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    page.get_by_role("tab", name="Many images").click()
    page.set_input_files("#files input[type=file]", sorted(tmp_path.glob("*.png")))
    page.locator("#files tr").nth(2).wait_for()
    page.click("#write_all")
    wait(page, "2 reports of 3 images", "#progress")
    html = saved(page, "#table a")
    question = clinical_prompt(records[0] | {"indication": "cough"})
    for number in (0, 1):
        request = Request([load_image(tmp_path / f"{number}.png")], question)
        text = writer.write([request], **WRITTEN)[0].text
        assert text in page.inner_text("#table")
        assert escape(text) in html
    assert "2.png: not an image file" in page.inner_text("#table") and "not for clinical use" in html
    assert "http" not in html


def test_the_keyboard_alone_can_drive_it_and_a_phone_shows_all_of_it(open_page):
    page = open_page(width=390, color_scheme="dark")
    set_(page, pace=0)
    page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "write":
            break
    page.keyboard.press("Enter")
    wait(page, "s of the model")
    written(page)
    assert page.evaluate("document.body.classList.contains('dark')")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    sync_api.expect(page.locator("#notice")).to_be_in_viewport()


def test_only_this_machine_is_served_and_nothing_is_fetched_for_a_visitor(server):
    def answer(path="", **headers):
        try:
            with urllib.request.urlopen(urllib.request.Request(server[0] + path, headers=headers)) as found:
                return found.status, found.headers
        except urllib.error.HTTPError as error:
            return error.code, error.headers

    status, headers = answer()
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert answer(Host="elsewhere.example")[0] == 400
    assert answer("gradio_api/file=https://example.com/x")[0] == 404
    assert answer(f"gradio_api/file={ROOT / 'README.md'}")[0] in (403, 404)
    config = json.loads(urllib.request.urlopen(server[0] + "config").read())
    assert config["analytics_enabled"] is False and config["run_history"] is False
    assert "public" not in {dependency["api_visibility"] for dependency in config["dependencies"]}


def test_a_stopped_server_leaves_nothing(server):
    """The last of this file: it ends the server."""
    assert [path.name.startswith("llada-v-qwen-web-") for path in server[1].iterdir()] == [True]
    server[2].send_signal(signal.SIGTERM)
    assert server[2].wait(timeout=60) == 0
    assert list(server[1].iterdir()) == []


def test_a_mistake_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "demo_web.py", "--model_path", tmp_path], capture_output=True, text=True
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "config.json is missing" in errors[0] and "Traceback" not in done.stderr
