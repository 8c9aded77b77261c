"""Where the rows of a data set lie: files, folders, or a name on the Hugging Face hub.

The order of a run wants any row at any time, and every length before the first step; so a set that does not fit in
memory is not streamed: parquet, Arrow and the hub are memory-mapped by `datasets`, and of JSON Lines the offsets of the
lines are kept. A JSON list alone is read whole.
"""

import codecs
import json
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.exceptions import DatasetNotFoundError

from dllm.data.files import read_json

BUILDERS = {".parquet": "parquet", ".arrow": "arrow"}
JSON = (".json", ".jsonl")
SPLITS = {"test": "test", "eval": "test", "val": "validation", "dev": "validation"}  # by how a file's name begins
NOT_ROWS = ("metadata", "dataset_info", "dataset_infos", "dataset_dict", "state")  # of folders for `datasets`
ROOT = "BASE_DATASETS_DIR"  # environment variable: a folder in which names are looked up first


def located(name: str) -> Path:
    """The path of a set, if it lies here."""
    path = Path(os.environ.get(ROOT, "."), name)
    return path if path.exists() else Path(name)


def open_splits(name: str, config: str | None = None) -> dict[str, Sequence[dict]]:
    """The splits of a set by name; those of a file are one, "train". Raises ValueError if it cannot be read."""
    path = located(name)
    if path.is_file() and path.suffix not in (*BUILDERS, *JSON):
        raise ValueError(f"{name}: of its kind only {', '.join((*JSON, *BUILDERS))} files can be read")
    if path.suffix in JSON and path.is_file():
        return {"train": json_rows(path)}
    if path.is_dir() and (files := sorted(path.iterdir())) and all(map(_is_rows, files)):
        names = sorted({_split(file) for file in files})
        from torch.utils.data import ConcatDataset  # takes seconds, which programs that read one file need not wait

        return {name: ConcatDataset([json_rows(file) for file in files if _split(file) == name]) for name in names}
    datasets.disable_progress_bars()
    try:
        found = _load(path, name, config)
    except Exception as error:  # of pyarrow, of `datasets`, of the hub: they have no type in common
        if path.exists():
            cause = _first_line(error.__cause__ or error)
            raise ValueError(f"{name} cannot be read as a data set ({cause})") from error
        if isinstance(error, (ConnectionError, FileNotFoundError)) and not isinstance(error, DatasetNotFoundError):
            remedy = "the hub cannot be reached; download it and give its folder"
        else:
            remedy = f"the hub does not give it ({_first_line(error)})"
        raise ValueError(f"{name} is no file or folder here, and {remedy}") from error
    splits = found if isinstance(found, dict) else {"train": found}
    return {split: ArrowRows(rows) for split, rows in splits.items()}


def _is_rows(file: Path) -> bool:
    """Whether it is JSON for `json_rows`: `datasets` cannot tell a text in which JSON stands from what it says."""
    return file.suffix in JSON and file.stem not in NOT_ROWS


def _split(file: Path) -> str:
    return next((split for start, split in SPLITS.items() if file.stem.startswith(start)), "train")


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
        self.mixed = {name: feature for name, feature in table.features.items() if "Json(" in repr(feature)}

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        row = self.table[index].to_pylist()[0]
        return row | {name: _parsed(feature, row[name]) for name, feature in self.mixed.items()}


def _parsed(feature, value):
    """A value in which `datasets` stored what has no one type, such as texts beside lists of parts, as JSON."""
    if value is None:
        return None
    if isinstance(feature, datasets.Json):
        parsed = json.loads(value)
        return parsed if isinstance(parsed, str | list | dict) else value  # a text "12" is stored as the number
    if isinstance(feature, dict):
        return {name: _parsed(inner, value[name]) for name, inner in feature.items()}
    if isinstance(feature, datasets.List | datasets.LargeList):
        return [_parsed(feature.feature, each) for each in value]
    return value


def json_rows(path: Path) -> Sequence[dict]:
    """The rows of a file with a JSON list, or with an object a line. Raises ValueError if it has neither."""
    with open(path, "rb") as file:
        if file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
            return JsonLines(path)
    return read_json(path, "give a list of records, or one in each line", list)


class JsonLines(Sequence):
    """The objects of a file, one a line, each read when it is asked for; empty lines are none."""

    def __init__(self, path: Path):
        self.path, self.starts, self.numbers = path, array("q", [0]), array("q")
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                self.starts.append(self.starts[-1] + len(line))
                if line.strip():
                    self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        number = self.numbers[index]
        with open(self.path, "rb") as file:
            file.seek(self.starts[number])
            text = file.read(self.starts[number + 1] - self.starts[number])
        try:
            return json.loads(text.decode("utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{self.path}, line {number + 1} is not JSON ({error})") from error
