"""LLaVA's conversations about images or videos: what a record of `dllm.data.records` shows.

The visual inputs of a record are `image` (or `images`), a path or a list of paths, or `video` (`videos`); each has a
mark `<image>` in the text of its questions.
"""

from dllm.data import records
from llava.constants import DEFAULT_IMAGE_TOKEN

Visual = tuple[str, str]  # ("image" or "video", path in its folder)


def read_records(data_path: str) -> list[dict]:
    """The records of a LLaVA JSON file. Raises ValueError, naming file and record, on anything else."""
    found = records.read_records(data_path)
    for number, record in enumerate(found):
        _check_visuals(record, f"{data_path}, record {number} (id {record.get('id')!r})")
    return found


def image_names(record: dict) -> list[str]:
    """The images of a record, relative to the image folder; none for a text-only record."""
    return [name for kind, name in visual_inputs(record) if kind == "image"]


def visual_inputs(record: dict) -> list[Visual]:
    """What a record shows, in the order of its marks."""
    named = {kind: record.get(kind) or record.get(f"{kind}s") or [] for kind in ("image", "video")}
    listed = {kind: names if isinstance(names, list) else [names] for kind, names in named.items()}
    return [(kind, name) for kind, names in listed.items() for name in names]


def _check_visuals(record: dict, where: str) -> None:
    turns, visuals = record["conversations"], visual_inputs(record)
    for number, turn in enumerate(turns):
        if number % 2 and DEFAULT_IMAGE_TOKEN in turn["value"]:
            raise ValueError(f"{where}: turn {number} is an answer, which cannot hold {DEFAULT_IMAGE_TOKEN}; remove it")
    kinds = {kind for kind, _ in visuals}
    if len(kinds) > 1:
        raise ValueError(f"{where} has images and videos, whose order is not known; split it into two records")
    (kind,) = kinds or {"image"}
    if not all(isinstance(name, str) for _, name in visuals):
        raise ValueError(f"{where}: {kind} must be a path or a list of paths")
    marks = sum(turn["value"].count(DEFAULT_IMAGE_TOKEN) for turn in turns)
    if marks != len(visuals):
        raise ValueError(f"{where} has {len(visuals)} {kind}s for {marks} {DEFAULT_IMAGE_TOKEN} marks")
