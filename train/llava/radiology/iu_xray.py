"""The chest images of Indiana University (IU X-Ray; Demner-Fushman et al., 2016), read into annotation records.

As Open-i publishes it, or as R2Gen (Chen et al., 2020) splits it; where both are there, R2Gen's annotation is read:

    ROOT/.../ecgen-radiology/1.xml            a report each, anywhere below ROOT
    ROOT/.../CXR1_1_IM-0001-3001.png          the images: PNG, JPEG or DICOM; 1_IM-0001-3001.dcm.png is the same image
    ROOT/.../indiana_projections.csv          says which images are frontal; optional (uid, filename, projection)

    ROOT/annotation.json                      R2Gen: {"train": [{"id", "report", "image_path"}, ...], "val": ...}
    ROOT/images/CXR1_1_IM-0001/0.png

Open-i has no split. A study is train, val or test as sha256 of its id ("CXR1"), read as a fraction of 1, is below 0.7,
below 0.8 or above: whatever else is in the folder, and on any machine. Patients are not named: each study counts as a
patient of its own.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from dllm.bar import Bar
from dllm.data.files import Walk
from llava.radiology.annotation import ANNOTATION, read_annotation
from llava.radiology.release import Release
from llava.radiology.sections import SECTIONS
from llava.radiology.tables import read_rows

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".dcm")  # the first that is there is used
TRAIN_BELOW, VAL_BELOW = 0.7, 0.8

VIEW_ORDER = ("FRONTAL", "", "LATERAL")

NO_IMAGE = "the report names no image"
IMAGE_MISSING = "image file missing"
NO_TEXT = "neither findings nor impression"

# Coarse clinical label -> the first part of the MeSH terms that mean it ("Opacity/lung/base/left" -> "Opacity").
LABELS = {
    "normal": {"normal"},
    "Atelectasis": {"Pulmonary Atelectasis"},
    "Cardiomegaly": {"Cardiomegaly"},
    "Consolidation": {"Consolidation"},
    "Edema": {"Pulmonary Edema"},
    "Effusion": {"Pleural Effusion", "Pericardial Effusion"},
    "Emphysema": {"Emphysema", "Pulmonary Emphysema"},
    "Fibrosis": {"Fibrosis", "Pulmonary Fibrosis"},
    "Infiltration": {"Infiltrate"},
    "Mass": {"Mass"},
    "Nodule": {"Nodule"},
    "Pleural_Thickening": {"Thickening"},
    "Pneumonia": {"Pneumonia"},
    "Pneumothorax": {"Pneumothorax"},
}


def read_iu_xray(root: str | Path) -> Release:
    """Read the collection at `root`: its studies in their order, the frontal images of a study first where known.

    `views` are "FRONTAL" and "LATERAL", and "" without indiana_projections.csv: the captions of the reports name the
    views of a study, but not which image is which. The images are then in the order of the report or of R2Gen. A record
    of Open-i also has `mesh`, the terms that its indexers chose, and `labels`, the keys of LABELS that these mean;
    R2Gen's has `findings` alone. Hidden files (._1.xml, __MACOSX) are skipped and counted in the notes.

    Raises ValueError with one line: no such folder, no report or no image in it, a file damaged or not UTF-8.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; name that of the collection with --root")
    annotation = root / "annotation.json"
    walk = Walk(root)
    files = sorted(folder / name for folder, _, names in walk for name in names)
    release = _read_r2gen(annotation) if annotation.is_file() else _read_openi(root, files)
    return replace(release, notes=walk.notes())


def image_name(name: str) -> str:
    """An image's name without what the copies of the collection add: CXR1_1_IM-0001-3001 -> 1_IM-0001-3001."""
    name = re.sub(r"(?:\.(?:png|jpe?g|dcm))+$", "", name, flags=re.IGNORECASE)
    return re.sub(r"^CXR(\d+)_(?:\1_)?", r"\1_", name)


def split_of(study_id: str) -> str:
    """The split of an Open-i study, from its id ("CXR1")."""
    place = int.from_bytes(hashlib.sha256(study_id.encode()).digest()[:8]) / 2**64
    return "train" if place < TRAIN_BELOW else "val" if place < VAL_BELOW else "test"


def labels_of(mesh: list[str]) -> list[str]:
    """The keys of LABELS that the MeSH terms of a study mean, in the order of LABELS."""
    heads = {term.split("/")[0].strip() for term in mesh}
    return [label for label, meant in LABELS.items() if heads & meant]


def _read_r2gen(path: Path) -> Release:
    release = Release(images=path.parent / "images")
    for split, studies in read_annotation(path).items():
        for number, study in enumerate(studies):
            fields = [study.get(name) for name in ("id", "report", "image_path")] if isinstance(study, dict) else []
            if [type(value) for value in fields] != [str, str, list]:
                problem = "a study must have the texts id and report and the list image_path"
                raise ValueError(f"{path}: {split}[{number}]: {problem}; copy R2Gen's file again")
            study_id, report, images = fields
            record = _record(study_id, study_id.split("_")[0], {"findings": report}, images, [""] * len(images))
            _keep(release, split, record, None if images else NO_IMAGE)
    return release


def _read_openi(root: Path, files: list[Path]) -> Release:
    reports = [path for path in files if path.suffix == ".xml"]
    reports.sort(key=lambda path: (len(path.stem), path.stem))  # 2.xml before 10.xml
    if not reports:
        if annotations := [path for path in files if path.name == ANNOTATION]:
            remedy = f"give --annotation {annotations[0]} in place of --dataset and --root"
            raise ValueError(f"{root}: holds no reports as Open-i publishes them, but an annotation: {remedy}")
        raise ValueError(f"{root}: holds neither annotation.json nor XML reports; unpack NLMCXR_reports.tgz there")
    images, views = _find_images(root, files), _read_views(files)
    release = Release(images=root)
    for path in Bar(reports, desc="reading the reports", unit="report"):
        report = _parse(path)
        study_id = _study_id(report, path)
        names = [image_name(image.get("id", "")) for image in report.iter("parentImage")]
        names.sort(key=lambda name: VIEW_ORDER.index(views.get(name, "")))
        reason = NO_IMAGE if not names else IMAGE_MISSING if any(name not in images for name in names) else None
        texts = {name: _text(report, name.upper()) for name in SECTIONS}
        found, shown = ([known.get(name, "") for name in names] for known in (images, views))
        record = _record(study_id, study_id, texts, found, shown)
        mesh = [" ".join((term.text or "").split()) for term in report.iterfind("MeSH/major")]
        _keep(release, split_of(study_id), record | {"labels": labels_of(mesh), "mesh": mesh}, reason)
    return release


def _record(name: str, study_id: str, texts: dict[str, str], images: list[str], views: list[str]) -> dict:
    texts = {text: " ".join(texts.get(text, "").split()) for text in SECTIONS}
    return {"id": name, "study_id": study_id, "subject_id": study_id} | texts | {"image_path": images, "views": views}


def _keep(release: Release, split: str, record: dict, reason: str | None) -> None:
    """Adds a record to its split, or counts it under the reason for which it cannot be used."""
    if reason is None and not (record["findings"] or record["impression"]):
        reason = NO_TEXT
    if reason is None:
        release.splits[split].append(record)
    else:
        release.left_out[split, reason] += 1


def _find_images(root: Path, files: list[Path]) -> dict[str, str]:
    """The images among the files: name -> path relative to `root`."""
    images = {}
    for suffix in IMAGE_TYPES:
        for path in files:
            if path.suffix.lower() == suffix:
                images.setdefault(image_name(path.name), str(path.relative_to(root)))
    if not images:
        raise ValueError(f"{root}: holds no images ({', '.join(IMAGE_TYPES)}); unpack NLMCXR_png.tgz there")
    return images


def _read_views(files: list[Path]) -> dict[str, str]:
    """Which image is "FRONTAL" and which "LATERAL", by its name; empty where the table is not among the files."""
    views = {}
    for path in [path for path in files if path.name == "indiana_projections.csv"][:1]:
        rows = read_rows(path, "copy it again", "filename", "projection")
        views = {image_name(row["filename"]): row["projection"].strip().upper() for row in rows}
        if unknown := set(views.values()) - set(VIEW_ORDER):
            raise ValueError(f"{path}: unknown projection {min(unknown)!r}, known: Frontal, Lateral; copy it again")
    return views


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: its declared encoding
        raise ValueError(f"{path}: the report is cut off or damaged ({error}); unpack it again") from None


def _study_id(report: ElementTree.Element, path: Path) -> str:
    study_id = next((mark.get("id", "") for mark in report.iterfind("uId")), "")
    if not re.fullmatch(r"CXR\d+", study_id):
        raise ValueError(f"{path}: is no report of Open-i's chest images (no uId CXR...); move it out of the folder")
    return study_id


def _text(report: ElementTree.Element, label: str) -> str:
    """What the report says under a label such as FINDINGS, "" if nothing."""
    texts = report.iterfind("MedlineCitation/Article/Abstract/AbstractText")
    return " ".join("".join(text.itertext()) for text in texts if text.get("Label") == label)
