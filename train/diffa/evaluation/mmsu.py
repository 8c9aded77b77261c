"""MMSU (Wang et al. 2025): questions on a clip with up to four options. Prompt and scoring rule are those of DIFFA.

A record has id, audio_path, question, choice_a to choice_d (the last two may be null), answer_gt (the text of the right
one), task_name, category, sub-category, sub-sub-category, linguistics_sub_discipline; an answered one also response.
"""

from diffa.evaluation.files import tally
from diffa.evaluation.mmau import matches

ANSWERS = ("letter", "text")
INSTRUCTIONS = {
    "letter": "Choose the most suitable answer from options A, B, C, and D to respond the question in next line, "
    "**you should only choose A or B or C or D.** Do not provide any additional explanations or content.\n\n",
    "text": "",
}
LEVELS = (
    ("Level 2 (category + sub-category) Accuracy", ("category", "sub-category")),
    ("Level 3 (category + sub-category + sub-sub-category) Accuracy", ("category", "sub-category", "sub-sub-category")),
    ("Average Accuracy per Category", ("category",)),
)


def options(record: dict) -> dict[str, str]:
    """The options that a record has, by letter."""
    texts = {letter: record.get(f"choice_{letter.lower()}") for letter in "ABCD"}
    return {letter: text for letter, text in texts.items() if text is not None}


def prompt(record: dict, answers: str = "letter") -> str:
    """What the model is asked; `answers` is what it was trained to answer with: an option's letter, or its text."""
    lines = [f"{letter}. {text}" for letter, text in options(record).items()]
    return INSTRUCTIONS[answers] + "\n".join([f"Question: {record['question']}\n", *lines])


def chosen_letter(response: str) -> str | None:
    """The letter that a response chooses, by the published rule: its first character, or else its last but one."""
    text = response.strip().replace("\n", "")
    if not text or text == "None":
        return None
    return next((letter for letter in (text[0], text[-2:-1]) if letter and letter in "ABCD"), None)


def is_right(record: dict, answers: str = "letter") -> bool:
    """Whether the response of a record is right; one without a response or without an answer is not.

    `answers` "letter" is the published rule, "text" that of MMAU: all words of the right option, none of another.
    """
    response, answer = record.get("response"), record.get("answer_gt")
    if not isinstance(response, str) or not answer:
        return False
    if answers == "text":
        return matches(answer, response, list(options(record).values()))
    return options(record).get(chosen_letter(response)) == answer


def report(records: list[dict], right: list[bool]) -> str:
    """Accuracies as the published program prints them."""
    lines = []
    for title, keys in LEVELS:
        counts = tally(records, right, lambda record, keys=keys: " / ".join(str(record.get(key, "")) for key in keys))
        average = "Average " if len(keys) == 1 else ""
        found = (f"[{name}] {average}Accuracy: {c / n:.4f} ({c}/{n})" for name, (c, n) in counts.items())
        lines += [f"\n=== {title} ===", *found]
    return "\n".join([*lines, f"\nOverall Accuracy: {sum(right) / len(right):.4f}", f"Total count: {len(right)}"])
