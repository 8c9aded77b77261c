"""The web page as it is seen, and what it costs, on the quickstart's model.

python benchmarks/web.py record              # docs/web.gif, from the real page in a headless Chromium
python benchmarks/web.py cost --repeats 40   # CPU time of a report with and without its steps shown
"""

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from dllm.inference.canvas_html import Painter, State
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.radiology.annotation import ANNOTATION, clinical_prompt

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "exp/quickstart"
THRESHOLD, WARM_UP = 0.7, 3
WIDTH, HEIGHT, SCALE, COLOURS = 1100, 820, 0.8, 96
STEP_MS, PAUSE_MS = 250, 1600  # of a frame


@contextmanager
def page_in_browser(port: int) -> Iterator:
    """The page of the quickstart's model, as Playwright's page."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, str(ROOT / "demo_web.py"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            address = server.stdout.readline().split()[0]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.set_default_timeout(180_000)
            page.goto(address)
            page.wait_for_selector("#preview img")
            yield page
            browser.close()
        finally:
            server.terminate()


class Recording:
    """Frames of a page; what looks like the frame before is left out."""

    def __init__(self, page):
        self.page, self.frames, self.durations = page, [], []

    def shoot(self, milliseconds: int, settle: int = 0) -> None:
        self.page.wait_for_timeout(settle)
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        image = image.resize((int(WIDTH * SCALE), int(HEIGHT * SCALE)), Image.Resampling.LANCZOS)
        if not self.frames or image.tobytes() != self.frames[-1].tobytes():
            self.frames.append(image)
            self.durations.append(milliseconds)

    def watch(self) -> None:
        """Frames of a report from its first step to its last."""
        while "s of the model" not in self.page.inner_text("#status"):
            self.shoot(STEP_MS)
        self.page.wait_for_selector("#fill")
        self.shoot(PAUSE_MS, settle=1500)

    def save(self, path: Path) -> None:
        first, *others = (image.quantize(COLOURS, dither=Image.Dither.NONE) for image in self.frames)
        first.save(path, save_all=True, append_images=others, duration=self.durations, loop=0, optimize=True)
        print(f"{path}: {len(self.frames)} frames, {path.stat().st_size / 1e6:.2f} MB")


def record(out: Path, port: int, study: int, draft: str, blank_length: int) -> None:
    """Writes a report of a test study, has its first sentence written from a draft, and compares with other images."""
    with page_in_browser(port) as page:
        recording = Recording(page)
        page.get_by_label("Example").click()
        page.get_by_role("option").nth(study).click()
        page.get_by_role("button", name="Settings").click()
        page.fill("#pace input", "1500")  # longer than a screenshot takes
        page.fill("#blank_length input", str(blank_length))
        page.get_by_role("button", name="Settings").click()
        page.evaluate("window.scrollTo(0, 0)")
        recording.shoot(PAUSE_MS, settle=1500)
        page.click("#write")
        recording.watch()
        page.get_by_label("Sentence 1", exact=True).fill(draft)
        recording.shoot(PAUSE_MS, settle=500)
        page.click("#fill")
        page.locator("#changes p").wait_for()
        page.locator("#changes").scroll_into_view_if_needed()
        recording.shoot(PAUSE_MS, settle=1500)
        page.click("#compare")
        page.wait_for_selector("#compared article")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        recording.shoot(2 * PAUSE_MS, settle=1000)
    recording.save(out)


def cost(repeats: int) -> None:
    """Plain reports and shown ones in turn, so that both see the same machine."""
    study = json.loads((QUICKSTART / "data" / ANNOTATION).read_text(encoding="utf-8"))["test"][0]
    request = Request([load_image(QUICKSTART / "data/images" / study["image_path"][0])], clinical_prompt(study))
    writer = ReportWriter(str(QUICKSTART / "distilled"))
    painter = Painter(writer.tokenizer, writer.diffusion.stop_token_ids, writer.diffusion.block_length)

    def plain() -> None:
        writer.write([request], threshold=THRESHOLD)

    def shown() -> None:
        before = None
        for number, step in enumerate(writer.denoise([request], threshold=THRESHOLD), start=1):
            state = State.of(step)
            painter.html(state, before)
            painter.pace(state, number)
            before = state

    seconds = {plain: [], shown: []}
    for _ in range(WARM_UP + repeats):
        for function, taken in seconds.items():
            start = time.process_time()
            function()
            taken.append(time.process_time() - start)
    bare, full = (statistics.median(taken[WARM_UP:]) for taken in seconds.values())
    print(f"CPU seconds of a report: {bare:.4f}; with its steps shown {full:.4f} ({full / bare - 1:+.1%})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "cost"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs/web.gif", help="of record")
    parser.add_argument("--study", type=int, default=2, help="of record: which test study, from 0")
    parser.add_argument("--draft", default="There is a left ____", help="of record: first sentence, to be filled in")
    parser.add_argument("--blank_length", type=int, default=3, help="of record: tokens of the draft's blank")
    parser.add_argument("--port", type=int, default=7869, help="of record")
    parser.add_argument("--repeats", type=int, default=40, help="of cost")
    args = parser.parse_args()
    if args.what == "record":
        record(args.out, args.port, args.study, args.draft, args.blank_length)
    else:
        cost(args.repeats)


if __name__ == "__main__":
    main()
