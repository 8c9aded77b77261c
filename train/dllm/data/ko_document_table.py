"""jp1924/KoDocumentTableVisualSFT: Korean questions about tables in documents.

Each content of its `conversations` is itself a JSON text, a list of parts: [{"type": "text", "text": ...}, ...].
"""

import json

COLUMNS = {"conversations", "metadata"}


def to_messages(row: dict) -> dict:
    """The row in the messages format, the parts of a content in their order; its other columns stay."""
    turns = [{"role": turn["role"], "content": _parts(turn["content"])} for turn in row["conversations"]]
    return {name: value for name, value in row.items() if name != "conversations"} | {"messages": turns}


def _parts(content: str) -> str | list:
    """The parts of a content; one that is no list of parts in JSON is a text."""
    try:
        parts = json.loads(content)
    except (ValueError, RecursionError):
        return content
    is_parts = isinstance(parts, list) and all(isinstance(part, dict) and "type" in part for part in parts)
    return parts if is_parts else content
