"""Reads files of conversations, in the shapes that the tools of this field write, as LLaVA's records.

    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...], ...}      LLaVA, ShareGPT
    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...], ...}  OpenAI, TRL

in a JSON list or one object a line (JSON Lines). A system turn at the start, or a field `system`, replaces the system
prompt of the conversation's template.
"""

import json
from collections.abc import Iterator
from pathlib import Path

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
TURNS = ("human", "gpt")  # in turn


def read_records(data_path: str) -> list[dict]:
    """The records of a file: `conversations` of questions ("human") and their answers ("gpt"), and `system` where they
    have one; an `id` that is a whole number is its text. All else is as it was.

    Raises ValueError, naming file and record, on anything else.
    """
    return [_as_llava(record, f"{data_path}, record {number}") for number, record in enumerate(read_list(data_path))]


def read_list(data_path: str, flag: str = "--data_path", maker: str = "convert_data.py") -> list:
    """The list of a JSON file, or the objects of JSON Lines. Raises ValueError, which names the `flag` that gave the
    file and the program that makes it, if it has none.
    """
    path = Path(data_path)
    if not path.is_file():
        raise ValueError(f"{flag} {data_path!r} is not a file; make it with {maker}")
    try:
        records = _parse(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{data_path} is not JSON ({error}); make it again with {maker}") from error
    if not isinstance(records, list) or not records:
        raise ValueError(f"{data_path} holds no list of records; make it again with {maker}")
    return records


def _parse(text: str) -> object:
    """What a text of JSON, or of JSON Lines, holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        if not text.lstrip().startswith("{"):
            raise
        return list(_parse_lines(text))
    return [value] if isinstance(value, dict) and value.keys() & {"conversations", "messages"} else value


def _parse_lines(text: str) -> Iterator[object]:
    start = 0
    for line in text.split("\n"):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            raise json.JSONDecodeError(error.msg, text, start + error.pos) from None
        start += len(line) + 1


def _as_llava(record: object, where: str) -> dict:
    """The record in LLaVA's shape."""
    turns = record.get("conversations", record.get("messages")) if isinstance(record, dict) else None
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{where} has no conversation of questions and their answers")
    where = f"{where} (id {record.get('id')!r})"
    read = [_turn(turn) for turn in turns]
    found = {name: value for name, value in record.items() if name != "messages"}
    if read[0] and read[0]["from"] == "system":
        found["system"] = read.pop(0)["value"]
    if not isinstance(found.get("system", ""), str | None):
        raise ValueError(f"{where}: system must be a text")
    if not (found.get("system") or "").strip():  # what LLaMA-Factory writes where there is none
        found.pop("system", None)
    first = len(turns) - len(read)
    for number, turn in enumerate(read):
        role = TURNS[number % 2]
        if turn is None or turn["from"] != role or not turn["value"].strip():
            raise ValueError(f"{where}: turn {first + number} must be a text from {role!r}")
    if not read or len(read) % 2:
        raise ValueError(f"{where} has no conversation of questions and their answers")
    if type(found.get("id")) is int:
        found["id"] = str(found["id"])
    return found | {"conversations": read}


def _turn(turn: object) -> dict | None:
    """The turn as LLaVA's; None if it cannot be understood."""
    if not isinstance(turn, dict):
        return None
    role, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if isinstance(text, list):
        text = _joined(text)
    known = isinstance(role, str) and role in ROLES and isinstance(text, str)
    return {"from": ROLES[role], "value": text} if known else None


def _joined(parts: list) -> str | None:
    """A content of parts as one text; a part that is no text becomes a mark, {"type": "audio"} `<audio>`."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        texts.append(part.get("text") if kind == "text" else f"<{str(kind).removesuffix('_url')}>\n")
        if not isinstance(kind, str) or not isinstance(texts[-1], str):
            return None
    return "".join(texts)
