"""Rows of any known shape as conversations or as plain texts. A new shape: a module as alpaca.py, named in SHAPES."""

from torch.utils.data import ConcatDataset

from dllm.data import alpaca, ko_document_table
from dllm.data.records import as_conversation
from dllm.data.specs import load_spec

SHAPES = (alpaca, ko_document_table)  # those of records.py need no translation


def load_sft_dataset(dataset_args: str) -> tuple[ConcatDataset | None, ConcatDataset | None]:
    """(conversations to train on, conversations held out) that a spec names (`dllm.data.specs`), as those of
    `dllm.data.records`. Reading one raises ValueError if it cannot be understood.
    """
    return load_spec(dataset_args, to_conversation)


def load_pt_dataset(dataset_args: str) -> tuple[ConcatDataset | None, ConcatDataset | None]:
    """(texts to train on, texts held out) that a spec names: the column `text`. A row without it raises ValueError."""
    return load_spec(dataset_args, to_text)


def to_conversation(row: dict, name: str, index: int) -> dict:
    """A row of any known shape as a record of `dllm.data.records`; columns that are no conversation stay."""
    where = f"{name}, record {index}"
    if isinstance(row, dict):
        shape = next((shape for shape in SHAPES if shape.COLUMNS <= row.keys()), None)
        if shape is None and not row.keys() & {"messages", "conversations"}:
            known = "known are messages, conversations, or instruction and output"
            raise ValueError(f"{where} has the columns {', '.join(map(str, row))}; {known}")
        row = shape.to_messages(row) if shape else {name: value for name, value in row.items() if value is not None}
    return {"id": str(index)} | as_conversation(row, where)


def to_text(row: dict, name: str, index: int) -> str:
    """The column `text` of a row."""
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"{name}, record {index} has no column text; conversations are for sft.py")
    return text
