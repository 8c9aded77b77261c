"""The page of a run: what it counts and marks, that no text becomes markup, and that it needs nothing outside it."""

import base64
import io
import os
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from llava.radiology.findings import findings_of
from llava.radiology.labels import labels
from oracles.report_runs import write_run
from report_scores.page import IMAGE_PX, image_uri, read_run, write_page
from report_scores.results import score_run
from report_scores.scorer import METRICS, Scorer

GENERATED = ["Heart is normal. Small left effusion.", "Edema. Small left effusion.", 'A <b>"nodule"</b> & 2 < 3.']
SHUFFLED = ["Cardiomegaly.", "Pacemaker in place.", "Pneumonia."]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Reads a page into its elements and their words, tags of findings apart; refuses elements not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.words = [], [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        tags = [index for index in self.open if self.elements[index][1].get("class", "").startswith("tag ")]
        for index in tags or self.open:
            self.words[index] = self.words.get(index, "") + data

    def texts(self, tag: str, **attrs) -> list[str]:
        """The texts of the elements of a tag with these attributes."""
        required = {name.strip("_"): value for name, value in attrs.items()}
        indices = [
            index for index, (name, has) in enumerate(self.elements) if name == tag and required.items() <= has.items()
        ]
        return [" ".join(self.words.get(index, "").split()) for index in indices]


@pytest.fixture
def run(data, tmp_path):
    """A run over the three test studies, whose reports are those of conftest with the number of the image."""
    write_run(tmp_path / "run", {"model": GENERATED, "shuffled_images": SHUFFLED})
    return tmp_path / "run"


def written(run, read=labels) -> tuple[str, Reader]:
    write_page(run, read)
    text = (run / "reports.html").read_text(encoding="utf-8")
    return text, Reader(text)


def test_studies_come_worst_first_with_what_agrees_and_what_does_not(run):
    studies, _ = read_run(run, labels)
    assert [(study.number, study.errors) for study in studies] == [(3, 2), (1, 2), (2, 1)]
    assert studies[0].rouge_l < studies[1].rouge_l
    of = {study.number: study for study in studies}
    assert of[1].findings == [("missed", "No Finding"), ("invented", "Pleural Effusion")]
    assert of[2].findings == [("agree", "Pleural Effusion"), ("invented", "Edema")]
    assert of[3].findings == [("missed", "Support Devices"), ("invented", "Nodule")]


def test_the_findings_of_phantom_images_have_a_side(run):
    studies, _ = read_run(run, findings_of)
    found = {study.number: study.findings for study in studies}
    assert found[1] == [("invented", "effusion left")]
    assert found[2] == [("agree", "effusion left"), ("invented", "edema")]


def test_counts_stand_on_top(run):
    _, page = written(run)
    cells = iter(page.texts("td"))
    numbers = {name: [int(next(cells)) for _ in range(3)] for name in page.texts("th", scope="row")}
    assert numbers == {
        "Pleural Effusion": [1, 0, 1],
        "Edema": [0, 0, 1],
        "No Finding": [0, 1, 0],
        "Support Devices": [0, 1, 0],
        "Nodule": [0, 0, 1],
        "all": [1, 2, 3],
    }


def test_the_page_begins_with_scores_baselines_and_intervals(run):
    scores = score_run(run, Scorer(METRICS)).summary
    write_page(run, labels, scores)
    page = Reader((run / "reports.html").read_text(encoding="utf-8"))
    assert page.texts("title") == page.texts("h1") == ["Radiology reports by run"]
    kinds = [tag for tag, _ in page.elements]
    assert kinds.index("table") < kinds.index("article")
    head = page.texts("th")
    rows = [*scores["scores"], "gain from the image", "gain over constant_report"]
    assert head[: len(rows) + 1] == ["score", *rows] and {"shuffled_images", "constant_report", "nearest_image"} <= {
        *head
    }
    assert page.texts("td")[0].startswith(f"{scores['scores']['model']['BLEU_1']['value']:.3f}")
    assert scores["intervals"] in page.texts("p", class_="quiet")[0]


def test_the_report_for_another_image_is_shown_and_marked(run):
    _, page = written(run)
    assert page.texts("h3").count("With another study's image") == 3
    assert set(SHUFFLED) <= set(page.texts("mark", class_="invented"))


def test_the_sentence_of_a_finding_is_marked_and_tagged_with_a_sign(run):
    _, page = written(run)
    assert "Small left effusion." in page.texts("mark", class_="agree")
    assert page.texts("mark", class_="missed")[1:] == ["Pacemaker in place."]
    invented = [text for text in page.texts("mark", class_="invented")[1:] if text not in SHUFFLED]
    assert invented == ['A <b>"nodule"</b> & 2 < 3.', "Small left effusion.", "Edema."]
    assert {tag[0] for tag in page.texts("span", class_="tag invented")} == {"+"}
    assert {tag[0] for tag in page.texts("span", class_="tag missed")} == {"−"}
    assert {tag[0] for tag in page.texts("span", class_="tag agree")} == {"✓"}


def test_texts_are_shown_as_they_are(run):
    text, page = written(run)
    shown = page.texts("p", class_="text")
    assert {"Small left effusion. No pneumothorax. Image 1.", *GENERATED} <= set(shown)
    assert "<b>&#34;nodule" not in text and "&lt;b&gt;&#34;nodule&#34;&lt;/b&gt; &amp; 2 &lt; 3." in text


def test_the_page_needs_nothing_outside_it_and_images_are_small(run, data):
    image = Image.new("L", (1000, 500), 30)
    image.paste(255, (900, 400, 1000, 500))
    image.save(data / "images" / "test" / "study 0.png")
    text, page = written(run)
    sources = [attrs["src"] for tag, attrs in page.elements if tag == "img"]
    assert len(sources) == 3 and not re.search(r"https?:|url\(|<link|@import|src=(?!\"data:)", text)
    images = [Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources]
    assert sorted(image.size for image in images) == [(32, 32), (32, 32), (IMAGE_PX, IMAGE_PX // 2)]
    assert {image.getpixel((20, 20)) // 10 for image in images} == {1, 2, 3}


def test_an_image_that_cannot_be_read_is_counted(run, data, capsys):
    (data / "images" / "test" / "study 1.png").write_bytes(b"no image")
    assert image_uri(data / "images" / "test" / "study 1.png") is None
    assert write_page(run, labels).endswith("3 studies, 3 images, 1 not readable")
    text = (run / "reports.html").read_text(encoding="utf-8")
    assert "1 of 3 images cannot be read" in text and text.count("<img") == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_the_page_does_not_run_off_a_phone(run):
    sync_api = pytest.importorskip("playwright.sync_api")
    write_page(run, labels, score_run(run, Scorer(METRICS)).summary)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        phone.goto((run / "reports.html").as_uri())
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_script_sorts_and_filters_by_what_the_rows_say(run):
    text, page = written(run)
    names = re.findall(r'<option value="(\d+)">(.*?)</option>', text)
    rows = {attrs["data-number"]: attrs for tag, attrs in page.elements if tag == "article"}
    number = {name: index for index, name in names}
    assert rows["2"]["data-marks"] == f"agree{number['Pleural Effusion']} invented{number['Edema']}"
    assert rows["1"]["data-errors"] == "2" and set(rows) == {"1", "2", "3"}


@pytest.mark.parametrize("damage", ["no results", "another test file", "read-only"])
def test_what_cannot_be_done_is_one_line(run, data, tmp_path, damage):
    reason = {"no results": "no results", "another test file": "evaluate again", "read-only": "cannot be written"}
    folder = tmp_path / "empty" if damage == "no results" else run
    if damage == "another test file":
        file = data / "test_llava_llada.json"
        file.write_text(file.read_text().replace("Pacemaker", "Line"))
    if damage == "read-only":
        (run / ".reports.html.partial").mkdir()
    with pytest.raises(ValueError, match=f"^[^\n]*{reason[damage]}[^\n]*$"):
        write_page(folder, labels)
    assert not (folder / "reports.html").exists()


def test_nothing_but_the_page_is_left(run):
    before = set(os.listdir(run))
    assert write_page(run, findings_of) == f"{run / 'reports.html'}: 3 studies, 3 images"
    assert set(os.listdir(run)) - before == {"reports.html"}
    assert "effusion left" in (run / "reports.html").read_text(encoding="utf-8")
