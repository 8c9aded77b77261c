"""MMAU (Sakshi et al. 2025): questions on a clip of sound, music or speech. Prompt as DIFFA's, scoring as published.

A record has id, audio_id (the path of its clip), question, choices, answer (the text of the right one), task,
difficulty, category, sub-category; an answered one also model_prediction.
"""

import re
import string

from diffa.evaluation.files import tally

INSTRUCTION = (
    "You are given the audio and a multiple-choice question. Choose the best answer based only on the speech content "
    "and style.\n"
)
GROUPS = (
    ("Task-wise", "task", ("sound", "music", "speech")),
    ("Difficulty-wise", "difficulty", ("easy", "hard", "medium")),
    ("Sub-category-wise", "sub-category", ()),
)
LINE = "*" * 30


def prompt(record: dict) -> str:
    """What the model is asked."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, record["choices"], strict=False)]
    return "\n".join([INSTRUCTION, f"Question: {record['question']}\n\nChoices:", *lines, "Answer:"])


def matches(answer: str, prediction: str, choices: list[str]) -> bool:
    """Whether a prediction has all words of the answer, and none of another choice that the answer lacks."""
    wanted, found = words(answer), words(prediction)
    wrong = set().union(*(words(choice) for choice in choices)) - wanted
    return bool(found) and wanted <= found and not wrong & found


def words(text: str) -> set[str]:
    """The words of a text in lower case."""
    return set(re.findall(r"\b\w+\b", text.lower()))


def is_right(record: dict) -> bool:
    """Whether the prediction of a record is right; one without a prediction or without an answer is not."""
    prediction, answer = record.get("model_prediction"), record.get("answer")
    return isinstance(prediction, str) and bool(answer) and matches(answer, prediction, record["choices"])


def report(records: list[dict], right: list[bool]) -> str:
    """Accuracies as the published program prints them."""
    lines = []
    for title, key, known in GROUPS:
        counts = tally(records, right, lambda record, key=key: record.get(key), known)
        lines += [LINE, f"{title} Accuracy:"]
        lines += [f"{name} : {100 * c / max(n, 1):.2f}% over {n} samples" for name, (c, n) in counts.items()]
    total = f"Total Accuracy: {100 * sum(right) / len(right):.2f}% over {len(right)} samples"
    return "\n".join([*lines, LINE, total, LINE])
