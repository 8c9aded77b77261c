"""Files of questions and of answered ones, and the floors of a score.

A floor is a file of the same questions beside that of the answers, answered without what the model should listen to.
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from dllm.data.files import replacing
from dllm.data.rows import json_rows
from dllm.inference.floors import derangement

FLOORS = ("shuffled_audio", "no_audio")


def read_records(path: str | Path) -> list[dict]:
    """The records of a JSON list, or of JSON Lines. Raises ValueError with one line on anything else."""
    records = list(json_rows(Path(path)))
    if not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{path} holds no list of records; make it again")
    return records


def write_records(path: Path, records: list[dict]) -> None:
    """Writes a JSON list, or JSON Lines if the file is called .jsonl."""
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = json.dumps(records, ensure_ascii=False, indent=2)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def floor_file(path: str | Path, floor: str) -> Path:
    """Where the answers of a floor are: answers.jsonl -> answers.shuffled_audio.jsonl."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{floor}{path.suffix}")


def exchanged(clips: Iterable) -> dict:
    """By clip, or by what names one: another one in its place, no two the same."""
    clips = list(dict.fromkeys(clips))
    return {clip: clips[other] for clip, other in zip(clips, derangement(len(clips)), strict=True)}


def accuracy(records: list[dict], is_right: Callable[[dict], bool]) -> float:
    """The share of the records that are answered rightly."""
    return sum(map(is_right, records)) / len(records)


def tally(
    records: list[dict], right: list[bool], group: Callable[[dict], str | None], known: Iterable[str] = ()
) -> dict[str, tuple[int, int]]:
    """By group of the records, the `known` ones first, how many are right and how many there are; None is no group."""
    counts = {name: (0, 0) for name in known}
    for name, is_right in zip(map(group, records), right, strict=True):
        if name is not None:
            number, total = counts.get(name, (0, 0))
            counts[name] = (number + is_right, total + 1)
    return counts


def print_scores(
    path: str, response: str, answer: str, is_right: Callable[[dict], bool], report: Callable[..., str]
) -> None:
    """Prints what `report` says of the records in a file of answers and of which `is_right`, beside it the accuracy of
    its floors, and how many questions count as wrong because they have nothing in the field `response` or `answer`.
    """
    records = read_records(path)
    print(report(records, list(map(is_right, records))))
    for floor in FLOORS:
        file = floor_file(path, floor)
        if file.is_file():
            print(f"{floor}: {accuracy(read_records(file), is_right):.4f}")
        else:
            print(f"{floor}: not answered ({file} is missing; the inference program writes it with --floors {floor})")
    for field in (response, answer):
        lacking = [record for record in records if not record.get(field)]
        if lacking:
            told, reason = f"{len(lacking)} without {field} count as wrong; the first: ", lacking[0].get("error")
            print(f"{told}{lacking[0].get('id')}" + (f" ({reason})" if reason else ""), file=sys.stderr)
