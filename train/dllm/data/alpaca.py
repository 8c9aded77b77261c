"""Alpaca (Taori et al. 2023) and the many sets in its shape: `instruction`, an `input` that may be empty, `output`."""

COLUMNS = {"instruction", "output"}


def to_messages(row: dict) -> dict:
    """The row in the messages format: instruction, blank line and input are the question."""
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in parts):
        return {"messages": None}
    question = "\n\n".join(part for part in parts if part.strip())
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]}
