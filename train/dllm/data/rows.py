"""Where the rows of a data set lie: files, folders, or a name on the Hugging Face hub.

The order of a run wants any row at any time, and every length before the first step; so a set that does not fit in
memory is not streamed but memory-mapped: parquet, Arrow and the hub by `datasets`, JSON Lines by the offsets of its
lines. A JSON list alone is read whole.
"""

import codecs
import json
import mmap
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.exceptions import DatasetNotFoundError

BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
JSON = (".json", ".jsonl")
ROOT = "BASE_DATASETS_DIR"  # environment variable: a folder in which names are looked up first


def open_splits(name: str, config: str | None = None) -> dict[str, Sequence[dict]]:
    """The splits of a set by name; those of a file are one, "train". Raises ValueError if it cannot be read."""
    path = Path(os.environ.get(ROOT, "."), name)
    path = path if path.exists() else Path(name)
    if path.is_file() and path.suffix not in (*BUILDERS, *JSON):
        raise ValueError(f"{name}: of its kind only {', '.join((*JSON, *BUILDERS))} files can be read")
    if path.suffix in JSON and path.is_file():
        return {"train": read_json(path)}
    datasets.disable_progress_bars()
    try:
        found = _load(path, name, config)
    except Exception as error:  # of pyarrow, of `datasets`, of the hub: they have no type in common
        if path.exists():
            raise ValueError(
                f"{name} cannot be read as a data set ({_first_line(error.__cause__ or error)})"
            ) from error
        if isinstance(error, (ConnectionError, FileNotFoundError)) and not isinstance(error, DatasetNotFoundError):
            remedy = "the hub cannot be reached; download it and give its folder"
        else:
            remedy = f"the hub does not give it ({_first_line(error)})"
        raise ValueError(f"{name} is no file or folder here, and {remedy}") from error
    splits = found if isinstance(found, dict) else {"train": found}
    return {split: ArrowRows(rows) for split, rows in splits.items()}


def _load(path: Path, name: str, config: str | None) -> datasets.Dataset | datasets.DatasetDict:
    if path.is_file():
        return datasets.load_dataset(BUILDERS[path.suffix], data_files=str(path))
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(str(path))
    return datasets.load_dataset(str(path) if path.is_dir() else name, config)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


class ArrowRows(Sequence):
    """The rows of a memory-mapped table as Python values; what is not text stays the bytes that it is stored as."""

    def __init__(self, table: datasets.Dataset):
        self.table = table.with_format("arrow")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        return self.table[index].to_pylist()[0]


def read_json(path: Path) -> Sequence[dict]:
    """The rows of a file with a JSON list, or with an object a line. Raises ValueError if it has neither."""
    with open(path, "rb") as file:
        if file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            return JsonLines(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no list of records")
    return rows


class JsonLines(Sequence):
    """The objects of a file, one a line, memory-mapped; empty lines are none."""

    def __init__(self, path: Path):
        self.path, self.starts, self.numbers = path, array("q", [0]), array("q")
        with open(path, "rb") as file:
            self.text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for number, line in enumerate(iter(self.text.readline, b"")):
            self.starts.append(self.starts[-1] + len(line))
            if line.strip():
                self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        number = self.numbers[index]
        text = self.text[self.starts[number] : self.starts[number + 1]]
        try:
            return json.loads(text.decode("utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {number + 1} is not JSON ({error})") from error
