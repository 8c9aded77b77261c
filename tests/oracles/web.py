"""demo_web.py as a process, and what a visitor does in a real browser."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "demo_web.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='x'</script> <|im_end|> ${7*7} {{7*7}} &amp;"
# Nobody is asked for the microphone, and it hears a beep every second.
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@contextmanager
def served(temporary: Path, *arguments) -> Iterator[tuple[str, Path, subprocess.Popen]]:
    """The address of the page, the folder of its temporary files, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, PROGRAM, "--port", port, "--device", "cpu", *arguments]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(map(str, command), env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line
            yield line.split()[0], temporary, process
        finally:
            process.kill()


@contextmanager
def chromium() -> Iterator:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visits(browser, address: str) -> Iterator[Callable]:
    """Opens the page as a new visitor. Whatever the page asks for comes from the server, and no script of it fails."""
    contexts, asked, faults = [], [], []

    def open_(width=1280, shown="#write", **more):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **more))
        contexts[-1].set_default_timeout(120_000)
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(address)
        page.wait_for_selector(shown)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert asked and [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []


def set_(page, **settings) -> None:
    """Changes settings that are folded away."""
    page.get_by_role("button", name="Settings").click()
    for name, value in settings.items():
        box = page.locator(f"#{name} input")
        while box.input_value() != str(value):  # what is typed while they unfold, on a busy machine, is lost
            box.fill(str(value))
            page.wait_for_timeout(300)
    page.get_by_role("button", name="Settings").click()


def wait(page, text: str, where: str = "#status") -> str:
    """Waits until there is such a text; returns all of it."""
    found = page.locator(where, has_text=re.compile(text))
    found.wait_for()
    return found.inner_text()


def write(page) -> str:
    """Presses Write and returns the text, once it is another result than the one before."""
    links = page.locator("#saved a")
    before = links.get_attribute("href") if links.count() else None
    page.click("#write")
    page.wait_for_function(
        "before => ![null, undefined, before].includes(document.querySelector('#saved a')?.getAttribute('href'))",
        arg=before,
    )
    wait(page, "s of the model")
    return written(page)


def watch(page) -> int:
    """Presses Write; the number of different states that were seen before the text was done."""
    page.click("#write")
    seen = set()
    while "s of the model" not in page.inner_text("#status"):
        seen.add(canvas(page) if page.locator("#canvas .canvas").count() else None)
    return len(seen - {None})


def written(page) -> str:
    page.wait_for_selector("#fill")
    return saved(page)["text"]


def saved(page, link: str = "#saved a") -> dict | str:
    """What the link to save holds."""
    content = base64.b64decode(page.get_attribute(link, "href").partition("base64,")[2]).decode()
    return json.loads(content) if link == "#saved a" else content


def canvas(page) -> tuple[str, int]:
    """The text on the canvas and the number of masked positions."""
    return page.inner_text("#canvas .canvas").rstrip("■"), page.locator("#canvas .masked").count()


def files_left(temporary: Path) -> list[Path]:
    """But for the lock and the empty files that Gradio makes."""
    return [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size]
