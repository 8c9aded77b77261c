"""The grammar of denials, apart from what it is asked to look for."""

import pytest

from llava.radiology.negation import GRAMMAR, compile_kinds, read_sentence, sentences

KINDS = compile_kinds(GRAMMAR | {"a": "apples?", "b": "big bears?", "c": "cats?"})


@pytest.mark.parametrize(
    "sentence, denied",
    [
        ("An apple and cats.", {"a": False, "c": False}),
        ("No apple, big-bear or cat.", {"a": True, "b": True, "c": True}),
        ("No apple, small cat, or big bear.", {"a": True, "b": True, "c": True}),
        ("No apple, a small cat.", {"a": True, "c": False}),
        ("No apple and a small cat or big bear.", {"a": True, "b": False, "c": False}),
        ("No apple, there is a small cat or big bear.", {"a": True, "b": False, "c": False}),
        ("An apple but no cat.", {"a": False, "c": True}),
        ("Apples and cats are not seen.", {"a": True, "c": True}),
        ("Apples persist, but cats have resolved.", {"a": False, "c": True}),
        ("Resolved apples.", {"a": True}),
        ("Without change in the apple.", {"a": True}),
        ("No change in the apple.", {"a": False}),
        ("The cat cannot be excluded.", {"c": False}),
        ("A film to exclude a cat.", {"c": True}),
        ("Nothing that this table names.", {}),
    ],
)
def test_what_a_sentence_denies(sentence, denied):
    tokens = read_sentence(sentence, KINDS, "abc")
    assert {token.kind: token.denied for token in tokens if token.kind in set("abc")} == denied


@pytest.mark.parametrize(
    "text, number",
    [("", 0), ("One", 1), ("One. Two: three;four", 4), ("It is 1.5 cm. End.", 2), ("\n .\n a.b. \n", 4)],
)
def test_sentences_joined_are_the_text(text, number):
    assert "".join(sentences(text)) == text
    assert len(sentences(text)) == number
