"""The published verdicts on answers of awkward form; what has no answer counts as wrong and is told."""

import json

import pytest

from diffa.evaluation import mmau, mmsu
from diffa.evaluation.files import floor_file, print_scores

MMSU = {
    "choice_a": "Angry",
    "choice_b": "Both speakers",
    "choice_c": "Calm",
    "choice_d": None,
    "answer_gt": "Both speakers",
}
# A response to this question, and the letter that the published rule reads: first character, else last but one.
LETTERS = [
    ("B", "B"),
    ("b", None),
    ("B.", "B"),
    ("B. Both speakers", "B"),
    ("(B)", "B"),
    ("(B).", None),
    ("[B]", "B"),
    ("**B**", None),
    ("'B'", "B"),
    (" B ", "B"),
    ("\nB\n", "B"),
    ("B\nA", "B"),
    ("A\nB", "A"),
    ("\n\nA", "A"),
    ("Answer: B", "A"),
    ("answer: B", None),
    ("answer: B.", "B"),
    ("answer: B!", "B"),
    ("The answer is B.", "B"),
    ("The answer is (B).", None),
    ("The answer is (B)", "B"),
    ("The answer is B", None),
    ("Both speakers", "B"),
    ("both speakers", None),
    ("Calm", "C"),
    ("Angry", "A"),
    ("Definitely not A", "D"),
    ("D", "D"),
    ("E", None),
    ("A or B", "A"),
    ("B or A", "B"),
    ("A and B.", "A"),
    ("", None),
    ("   ", None),
    ("None", None),
    ("none", None),
    (".", None),
    ("B?", "B"),
    ("1. B.", "B"),
    ("I think B, not A", None),
    ("option B)", "B"),
    ("選択肢Bだ", "B"),
]


@pytest.mark.parametrize("response, letter", LETTERS)
def test_mmsu_reads_the_letter_as_published(response, letter):
    assert mmsu.chosen_letter(response) == letter
    assert mmsu.is_right(MMSU | {"response": response}) == (letter == "B")


MMAU = {"choices": ["man", "woman", "a young woman", "two men"], "answer": "a young woman"}
# A prediction and the published verdict: all words of the answer, no word of another choice that the answer lacks.
PREDICTIONS = [
    ("a young woman", True),
    ("A Young Woman", True),
    ("A YOUNG WOMAN.", True),
    ("young woman", False),
    ("woman", False),
    ("woman a young", True),
    ("a young, happy woman", True),
    ("C", False),
    ("C. a young woman", True),
    ("(C) a young woman", True),
    ("[a young woman]", True),
    ("**a young woman**", True),
    ("'a young woman'", True),
    ("a young woman\n", True),
    ("\na\nyoung\nwoman", True),
    ("The answer is a young woman.", True),
    ("It is a young woman, not a man", False),
    ("a young woman and two children", False),
    ("a young woman or a man", False),
    ("a young woman; a young woman", True),
    ("B. woman", False),
    ("a woman who is young", True),
    ("a youngwoman", False),
    ("a young-woman", True),
    ("a_young_woman", False),
    ("a young woman's", True),
    ("mankind, a young woman", True),
    ("a young woman 2", True),
    ("", False),
    ("   ", False),
    ("...", False),
    ("None", False),
    ("two men", False),
    ("two", False),
    ("a man", False),
    ("all of them: man, woman, a young woman, two men", False),
    ("A. man", False),
    ("D", False),
    ("young woman, a", True),
    ("a young woman (C)", True),
    ("eine junge Frau", False),
]


@pytest.mark.parametrize("prediction, right", PREDICTIONS)
def test_mmau_compares_words_as_published(prediction, right):
    assert mmau.is_right(MMAU | {"model_prediction": prediction}) == right


def test_mmsu_takes_the_text_of_one_option_where_the_model_answers_with_texts():
    for response, right in (("both speakers", True), ("Calm", False), ("B", False), ("Both speakers or Calm", False)):
        assert mmsu.is_right(MMSU | {"response": response}, "text") == right


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"response": None},
        {"response": 3},
        {"response": "B", "answer_gt": ""},
        {"response": "B", "answer_gt": None},
        {"response": "D", "answer_gt": None},  # an option that is not there is no right one either
    ],
)
def test_mmsu_without_response_or_answer_is_wrong(record):
    assert not mmsu.is_right(MMSU | record) and not mmsu.is_right(MMSU | record, "text")


def test_mmau_without_prediction_or_answer_is_wrong():
    assert not mmau.is_right(MMAU) and not mmau.is_right(MMAU | {"model_prediction": None})
    assert not mmau.is_right(MMAU | {"model_prediction": "a young woman", "answer": ""})


def test_prompts_are_those_of_the_published_programs():
    record = MMSU | {"question": "Who sings?"}
    assert mmsu.prompt(record) == (
        "Choose the most suitable answer from options A, B, C, and D to respond the question in next line, **you "
        "should only choose A or B or C or D.** Do not provide any additional explanations or content.\n\n"
        "Question: Who sings?\n\nA. Angry\nB. Both speakers\nC. Calm"
    )
    assert mmau.prompt(MMAU | {"question": "Who sings?"}) == (
        "You are given the audio and a multiple-choice question. Choose the best answer based only on the speech "
        "content and style.\n\nQuestion: Who sings?\n\nChoices:\nA. man\nB. woman\nC. a young woman\nD. two men\n"
        "Answer:"
    )


def test_scores_are_printed_as_published_beside_their_floors_and_what_is_missing_is_told(tmp_path, capsys):
    group = {"category": "Reasoning", "sub-category": "Semantics", "sub-sub-category": "who"}
    records = [MMSU | group | {"id": number, "response": text} for number, text in enumerate(["B", "A", "", "(B)"])]
    records[2]["error"] = "clip.wav: no such file"
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    floor_file(file, "shuffled_audio").write_text(json.dumps([record | {"response": "C"} for record in records]))
    print_scores(str(file), "response", "answer_gt", mmsu.is_right, mmsu.report)
    printed = capsys.readouterr()
    assert "[Reasoning / Semantics] Accuracy: 0.5000 (2/4)\n" in printed.out
    assert "[Reasoning / Semantics / who] Accuracy: 0.5000 (2/4)\n" in printed.out
    assert "[Reasoning] Average Accuracy: 0.5000 (2/4)\n\nOverall Accuracy: 0.5000\nTotal count: 4\n" in printed.out
    assert "shuffled_audio: 0.0000\nno_audio: not answered" in printed.out
    assert printed.err == "1 without response count as wrong; the first: 2 (clip.wav: no such file)\n"

    kinds = {"task": "speech", "difficulty": "hard", "sub-category": "Speaker"}
    records = [MMAU | kinds | {"id": "x"}, MMAU | kinds | {"id": "y", "model_prediction": "a young woman"}]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(records))
    print_scores(str(file), "model_prediction", "answer", mmau.is_right, mmau.report)
    printed = capsys.readouterr()
    assert "sound : 0.00% over 0 samples\n" in printed.out and "speech : 50.00% over 2 samples\n" in printed.out
    assert "hard : 50.00% over 2 samples\n" in printed.out and "Speaker : 50.00% over 2 samples\n" in printed.out
    assert "Total Accuracy: 50.00% over 2 samples\n" in printed.out
    assert "1 without model_prediction count as wrong; the first: x\n" in printed.err


@pytest.mark.parametrize("text, line", [("", "is not JSON"), ("[1", "is not JSON"), ("[1]", "no list of records")])
def test_a_file_that_holds_no_records_is_one_line(tmp_path, text, line):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=line):
        print_scores(str(tmp_path / "file"), "response", "answer_gt", mmsu.is_right, mmsu.report)
    with pytest.raises(FileNotFoundError, match="none"):
        print_scores(str(tmp_path / "none"), "response", "answer_gt", mmsu.is_right, mmsu.report)
