"""Questions about a clip in MMSU's form, and what a model learns to answer: the text of the right option."""

import numpy as np

from diffa.conversation import TRANSCRIBE
from diffa.evaluation import mmsu
from diffa.phantom.speech import BACKGROUNDS, NAMES, VOICES, Clip

NUMBERS = NAMES[2:6]  # of words in a clip
SAID = "Linguistics"  # what is said; the other questions are on how
HEARD = "Paralinguistics"
TASKS = {  # question, category, sub-category, and what is true of a clip
    "count": ("How many words are said?", "Perception", SAID, lambda clip: NUMBERS[len(clip.digits) - 2]),
    "first": ("Which word is said first?", "Perception", SAID, lambda clip: clip.digits[0]),
    "largest": ("Which is the largest number?", "Reasoning", SAID, lambda clip: max(clip.digits, key=NAMES.index)),
    "voice": ("Is the voice low or high?", "Perception", HEARD, lambda clip: clip.voice),
    "background": ("What is heard in the background?", "Perception", HEARD, lambda clip: clip.background),
}


def make_question(clip: Clip, task: str, audio_path: str, number: int, rng: np.random.Generator) -> dict:
    """A question in MMSU's form; its options, up to four, are in an order drawn from `rng`."""
    question, category, sub_category, answer = TASKS[task]
    right = answer(clip)
    choices = {"count": NUMBERS, "voice": tuple(VOICES), "background": BACKGROUNDS}.get(task)
    if choices is None:
        choices = (right, *rng.choice([digit for digit in NAMES if digit != right], 3, replace=False).tolist())
    letters = dict(zip("abcd", rng.permutation(choices).tolist(), strict=False))
    return {
        "id": f"{task}_{number}",
        "audio_path": audio_path,
        "task_name": task,
        "question": question,
        **{f"choice_{letter}": letters.get(letter) for letter in "abcd"},
        "answer_gt": right,
        "category": category,
        "sub-category": sub_category,
        "sub-sub-category": task,
        "linguistics_sub_discipline": None,
    }


def training_record(clip: Clip, question: dict | None, audio_path: str, number: int, duration: float) -> dict:
    """A record of a stage's JSON: a question and its answer, or without one the transcription."""
    transcription = " ".join(clip.digits)
    return {
        "audio_id": question["id"] if question else f"transcription_{number}",
        "audio_filepath": audio_path,
        "input": mmsu.prompt(question, answers="text") if question else TRANSCRIBE,
        "target": question["answer_gt"] if question else transcription,
        "transcription": transcription,
        "dataset": "phantom",
        "duration": duration,
    }
