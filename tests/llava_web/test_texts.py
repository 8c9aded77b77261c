"""Findings of reports, and tables of them."""

import re
from html import unescape

from llava.inference import Report
from llava.web import texts

REPORT = "There is a small left effusion. No pneumothorax. Moderate cardiomegaly."


def tags(html: str) -> list[tuple[str, str]]:
    """Kind and words of every tag."""
    return [(kind, unescape(words)) for kind, words in re.findall('<span class="tag ([^"]+)">([^<]*)</span>', html)]


def test_findings_alone_and_beside_the_truth():
    assert tags(texts.findings_html(REPORT)) == [("stated", "cardiomegaly"), ("stated", "effusion left")]
    assert "no finding" in texts.findings_html("The lungs are clear.")
    truth = "Large left effusion. Mild edema."
    assert tags(texts.findings_html(REPORT, truth)) == [
        ("invented", "+ cardiomegaly"),
        ("missed", "− edema"),
        ("agree", "✓ effusion left"),
    ]
    assert tags(texts.findings_html("Clear lungs.", "Clear lungs.")) == []


def test_findings_that_change_are_marked_and_those_that_go_too():
    assert tags(texts.findings_html(REPORT, first=REPORT)) == tags(texts.findings_html(REPORT))
    assert tags(texts.findings_html("Mild edema. Cardiomegaly.", first=REPORT)) == [
        ("stated", "cardiomegaly"),
        ("stated changed", "edema ≠"),
        ("gone changed", "effusion left ≠"),
    ]


def test_sentences_of_a_report_are_its_text():
    assert " ".join(texts.split(REPORT)) == REPORT and len(texts.split(REPORT)) == 3
    assert texts.split("") == []


def test_a_table_of_reports_has_the_images_that_cannot_be_read_and_needs_nothing_from_outside():
    rows = [
        {"name": "<i>.png", "image": "data:image/jpeg;base64,AA", "report": Report(REPORT + "<script>", 9, 3)},
        {"name": "b.png", "error": "b.png: not an image file"},
        {"name": "c.png", "image": "data:image/jpeg;base64,AA"},
    ]
    page = texts.reports_page(rows, "Describe <it>.", "For research", "p { margin: 0 }")
    assert page.count("<tr>") == 3 and "effusion left" in page and "not written: stopped" in page
    assert "b.png: not an image file" in page and "For research" in page and "Describe &lt;it&gt;." in page
    assert "<script" not in page and "<i>.png" not in page and "http" not in page
