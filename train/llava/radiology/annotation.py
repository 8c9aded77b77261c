"""Annotations turned into LLaVA conversations; the prompt of a study is built here and nowhere else.

An annotation is `{"train": [record, ...], "val": [...], "test": [...]}`. A record has `id`, `report` and `image_path`
(a list of files relative to the image folder) and may have `indication`, `comparison`, `history` and `technique`,
`impression`, `views` (parallel to `image_path`), `subject_id`, and `target`, which says what its report is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dllm.data.files import read_json, replacing
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.records import image_names
from llava.radiology.checks import check_contents, check_images, check_records, without_patient
from llava.radiology.release import CONTEXT_FIELDS, SPLITS, TARGETS, VIEWS, Release, choose_images, choose_target

ANNOTATION = "annotation_with_clinic_info.json"
ASSISTANT_PROMPTS = {
    "findings": "Provide a detailed description of the findings in the radiology image.",
    "impression": "Provide the impression of the radiology image.",
    "both": "Provide a detailed description of the findings in the radiology image, then the impression.",
}
CLINICAL_PROMPT = "Following clinical context:"


def clinical_prompt(record: dict, num_images: int = 1) -> str:
    """Build the prompt of one study: an image token per image, the task, and the context fields that hold text.

    `record` needs only those of CONTEXT_FIELDS that are known; without any of them the clause is left out. Its
    `target` is what is to be written, findings if it is not there.
    """
    context = {name: (record.get(name) or "").strip() for name in CONTEXT_FIELDS}
    fields = [f"{name.capitalize()}: {text}" for name, text in context.items() if text]
    clause = [CLINICAL_PROMPT, *fields] if fields else []
    task = ASSISTANT_PROMPTS[record.get("target", "findings")]
    return f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + " ".join([task, *clause])


def convert_record(record: dict, views: str = "first") -> dict:
    """Turn one annotation record into a LLaVA record of one human and one gpt turn.

    With the views `first` "image" is the first image's path; with `frontal` and `all`, between which `choose_images`
    has chosen, it is the list of the record's paths.
    Raises ValueError with one line that names the record: not an object, a field missing, empty or of a wrong type.
    """
    if views not in VIEWS:
        raise ValueError(f"unknown views {views!r}: choose one of {', '.join(VIEWS)}")
    _check_record(record)
    images = record["image_path"][:1] if views == "first" else record["image_path"]
    return {
        "id": record["id"],
        "image": images[0] if views == "first" else images,
        "conversations": [
            {"from": "human", "value": clinical_prompt(record, num_images=len(images))},
            {"from": "gpt", "value": record["report"]},
        ],
    }


def read_annotation(path: str | Path) -> dict[str, list]:
    """Read the annotation file and return its lists by split, in the order train, val, test.

    Raises ValueError with one line: missing, not UTF-8, not JSON, not an object, no train list, an empty list.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such annotation file; name it with --annotation")
    annotation = read_json(path, "was it copied in full, and saved as UTF-8?", object)
    if not isinstance(annotation, dict):
        raise ValueError(f"{path}: the annotation must be an object with the lists {', '.join(SPLITS)}")
    if "train" not in annotation:
        raise ValueError(f"{path}: the annotation has no train list, only: {', '.join(annotation) or 'nothing'}")
    splits = {split: annotation[split] for split in SPLITS if split in annotation}
    for split, records in splits.items():
        if not isinstance(records, list) or not records:
            raise ValueError(f"{path}: {split!r} must be a list with at least one record; add some or leave it out")
    return splits


def convert_annotation(
    path: str | Path, out_dir: str | Path, views: str, image_dir: str | Path | None = None, target: str | None = None
) -> str:
    """Convert the annotation at `path` into one LLaVA file per list in `out_dir` and return a summary to print.

    `target` is that of `choose_target`; without it each report is taken as it is. With `image_dir` every image in use
    is checked first. All is read and checked before the first file is touched; a file is replaced only by a whole one.
    Raises ValueError with one line, for a bad experiment too (`checks`).
    """
    check_writable(out_dir)
    release = Release(read_annotation(path), images=image_dir)
    _for_each(_check_record, release.splits, path)
    if views == "frontal":
        _for_each(_check_views, release.splits, path)
        release = choose_images(release, views)
    if target is not None:
        release = choose_target(release, target)
    return _convert(release, out_dir, views, path)


def convert_release(release: Release, root: str | Path, out_dir: str | Path, views: str, target: str) -> str:
    """Convert a release whose images are chosen, as `convert_annotation` does; its annotation goes beside the files.

    `root` is what messages call the release.
    """
    release = choose_target(release, target)
    annotation = Path(out_dir) / ANNOTATION
    records = {split: records for split, records in release.splits.items() if records}
    summary = _convert(release, out_dir, views, root, {annotation: records})
    return f"{summary}\nannotation -> {annotation}, images in {release.images}"


def check_writable(out_dir: str | Path) -> None:
    """Raise ValueError if `out_dir` cannot be made or written to: better known before the long work than after it."""
    folder = next(path for path in (Path(out_dir).absolute(), *Path(out_dir).absolute().parents) if path.exists())
    if not folder.is_dir():
        raise ValueError(f"{folder}: cannot be written (not a folder); choose another --out_dir")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: cannot be written (permission denied or read-only); choose another --out_dir")


def _convert(release: Release, out_dir: str | Path, views: str, where: str | Path, extra: dict | None = None) -> str:
    """Convert and check the records, write their files and those of `extra`; returns the summary."""
    splits = {split: records for split, records in release.splits.items() if records}
    if not splits:
        reasons = "; ".join(f"{split}: {reason.strip()}" for split in SPLITS for reason in release.reasons(split))
        raise ValueError(f"{where}: no study can be used ({reasons or 'none is named'}); check the folders and --views")
    converted = _for_each(partial(convert_record, views=views), splits, where)
    try:
        check_records(splits)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if release.images is not None:
        records = [record for records in converted.values() for record in records]
        check_contents(converted, check_images(records, release.images), release.images)
    targets = {split: Path(out_dir) / f"{split}_llava_llada.json" for split in SPLITS}
    _write_all({targets[split]: records for split, records in converted.items()} | (extra or {}))
    lines = [line for split in SPLITS for line in _summary(split, release, converted, targets[split])]
    if len(splits) > 1 and (unknown := without_patient(splits)):
        lines.append(f"{unknown} studies have no subject_id: whether their patients are in two splits is not checked")
    return "\n".join([*lines, *release.notes])


def _summary(split: str, release: Release, converted: dict[str, list[dict]], target: Path) -> list[str]:
    """What became of one split, and why studies of it were left out."""
    if split not in converted:
        what = "no study can be used" if split in release.splits else "no such list in the annotation"
        kept = f"; {target} from an earlier run is left as it was" if target.exists() else ""
        return [f"{split}: {what}{kept}", *release.reasons(split)]
    used = sum(len(image_names(record)) for record in converted[split])
    further = sum(len(record["image_path"]) for record in release.splits[split]) - used
    left_out = f" ({further} further images left out; --views all keeps them)" if further else ""
    line = f"{split}: {len(converted[split])} studies, {used} images{left_out} -> {target}"
    return [line, *release.reasons(split)]


def _for_each(function: Callable, splits: dict[str, list], where: str | Path) -> dict[str, list]:
    """Apply `function` to every record; its ValueError is raised with the record's index in front."""
    results = {split: [] for split in splits}
    for split, records in splits.items():
        for index, record in enumerate(records):
            try:
                results[split].append(function(record))
            except ValueError as error:
                raise ValueError(f"{where}: {split}[{index}]: {error}") from None
    return results


def _check_record(record: object) -> None:
    """Raise ValueError unless the record has an id, a report, images, and text where text is expected."""
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, not {type(record).__name__}")
    if not _is_text(record.get("id")):
        raise ValueError("the record has no id; give it a text of its own")
    name = f"record {record['id']!r}"
    if not _is_text(record.get("report")):
        raise ValueError(f"{name} has no report; add its text or take the record out")
    images = record.get("image_path")
    if not isinstance(images, list) or not images or not all(_is_text(image) for image in images):
        raise ValueError(f"{name} has no image_path; give it a list of at least one file name")
    if record.get("target", "findings") not in TARGETS:
        raise ValueError(f"{name}: target must be one of {', '.join(TARGETS)}, not {record['target']!r}")
    for field in ("impression", *CONTEXT_FIELDS):
        if not isinstance(record.get(field, ""), str | None):
            raise ValueError(f"{name}: {field} must be text; leave it out when it is unknown")
    for field in ("report", *CONTEXT_FIELDS):
        if DEFAULT_IMAGE_TOKEN in (record.get(field) or ""):
            raise ValueError(f"{name}: {field} contains {DEFAULT_IMAGE_TOKEN}, which stands for an image; reword it")


def _check_views(record: dict) -> None:
    views = record.get("views")
    if not isinstance(views, list) or len(views) != len(record["image_path"]):
        problem = "does not say the view of each image (`views`); use --views first or all"
        raise ValueError(f"record {record['id']!r} {problem}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _write_all(files: dict[Path, list | dict]) -> None:
    """Write every file beside its target first and move them over together at the end."""
    try:
        with ExitStack() as stack:
            for target, content in files.items():
                with open(stack.enter_context(replacing(target)), "w", encoding="utf-8") as file:
                    json.dump(content, file, ensure_ascii=False, indent=2)
                    file.write("\n")
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror}); choose another --out_dir") from error
