"""MIMIC-CXR as PhysioNet ships it (2.0.0 and 2.1.0), read into annotation records.

    ROOT/files/p10/p10000032/s50414267.txt               reports; or ROOT/mimic-cxr-reports/files/..., as unpacked
    ROOT/files/p10/p10000032/s50414267/<dicom_id>.jpg    images of MIMIC-CXR-JPG; or the .dcm files of MIMIC-CXR
    ROOT/mimic-cxr-2.0.0-split.csv.gz                    the tables are part of MIMIC-CXR-JPG, named 2.0.0 in 2.1.0 too;
    ROOT/mimic-cxr-2.0.0-metadata.csv.gz                 unpacked (.csv) they are read as well
    ROOT/mimic-cxr-2.0.0-chexpert.csv.gz                 labels, if it is there; else those of ...-negbio.csv.gz

Images and tables may lie in another folder than the reports, and all of it at any depth below ROOT, as `wget -r` leaves
it (physionet.org/files/mimic-cxr-jpg/2.1.0/files/p10/...). Where mimic_cxr_sectioned.csv(.gz) is there, made by the
section script of MIMIC-CXR's own code), findings and impression are those of its columns; the context is that of the
reports where they are there, else its comparison.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dllm.data.files import Walk
from dllm.data.parallel import map_parallel
from llava.radiology.release import SPLITS, Release, choose_images, normal_id
from llava.radiology.sections import READING, SECTIONS, parse_sections
from llava.radiology.tables import read_rows

PUBLISHED_SPLITS = dict(zip(("train", "validate", "test"), SPLITS, strict=True))
TABLE = "mimic-cxr-2.0.0-{}.csv"
LABEL_TABLES = ("chexpert", "negbio")
COPY_AGAIN = "copy the file again from MIMIC-CXR-JPG"
POSITIVE = "1.0"  # 0.0 is denied, -1.0 uncertain, empty not mentioned
IMAGE_TYPES = (".jpg", ".dcm")
SECTIONED = "mimic_cxr_sectioned.csv"
SHOWN, QUOTED_WORDS = 10, 8  # of the studies whose sections differ

NOT_IN_METADATA = "not in the metadata file"
NO_PATIENT = "patient unknown"
NO_REPORT = "no report file"
EMPTY_REPORT = "empty report file"
NO_IMAGE = "image file missing"
NOT_SECTIONED = f"not in {SECTIONED}"


def read_mimic_release(
    root: str | Path, images: str | Path | None = None, views: str = "frontal", compare: str | Path | None = None
) -> Release:
    """Read the release at `root`: the studies of the split file in its order, with images, sections and labels.

    `images` is the folder of the images; without it they are looked for at `root`. `views` is that of `choose_images`;
    an image that it does not take may be missing. The `id` of a record is that of its study ("s50414267"). The reports
    are parsed on all cores. The notes say how many studies have in the table `compare`, or in the SECTIONED that is
    there, the findings and impression that our rules find in their report.

    Raises ValueError with one line: a table or folder is missing, damaged or lacks a column, a study is in two splits
    or of two patients, a report is not UTF-8 text.
    """
    root, images = Path(root), Path(images or root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; name that of the release with --root")
    if not images.is_dir():
        raise ValueError(f"{images}: no such image folder; name it with --images")
    report_trees, folders, skipped = _search(root)
    image_trees, image_folders, _ = (report_trees, folders, ()) if images == root else _search(images)
    tables = list(dict.fromkeys((*folders, *image_folders, images.parent if images.name == "files" else images)))
    source = _find_table(tables, SECTIONED)
    texts = _read_sectioned(source) if source else None
    reports = _tree(report_trees, "s*.txt")
    if reports is None and source is None:
        raise ValueError(f"{root}: holds no folder 'files' of reports; unpack mimic-cxr-reports.zip of MIMIC-CXR there")
    images = _tree(image_trees, "s*/*.jpg", "s*/*.dcm") or images
    release = choose_images(replace(_read_tables(tables), images=images), views)
    read = partial(_read_study, reports or root, images)
    ours = {}  # by our rules, of every report that was read
    for split, records in release.splits.items():
        studies = [(record, None if texts is None else texts.get(record["id"], {})) for record in records]
        results = list(map_parallel(read, studies, f"reading the {split} reports", "report"))
        ours |= {record["id"]: found for record, (_, found) in zip(records, results, strict=True) if found}
        release.splits[split] = [result for result, _ in results if isinstance(result, dict)]
        release.left_out.update((split, result) for result, _ in results if isinstance(result, str))
    notes = [f"findings and impression are those of {source}"] if source else []
    if compare is not None:
        notes += _compare(ours, _read_sectioned(Path(compare)), Path(compare))
    elif source and ours:
        notes += _compare(ours, texts, source)
    return replace(release, notes=(*notes, *skipped))


def _compare(ours: dict[str, dict[str, str]], theirs: dict[str, dict[str, str]], table: Path) -> list[str]:
    """How many studies have the same words in both, and the first SHOWN that do not, from the first word on."""
    both = [study for study in ours if study in theirs]
    differ = [study for study in both if any(ours[study][name] != theirs[study][name] for name in READING)]
    same, shown = f"{len(both) - len(differ)} of {len(both)} studies have", differ[:SHOWN]
    line = f"{same} the findings and impression of {table} by our rules too, word for word"
    lines = [line + (f"; the first {len(shown)} that do not:" if shown else "")]
    for study in shown:
        texts = {name: (ours[study][name], theirs[study][name]) for name in READING}
        lines += [f"  {study}, {name}: {_difference(*pair)}" for name, pair in texts.items() if pair[0] != pair[1]]
    return lines


def _difference(ours: str, theirs: str) -> str:
    """Both texts from the first word in which they differ."""
    words = ours.split(), theirs.split()
    same = len(os.path.commonprefix(words))
    quoted = [repr(" ".join(text[same : same + QUOTED_WORDS])) for text in words]
    return f"after {same} words ours {quoted[0]}, there {quoted[1]}"


def _search(root: Path) -> tuple[list[Path], list[Path], tuple[str, ...]]:
    """Folders of p10, p11, ..., the nearest first; all folders outside them, the nearest first; what was left out."""
    trees, visited, walk = [], [], Walk(root)
    for folder, folders, _ in walk:
        patients = [name for name in folders if re.fullmatch(r"p\d\d", name)]
        trees += [folder] if patients else []
        folders[:] = [name for name in folders if name not in patients]  # their files are found by name
        visited.append(folder)
    trees.sort(key=lambda tree: (tree.parent.name != "mimic-cxr-reports", len(tree.parts)))
    visited.sort(key=lambda folder: len(folder.parts))
    return trees, visited, walk.notes()


def _tree(trees: Sequence[Path], *files: str) -> Path | None:
    """The first of the trees with such files of a patient; the first if none has any or there is one; None of none."""
    if len(trees) < 2:
        return next(iter(trees), None)
    return next((tree for file in files for tree in trees if any(tree.glob(f"p[0-9][0-9]/p*/{file}"))), trees[0])


def _read_tables(folders: Sequence[Path]) -> Release:
    """The studies of the split file with their images (paths without their ending), views and labels."""
    split_table, metadata = _need_table(folders, "split"), _need_table(folders, "metadata")
    labels = _read_labels(folders)
    rows = read_rows(metadata, COPY_AGAIN, "dicom_id", "ViewPosition")
    images = {row["dicom_id"]: row["ViewPosition"].strip() for row in rows}
    order = {dicom_id: index for index, dicom_id in enumerate(images)}
    splits, left_out = {split: [] for split in SPLITS}, Counter()
    for (study_id, subject_id, split), dicom_ids in _read_split(split_table).items():
        if not any(dicom_id in images for dicom_id in dicom_ids):
            left_out[split, NOT_IN_METADATA] += 1
            continue
        if not subject_id:
            left_out[split, NO_PATIENT] += 1
            continue
        ordered = sorted(dicom_ids, key=lambda dicom_id: order.get(dicom_id, len(order)))
        folder = f"p{subject_id[:2]}/p{subject_id}/s{study_id}"
        record = {
            "id": f"s{study_id}",
            "study_id": study_id,
            "subject_id": subject_id,
            "image_path": [f"{folder}/{dicom_id}" for dicom_id in ordered],
            "views": [images.get(dicom_id, "") for dicom_id in ordered],
        }
        splits[split].append(record | ({"labels": labels[study_id]} if study_id in labels else {}))
    return Release(splits, left_out)


def _read_split(table: Path) -> dict[tuple[str, str, str], list[str]]:
    """The images of each study (study, patient, split) of the split file."""
    studies, known = {}, {}
    for row in read_rows(table, COPY_AGAIN, "dicom_id", "study_id", "subject_id", "split"):
        if row["split"] not in PUBLISHED_SPLITS:
            names = ", ".join(PUBLISHED_SPLITS)
            raise ValueError(f"{table}: unknown split {row['split']!r}, known: {names}; copy the file again")
        study = (normal_id(row["study_id"]), normal_id(row["subject_id"]), PUBLISHED_SPLITS[row["split"]])
        if known.setdefault(study[0], study) != study:
            raise ValueError(f"{table}: study {study[0]} is in two splits or of two patients; copy the file again")
        studies.setdefault(study, []).append(row["dicom_id"])
    return studies


def _read_labels(folders: Sequence[Path]) -> dict[str, list[str]]:
    """The positive labels of each study that the first of LABEL_TABLES names; of none if no table is there."""
    for name in LABEL_TABLES:
        if (table := _find_table(folders, TABLE.format(name))) is not None:
            rows = ((normal_id(row["study_id"]), row) for row in read_rows(table, COPY_AGAIN, "study_id"))
            return {study: [name for name, value in row.items() if value == POSITIVE] for study, row in rows}
    return {}


def _need_table(folders: Sequence[Path], name: str) -> Path:
    if (table := _find_table(folders, TABLE.format(name))) is None:
        raise ValueError(f"{folders[0] / TABLE.format(name)}.gz: no such file; copy it from MIMIC-CXR-JPG on PhysioNet")
    return table


def _find_table(folders: Sequence[Path], file: str) -> Path | None:
    """The first of the folders' files of that name, plain or compressed."""
    tables = (folder / (file + ending) for folder in folders for ending in ("", ".gz"))
    return next((table for table in tables if table.is_file()), None)


def _read_sectioned(table: Path) -> dict[str, dict[str, str]]:
    """Findings, impression and comparison of each study ("s50414267"), each on one line."""
    texts = (*READING, "comparison")
    rows = read_rows(table, "write it again with create_section_files.py", "study", *texts)
    return {f"s{normal_id(row['study'])}": {name: " ".join(row[name].split()) for name in texts} for row in rows}


def _read_study(
    reports: Path, images: Path, study: tuple[dict, dict | None]
) -> tuple[dict | str, dict[str, str] | None]:
    """The record with its sections and the files of its images, or the reason why the study is left out; and the
    sections of its report by our rules, None without a report.

    A study is its record and its row of SECTIONED: None where there is no such table, empty where it lacks the study.
    """
    record, row = study
    folder = Path(record["image_path"][0]).parent  # of the images; the report lies beside it
    text = _read_report(reports / folder.with_name(f"{folder.name}.txt"))
    ours = parse_sections(text) if text and text.strip() else None
    if row is None and ours is None:
        return NO_REPORT if text is None else EMPTY_REPORT, None
    if row is not None and not row:
        return NOT_SECTIONED, ours
    texts = ours or dict.fromkeys(SECTIONS, "") | row
    texts = texts | {name: row[name] for name in READING} if row else texts
    paths = [_image_file(images, image) for image in record["image_path"]]
    return (record | texts | {"image_path": paths} if all(paths) else NO_IMAGE), ours


def _read_report(report: Path) -> str | None:
    """The text of a report; None if there is no such file."""
    try:
        return report.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ValueError(f"{report}: the report is not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _image_file(folder: Path, image: str) -> str | None:
    """The path of an image with its ending; None if there is no such file."""
    paths = (image + ending for ending in IMAGE_TYPES)
    return next((path for path in paths if (folder / path).is_file()), None)
