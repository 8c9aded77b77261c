"""MIMIC-CXR annotations turned into LLaVA conversations; the prompt of a study is built here and nowhere else.

An annotation is `{"train": [record, ...], "val": [...], "test": [...]}`. A record has `id`, `report` and `image_path`
(a list of files relative to the image folder) and may have `indication`, `comparison`, `history` and `technique`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tqdm import tqdm

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.images import check_image

SPLITS = ("train", "val", "test")
VIEWS = ("first", "all")
CONTEXT_FIELDS = ("indication", "comparison", "history", "technique")
ASSISTANT_PROMPT = "Provide a detailed description of the findings in the radiology image."
CLINICAL_PROMPT = "Following clinical context:"


def clinical_prompt(record: dict, num_images: int = 1) -> str:
    """Build the prompt of one study: an image token per film, the task, and the context fields that hold text.

    `record` needs only those of CONTEXT_FIELDS that are known; without any of them the clause is left out.
    """
    context = {name: (record.get(name) or "").strip() for name in CONTEXT_FIELDS}
    fields = [f"{name.capitalize()}: {text}" for name, text in context.items() if text]
    clause = [CLINICAL_PROMPT, *fields] if fields else []
    return f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + " ".join([ASSISTANT_PROMPT, *clause])


def convert_record(record: dict, views: str = "first") -> dict:
    """Turn one annotation record into a LLaVA record of one human and one gpt turn.

    `views` is `first` ("image" is the first film's path) or `all` ("image" is the list of all paths).
    Raises ValueError with one line that names the record: not an object, a field missing, empty or of a wrong type.
    """
    if views not in VIEWS:
        raise ValueError(f"unknown views {views!r}: choose one of {', '.join(VIEWS)}")
    _check_record(record)
    films = record["image_path"] if views == "all" else record["image_path"][:1]
    return {
        "id": record["id"],
        "image": films if views == "all" else films[0],
        "conversations": [
            {"from": "human", "value": clinical_prompt(record, num_images=len(films))},
            {"from": "gpt", "value": record["report"]},
        ],
    }


def read_annotation(path: str | Path) -> dict[str, list]:
    """Read the annotation file and return its lists by split, in the order train, val, test.

    Raises ValueError with one line: missing, not UTF-8, not JSON, not an object, no train list, an empty list.
    """
    try:
        annotation = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such annotation file; name it with --annotation") from None
    except OSError as error:
        raise ValueError(f"{path}: the annotation cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the annotation is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the annotation is not JSON ({error}); was it copied in full?") from error
    if not isinstance(annotation, dict):
        raise ValueError(f"{path}: the annotation must be an object with the lists {', '.join(SPLITS)}")
    if "train" not in annotation:
        raise ValueError(f"{path}: the annotation has no train list, only: {', '.join(annotation) or 'nothing'}")
    splits = {split: annotation[split] for split in SPLITS if split in annotation}
    for split, records in splits.items():
        if not isinstance(records, list) or not records:
            raise ValueError(f"{path}: {split!r} must be a list with at least one record; add some or leave it out")
    return splits


def convert_annotation(path: str | Path, out_dir: str | Path, views: str, image_dir: str | Path | None = None) -> str:
    """Convert the annotation at `path` into one LLaVA file per list in `out_dir` and return a summary to print.

    With `image_dir` every film that the records name is checked first. All is read and checked before the first file
    is touched, and a file is replaced only by a whole one. Raises ValueError with one line.
    """
    splits = read_annotation(path)
    converted = {split: _convert_split(records, views, f"{path}: {split}") for split, records in splits.items()}
    if image_dir is not None:
        check_films([record for records in converted.values() for record in records], image_dir)
    targets = {split: Path(out_dir) / f"{split}_llava_llada.json" for split in SPLITS}
    _write_all({targets[split]: records for split, records in converted.items()})

    lines = []
    for split, target in targets.items():
        if split not in converted:
            kept = f"; {target} from an earlier run is left as it was" if target.exists() else ""
            lines.append(f"{split}: no such list in the annotation{kept}")
            continue
        used = sum(len(_films(record)) for record in converted[split])
        further = sum(len(record["image_path"]) for record in splits[split]) - used
        left_out = f" ({further} further images left out; --views all keeps them)" if further else ""
        lines.append(f"{split}: {len(converted[split])} studies, {used} images{left_out} -> {target}")
    return "\n".join(lines)


def check_films(records: list[dict], image_dir: str | Path) -> None:
    """Check every film that the LLaVA records name in `image_dir`; ValueError with their number and the first one."""
    if not Path(image_dir).is_dir():
        raise ValueError(f"{image_dir}: no such image folder; name it with --images")
    first_user = {}
    for record in records:
        for film in _films(record):
            first_user.setdefault(film, record["id"])
    problems = []
    for film, record_id in tqdm(first_user.items(), desc="checking films", unit="film"):
        try:
            check_image(Path(image_dir) / film)
        except ValueError as error:
            problems.append(f"record {record_id!r}: {error}")
    if problems:
        raise ValueError(f"{len(problems)} of {len(first_user)} films cannot be used; the first: {problems[0]}")


def _films(record: dict) -> list[str]:
    image = record["image"]
    return image if isinstance(image, list) else [image]


def _convert_split(records: list, views: str, where: str) -> list[dict]:
    converted = []
    for index, record in enumerate(records):
        try:
            converted.append(convert_record(record, views))
        except ValueError as error:
            raise ValueError(f"{where}[{index}]: {error}") from None
    return converted


def _check_record(record: object) -> None:
    """Raise ValueError unless the record has an id, a report, films, and text where text is expected."""
    if not isinstance(record, dict):
        raise ValueError(f"a record must be an object, not {type(record).__name__}")
    if not _is_text(record.get("id")):
        raise ValueError("the record has no id; give it a text of its own")
    name = f"record {record['id']!r}"
    if not _is_text(record.get("report")):
        raise ValueError(f"{name} has no report; add its text or take the record out")
    films = record.get("image_path")
    if not isinstance(films, list) or not films or not all(_is_text(film) for film in films):
        raise ValueError(f"{name} has no image_path; give it a list of at least one file name")
    for field in CONTEXT_FIELDS:
        if not isinstance(record.get(field, ""), str | None):
            raise ValueError(f"{name}: {field} must be text; leave it out when it is unknown")
    for field in ("report", *CONTEXT_FIELDS):
        if DEFAULT_IMAGE_TOKEN in (record.get(field) or ""):
            raise ValueError(f"{name}: {field} contains {DEFAULT_IMAGE_TOKEN}, which stands for a film; reword it")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _write_all(files: dict[Path, list[dict]]) -> None:
    """Write every file beside its target first and move them into place together at the end."""
    partial = []
    try:
        for target, records in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.append(target.with_name(f".{target.name}.partial"))
            with open(partial[-1], "w", encoding="utf-8") as file:
                json.dump(records, file, ensure_ascii=False, indent=2)
                file.write("\n")
        for path, target in zip(partial, files, strict=True):
            os.replace(path, target)
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be written ({error.strerror}); choose another --out_dir") from error
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
