"""Reads files of conversations: a JSON list of records in LLaVA's format."""

import json
from pathlib import Path

ROLES = ("human", "gpt")  # in turn


def read_records(data_path: str) -> list[dict]:
    """The records of a file, each with turns of questions and their answers in `conversations`.

    Raises ValueError, naming file and record, on anything else.
    """
    path = Path(data_path)
    if not path.is_file():
        raise ValueError(f"--data_path {data_path!r} is not a file; make it with convert_data.py")
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{data_path} is not JSON ({error}); make it again with convert_data.py") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{data_path} holds no list of records; make it again with convert_data.py")
    for number, record in enumerate(records):
        _check_turns(record, f"{data_path}, record {number}")
    return records


def _check_turns(record: dict, where: str) -> None:
    turns = record.get("conversations") if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise ValueError(f"{where} has no conversation of questions and their answers")
    for number, turn in enumerate(turns):
        role = ROLES[number % 2]
        text = turn.get("value") if isinstance(turn, dict) and turn.get("from") == role else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where} (id {record.get('id')!r}): turn {number} must be a text from {role!r}")
