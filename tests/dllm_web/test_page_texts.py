"""Templates of edited sentences, and what an infill changed."""

import re

import pytest

from dllm.web import texts


@pytest.mark.parametrize(
    "edited, expected",
    [
        ([("A b.", "lock"), ("C.", "blank"), ("D.", "strike out"), ("E.", "lock")], "A b. ____ E."),
        ([("A.", "blank"), ("B.", "blank"), ("C.", "lock")], "____ C."),
        ([("A.", "blank"), ("B.", "strike out"), ("C.", "blank"), ("D.", "lock"), ("E.", "blank")], "____ D. ____"),
        ([("The heart is ____.", "lock"), ("  ", "lock")], "The heart is ____."),
        ([("A.", "blank")], "____"),
    ],
)
def test_edited_sentences_are_a_template(edited, expected):
    assert texts.template(edited) == expected


def test_a_template_without_a_blank_is_refused():
    with pytest.raises(ValueError, match="nothing to fill"):
        texts.template([("A.", "lock"), ("B.", "strike out")])


def test_sentences_and_lines_of_a_text():
    assert texts.split("One. Two!\n\n- three\n  4.5 of e.g. it ") == ["One.", "Two!", "- three", "4.5 of e.g.", "it"]
    assert texts.split("") == []


def test_changes_are_marked_word_by_word_and_escaped():
    html = texts.changes_html("The heart is normal. <b>", "The heart is large. <b> &")
    assert re.findall("<del>(.*?)</del>", html) == ["normal."] and re.findall("<ins>(.*?)</ins>", html) == [
        "large.",
        "&amp;",
    ]
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert "the same words" in texts.changes_html("No change.", "No change.")
