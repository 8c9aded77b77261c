"""Checks that refuse a bad experiment: patients or images in two splits, doubled ids, reports of one word, prompts that
give the report away, images that cannot be used. Each raises ValueError with one line: what is wrong, how often, the
first two places, the remedy.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path

from dllm.data.files import sha256
from dllm.data.parallel import map_parallel
from llava.data.images import check_image
from llava.data.records import image_names
from llava.radiology.leakage import QUOTE_WORDS, leaks_report
from llava.radiology.release import context_of, normal_id

Splits = dict[str, list[dict]]
Fingerprint = tuple[int, bytes]  # of a file: its size, and a hash of PROBE bytes from its middle

PROBE = 4096
ONE_SPLIT = "keep them in one split only"


def check_records(splits: Splits) -> None:
    """Check the annotation records of all splits; the images are not read.

    Refused are, in this order: an id that is given twice, a patient (`subject_id`) or an image's path in two splits, a
    report of one word, and a report that the clinical context quotes.
    """
    records = list(chain.from_iterable(splits.values()))
    ids = Counter(record["id"] for record in records)
    _refuse("ids given twice", [repr(name) for name, count in ids.items() if count > 1], "give each study its own id")
    _refuse("patients (subject_id) in two splits", _in_two_splits(splits, _patient), ONE_SPLIT)
    _refuse("images in two splits", _in_two_splits(splits, _paths), ONE_SPLIT)
    short = [repr(record["id"]) for record in records if len(record["report"].split()) < 2]
    _refuse("reports of one word", short, "take these studies out")
    quoted = map_parallel(_is_quoted, records, "checking prompts", "study")
    names = [repr(record["id"]) for record, is_quoted in zip(records, quoted, strict=True) if is_quoted]
    what = f"prompts that quote {QUOTE_WORDS} words of their report in a row"
    _refuse(what, names, "take the report out of the clinical context")


def without_patient(splits: Splits) -> int:
    """The number of records without `subject_id` (or NaN), whose patients `check_records` cannot compare."""
    return sum(not _patient(record) for records in splits.values() for record in records)


def check_images(records: list[dict], image_dir: str | Path) -> dict[str, Fingerprint]:
    """Check on all cores that every image that the LLaVA records name in `image_dir` can be used.

    Returns the fingerprint of each image's file, for `check_contents`.
    """
    if not Path(image_dir).is_dir():
        raise ValueError(f"{image_dir}: no such image folder; name it with --images")
    first_user = {}
    for record in records:
        for image in image_names(record):
            first_user.setdefault(image, record["id"])
    results = map_parallel(partial(_examine, Path(image_dir)), list(first_user), "checking images", "image")
    checked = dict(zip(first_user, results, strict=True))
    bad = [f"record {first_user[image]!r}: {error}" for image, error in checked.items() if isinstance(error, str)]
    if bad:
        listed = "; the second: ".join(bad[:2])
        raise ValueError(f"{len(bad)} of {len(first_user)} images cannot be used; the first: {listed}")
    return checked


def check_contents(splits: Splits, fingerprints: dict[str, Fingerprint], image_dir: str | Path) -> None:
    """Check that no image of the LLaVA records is in two splits under two names.

    Only the files that share a fingerprint across splits are read whole.
    """
    named = {image: split for split, records in splits.items() for record in records for image in image_names(record)}
    suspects = dict(chain.from_iterable(group.items() for group in _across_splits(named, fingerprints.__getitem__)))
    doubled = _across_splits(suspects, lambda image: sha256(Path(image_dir, image)))
    doubles = [" = ".join(f"{image} ({split})" for image, split in group.items()) for group in doubled]
    _refuse("images in two splits under two names", doubles, ONE_SPLIT)


def _across_splits(named: dict[str, str], mark: Callable[[str], Hashable]) -> list[dict[str, str]]:
    """The groups of images with one mark that are in more than one split; each image has its split beside it."""
    groups = defaultdict(dict)
    for image, split in named.items():
        groups[mark(image)][image] = split
    return [group for group in groups.values() if len(set(group.values())) > 1]


def _refuse(what: str, places: list[str], remedy: str) -> None:
    if places:
        raise ValueError(f"{what}: {len(places)}, the first: {' and '.join(places[:2])}; {remedy}")


def _in_two_splits(splits: Splits, values: Callable[[dict], Iterable[str]]) -> list[str]:
    """Which `values` of records occur in more than one split, each with its splits."""
    found = defaultdict(dict)
    for split, records in splits.items():
        for value in chain.from_iterable(map(values, records)):
            found[value][split] = None
    return [f"{value!r} ({', '.join(where)})" for value, where in found.items() if len(where) > 1]


def _patient(record: dict) -> list[str]:
    subject = normal_id(record.get("subject_id"))
    return [subject] if subject else []


def _paths(record: dict) -> list[str]:
    return [os.path.normpath(path) for path in record["image_path"]]


def _is_quoted(record: dict) -> bool:
    return leaks_report(record["report"], context_of(record))


def _examine(image_dir: Path, image: str) -> Fingerprint | str:
    """The fingerprint of an image's file, or why the image cannot be used."""
    path = image_dir / image
    try:
        check_image(path)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(size // 2)
            return size, hashlib.blake2b(file.read(PROBE), digest_size=16).digest()
    except (ValueError, OSError) as error:
        return str(error)
