"""A public data set as its publisher ships it, read into annotation records by split.

A reader of one data set (`mimic_cxr`, `iu_xray`) makes a `Release`; which text of a study is to be written, and
from which images, is chosen here, in the same way for all of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava.radiology.leakage import leaks_report

SPLITS = ("train", "val", "test")
CONTEXT_FIELDS = ("indication", "comparison", "history", "technique")
TARGETS = ("findings", "impression", "both")
VIEWS = ("first", "frontal", "all")
FRONTAL_VIEWS = ("PA", "AP", "FRONTAL")  # FRONTAL: it is known that the image is frontal, and no more

UNKNOWN_IDS = ("", "nan", "none", "null", "na", "n/a", "<na>")  # as tables and JSON write that there is none

NO_FRONTAL_IMAGE = "no frontal image"
UNKNOWN_VIEW = "no image known to be frontal"
MISSING_TEXT = {"findings": "no findings", "impression": "no impression", "both": "no findings or no impression"}
ONE_WORD = "a report of one word"
QUOTED = "the clinical context quotes the report"


@dataclass(frozen=True)
class Release:
    """Annotation records by split, how many studies were left out, and where the images are.

    A record has `id`, `study_id`, `subject_id`; the texts `findings`, `impression`, `indication`, `history`,
    `comparison`, `technique`, "" where unknown; `image_path`, paths relative to the folder `images`, and parallel to it
    `views`, each as the source names it ("PA", "LATERAL"; "FRONTAL" if no more is known), "" where unknown; and
    `labels`, the positive clinical labels, where the source has them. `choose_target` adds `report`.

    `left_out` counts studies by (split, reason); a reason is a short text in words that a radiologist understands.
    `notes` are lines for the end of the summary.
    """

    splits: dict[str, list[dict]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    images: Path | None = None
    notes: tuple[str, ...] = ()

    def reasons(self, split: str) -> list[str]:
        """One line per reason for which studies of the split were left out, the most frequent first."""
        counts = [(-count, reason) for (at, reason), count in self.left_out.items() if at == split and count]
        return [f"  left out, {reason}: {-count}" for count, reason in sorted(counts)]


def normal_id(value: object) -> str:
    """The id of a patient or study, one text for all its spellings (7, 7.0, "007", "p7"); "" where it is unknown."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    number = re.fullmatch(r"[ps]?0*(\d+)(?:\.0*)?", text, re.IGNORECASE)
    return "" if text.lower() in UNKNOWN_IDS else number[1] if number else text


def choose_images(release: Release, views: str) -> Release:
    """The release with the images asked for: the `first` frontal one, all `frontal` ones, or `all`, frontal ones first.

    The order is otherwise the source's. Unless all are asked for, a study without an image that is known to be frontal
    is left out and counted; but of a release that names no view at all, `first` is the first image that it lists.
    Raises ValueError for other views.
    """
    if views not in VIEWS:
        raise ValueError(f"unknown views {views!r}: choose one of {', '.join(VIEWS)}")
    if views == "first" and not any(any(record["views"]) for split in release.splits.values() for record in split):
        return _choose(release, lambda record: record | {name: record[name][:1] for name in ("image_path", "views")})
    return _choose(release, lambda record: _with_images(record, views))


def choose_target(release: Release, target: str) -> Release:
    """The release with `report`, the text to be written, in every record, and `target`, which says what text it is.

    `both` is one line, "FINDINGS: ... IMPRESSION: ...", or "FINDINGS AND IMPRESSION: ..." where the report has them as
    one section. Studies that lack the text, have a single word of it or quote it in their clinical context are left
    out and counted. Raises ValueError for an unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}: choose one of {', '.join(TARGETS)}")
    return _choose(release, lambda record: _with_report(record, target))


def _choose(release: Release, choose) -> Release:
    """Applies `choose`, which returns the new record or the reason to leave it out, to every record."""
    splits, left_out = {}, release.left_out.copy()
    for split, records in release.splits.items():
        results = [choose(record) for record in records]
        splits[split] = [result for result in results if isinstance(result, dict)]
        left_out.update((split, reason) for reason in results if isinstance(reason, str))
    return replace(release, splits=splits, left_out=left_out)


def _with_images(record: dict, views: str) -> dict | str:
    images = list(zip(record["image_path"], record["views"], strict=True))
    images.sort(key=lambda image: image[1] not in FRONTAL_VIEWS)
    frontal = [(path, view) for path, view in images if view in FRONTAL_VIEWS]
    if not frontal and views != "all":
        return NO_FRONTAL_IMAGE if all(view for _, view in images) else UNKNOWN_VIEW
    kept = {"first": frontal[:1], "frontal": frontal, "all": images}[views]
    return record | {"image_path": [path for path, _ in kept], "views": [view for _, view in kept]}


def _with_report(record: dict, target: str) -> dict | str:
    texts = _target_texts(record, target)
    if not all(texts):
        return MISSING_TEXT[target]
    if len(" ".join(texts).split()) == 1:
        return ONE_WORD
    if any(leaks_report(text, context_of(record)) for text in texts):
        return QUOTED
    return record | {"report": _joined(texts), "target": target}


def _joined(texts: list[str]) -> str:
    """One text as it is; findings and impression under their headings, or under one if the report had them as one."""
    if len(texts) == 1:
        return texts[0]
    findings, impression = texts
    if findings == impression:
        return f"FINDINGS AND IMPRESSION: {findings}"
    return f"FINDINGS: {findings} IMPRESSION: {impression}"


def _target_texts(record: dict, target: str) -> list[str]:
    """The text of each section of the target. A plain annotation calls its findings `report`."""
    known = {name: record.get(name) for name in ("findings", "impression")}
    if not isinstance(known["findings"], str):
        known["findings"] = record.get("report")
    names = ("findings", "impression") if target == "both" else (target,)
    return [(known[name] or "").strip() for name in names]


def context_of(record: dict) -> Iterable[str]:
    """The texts of the clinical context that the record has."""
    return [text for name in CONTEXT_FIELDS if (text := (record.get(name) or "").strip())]
