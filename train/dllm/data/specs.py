"""Which rows a run reads: `--dataset_args`, several sets joined by + (or |), each with the rows wanted of its splits.

    tatsu-lab/alpaca[train:1000,test:100]                    a name on the Hugging Face hub
    data/mine.jsonl + data/more.parquet[test:50]             files: JSON, JSON Lines, parquet, arrow
    data/saved[train:20_000] + HuggingFaceTB/smoltalk[name:all]

Splits whose names start with "train" are trained on, all others that are named are held out, and so is `test` where
there is one. A count takes the first rows of a split. Of a set with one split alone, `test` is drawn from it with a
fixed seed, and is never trained on.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from dllm.data.rows import located, open_splits

SEPARATOR = re.compile(r"([+|])(?![^\[]*\])")
PART = re.compile(r"(?P<name>.*?)\s*(?:\[(?P<options>[^\[\]]*)\])?", flags=re.DOTALL)
SPLIT_SEED = 0
Read = Callable[[dict, str, int], object]


@dataclass(frozen=True)
class Part:
    """One set: a path or a name on the hub, its configuration there, and the rows wanted by split."""

    name: str
    config: str | None = None
    counts: dict[str, int] = field(default_factory=dict)


def parse_spec(spec: str) -> list[Part]:
    """The sets that a spec names. A separator in the path of something that exists is none.

    Raises ValueError, naming the part, on anything that cannot be understood.
    """
    pieces, parts = SEPARATOR.split(spec), []
    while pieces:
        ends = range(1, len(pieces) + 1, 2)
        end = max((end for end in ends if Path(_match(pieces[:end])["name"]).exists()), default=1)
        parts.append(_parse_part(_match(pieces[:end])))
        pieces = pieces[end + 1 :]
    return parts


def _match(pieces: list[str]) -> re.Match:
    return PART.fullmatch("".join(pieces).strip())


def _parse_part(match: re.Match) -> Part:
    part = match[0]
    if not match["name"] or set("[]") & set(match["name"]) and not Path(match["name"]).exists():
        raise ValueError(f"--dataset_args {part!r}: write a set as name[train:1000,test:100], several joined by +")
    config, counts = None, {}
    for option in [] if match["options"] is None else match["options"].split(","):
        key, colon, value = (text.strip() for text in option.partition(":"))
        if not (key and colon and value):
            raise ValueError(f"--dataset_args {part!r}: {option.strip()!r} is no key:value, such as train:1000")
        if key in counts or (key == "name" and config is not None):
            raise ValueError(f"--dataset_args {part!r}: {key} is given twice; leave one of them out")
        if key == "name":
            config = value
        elif re.fullmatch(r"[0-9][0-9_]*", value) and int(value) >= 1:
            counts[key] = int(value)
        else:
            raise ValueError(
                f"--dataset_args {part!r}: {option.strip()!r} is no number of rows of a split, at least 1; beside "
                "splits there is the key name, of a configuration on the hub"
            )
    return Part(match["name"], config, counts)


def local_paths(spec: str) -> list[Path]:
    """The files and folders here that a spec names."""
    return [path for part in parse_spec(spec) if (path := located(part.name)).exists()]


class Rows(Dataset):
    """Rows of a set, in this order, as `read` (row, name of the set, number in it) makes them something else when it is
    their turn.
    """

    def __init__(self, name: str, rows: Sequence[dict], indices: Sequence[int], read: Read):
        self.name, self.rows, self.indices, self.read = name, rows, indices, read

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> object:
        index = int(self.indices[number])
        return self.read(self.rows[index], self.name, index)


def load_spec(spec: str, read: Read) -> tuple[ConcatDataset | None, ConcatDataset | None]:
    """(rows to train on, rows held out) of a spec, each None if there are none; nothing is read before its turn.

    Raises ValueError, naming the part, for a set that cannot be read, has no rows, or lacks a split or rows wanted.
    """
    train, held_out = [], []
    for part in parse_spec(spec):
        try:
            splits = open_splits(part.name, part.config)
        except ValueError as error:
            raise ValueError(f"--dataset_args {error}") from error
        for split, (rows, indices) in select(part, splits).items():
            (train if split.startswith("train") else held_out).append(Rows(part.name, rows, indices, read))
    return ConcatDataset(train) if train else None, ConcatDataset(held_out) if held_out else None


def select(part: Part, splits: dict[str, Sequence[dict]]) -> dict[str, tuple[Sequence[dict], Sequence[int]]]:
    """The rows, and which of them, of every split that a part of a spec asks for."""
    sizes = {name: len(rows) for name, rows in splits.items()}
    if empty := [name for name, size in sizes.items() if not size] or not sizes and ["the set"]:
        raise ValueError(f"--dataset_args {part.name}: {empty[0]} has no rows; name another set")
    first, *others = splits
    if not others and first != "test" and "test" in part.counts:
        return _drawn(part, first, splits[first])
    wanted = list(part.counts) or [name for name in ("train", "test") if name in splits] or [first]
    for name in wanted:
        if name not in splits:
            raise ValueError(f"--dataset_args {part.name}[{name}:...]: its splits are {', '.join(splits)}")
        if part.counts.get(name, 0) > sizes[name]:
            raise ValueError(f"--dataset_args {part.name}[{name}:{part.counts[name]}]: it has {sizes[name]} rows")
    return {name: (splits[name], range(part.counts.get(name, sizes[name]))) for name in wanted}


def _drawn(part: Part, only: str, rows: Sequence[dict]) -> dict[str, tuple[Sequence[dict], Sequence[int]]]:
    """Rows to train on and, drawn from the same split with a fixed seed, others that are held out."""
    test, train = part.counts["test"], part.counts.get(only)
    if unknown := [name for name in part.counts if name not in (only, "test")]:
        raise ValueError(f"--dataset_args {part.name}[{unknown[0]}:...]: its only split is {only}")
    if (train or 1) + test > len(rows):
        raise ValueError(f"--dataset_args {part.name}[{only}:{train or 1},test:{test}]: it has {len(rows)} rows in all")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    kept = order[: len(rows) - test] if train is None else order[:train]
    return {only: (rows, kept), "test": (rows, order[len(rows) - test :])}
