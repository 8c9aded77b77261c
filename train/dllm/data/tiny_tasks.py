"""Generated text tasks that a tiny model learns in minutes, and whose answers can be checked.

    python -m dllm.data.tiny_tasks --out DIR [--train 40000] [--test 250] [--seed 0]

writes DIR/train.jsonl and DIR/test.jsonl, conversations in the messages format:

    {"id": "sort-0", "task": "sort", "messages": [{"role": "user", "content": "sort: k d a q"},
                                                  {"role": "assistant", "content": "a d k q"}]}

No list of letters of the test set occurs in the training set. The questions of `add` and `continue` are so few that all
of them do.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

from dllm.data.files import replacing
from dllm.program import argument_parser, run_program

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LETTERS = ALPHABET[:20]
LENGTH = 4  # of a list: lists of several lengths take far longer to learn, for copying needs the length

# How a question's operands become its answer.
ANSWERS: dict[str, Callable[[list[str]], list[str]]] = {
    "copy": lambda letters: letters,
    "reverse": lambda letters: letters[::-1],
    "sort": sorted,
    "add": lambda digits: [str(sum(map(int, digits)))],
    "continue": lambda letters: list(ALPHABET[ALPHABET.index(letters[-1]) + 1 :][:LENGTH]),
}
TASKS = tuple(ANSWERS)


def solve(question: str) -> str:
    """The one right answer to a question such as "sort: k d a q"."""
    task, operands = question.split(": ")
    return " ".join(ANSWERS[task](operands.split()))


def draw_question(task: str, rng: random.Random) -> str:
    """A question of a task at random."""
    if task == "add":
        operands = rng.choices("0123456789", k=2)
    elif task == "continue":
        start = rng.randrange(len(LETTERS))
        operands = ALPHABET[start : start + 3]
    else:
        operands = rng.choices(LETTERS, k=LENGTH)
    return f"{task}: {' '.join(operands)}"


def make_records(number: int, rng: random.Random, without: frozenset[str] = frozenset()) -> list[dict]:
    """So many conversations, the tasks in turn; none whose list is one of the lists `without`."""
    records = []
    for n in range(number):
        task = TASKS[n % len(TASKS)]
        question = draw_question(task, rng)
        while operands(question) in without:
            question = draw_question(task, rng)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": solve(question)}]
        records.append({"id": f"{task}-{n}", "task": task, "messages": messages})
    return records


def operands(question: str) -> str:
    """What a question asks about."""
    return question.split(": ")[1]


def write_tasks(folder: Path, train: int, test: int, seed: int) -> None:
    """Writes train.jsonl and test.jsonl, of so many conversations each."""
    tests = make_records(test, random.Random(f"test {seed}"))
    questions = [record["messages"][0]["content"] for record in tests]
    lists = frozenset(operands(question) for question in questions if len(operands(question).split()) == LENGTH)
    sets = {"train": make_records(train, random.Random(f"train {seed}"), lists), "test": tests}
    for name, records in sets.items():
        with replacing(folder / f"{name}.jsonl") as partial:
            partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--train", type=int, default=40000, help="training conversations")
    parser.add_argument("--test", type=int, default=250, help="test conversations")
    parser.add_argument("--seed", type=int, default=0, help="of all samples")
    args = parser.parse_args()
    write_tasks(args.out, args.train, args.test, args.seed)


if __name__ == "__main__":
    run_program(main)
