"""A release of MIMIC-CXR becomes an annotation and LLaVA files: what is kept, what is left out, what is refused."""

import csv
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from llava.data.dataset import ReportDataset
from llava.model.multimodal_resampler.builder import num_image_tokens
from llava.radiology.annotation import ANNOTATION, convert_annotation, convert_release
from llava.radiology.findings import parse_report
from llava.radiology.mimic_cxr import read_mimic_release
from llava.radiology.sections import SECTIONS
from oracles.mimic_release import (
    LATERAL_VIEWS,
    SHAPES,
    UNKNOWN_CONTEXT,
    write_impression,
)
from oracles.phantom_mimic import PATIENTS

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = "Provide a detailed description of the findings in the radiology image."
LEFT_OUT = """\
  left out, a report of one word: 1
  left out, empty report file: 1
  left out, image file missing: 1
  left out, no findings: 1
  left out, no frontal image: 1
  left out, no image known to be frontal: 1
  left out, no report file: 1
  left out, not in the metadata file: 1
  left out, the clinical context quotes the report: 1
"""


def run(*args):
    command = [sys.executable, str(ROOT / "convert_data.py"), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def by_study(splits):
    return {record["study_id"]: record for records in splits.values() for record in records}


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    """The finished program and its output folder."""
    out = tmp_path_factory.mktemp("converted")
    return run("--dataset", "mimic-cxr", "--root", release, "--out_dir", out), out


@pytest.fixture
def copy(release, tmp_path):
    return Path(shutil.copytree(release, tmp_path / "mimic"))


# What is kept


def test_the_program_says_what_was_kept_and_why_the_rest_was_not(release, converted):
    done, out = converted
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"train: 13 studies, 16 images -> {out}/train_llava_llada.json\n{LEFT_OUT}"
        f"val: 2 studies, 2 images -> {out}/val_llava_llada.json\n{LEFT_OUT}"
        f"test: 2 studies, 2 images -> {out}/test_llava_llada.json\n{LEFT_OUT}"
        f"annotation -> {out}/{ANNOTATION}, images in {release}/files\n"
    )
    assert len(list(out.iterdir())) == 4


def test_records_hold_the_sections_images_and_labels_of_their_study(converted, studies):
    annotation = read(converted[1] / ANNOTATION)
    shapes = Counter()
    for split, records in annotation.items():
        for record in records:
            entry = studies[record["study_id"]]
            study, shape = entry.study, SHAPES.get(entry.name, SHAPES["headed"])
            shapes[entry.name] += 1
            assert split == study.split
            assert record["id"] == f"s{study.study_id}" and record["subject_id"] == str(study.subject_id)
            assert record["findings"] == record["report"] == study.report
            impression = study.report if entry.name == "joined" else write_impression(study)
            has_impression = "{impression}" in shape or entry.name == "joined"
            assert record["impression"] == (impression if has_impression else "")
            for name, unknown in UNKNOWN_CONTEXT.items():
                text = study.context.get(name) or unknown
                assert record[name] == (text if f"{{{name}}}" in shape else ""), (entry.name, name)
            frontal = {name: view for name, view in entry.images().items() if view in ("PA", "AP")}
            assert record["image_path"] == [f"{entry.folder}/{name}.jpg" for name in frontal]
            assert record["views"] == list(frontal.values())
            assert ("Cardiomegaly" in record["labels"]) == (("cardiomegaly", "") in parse_report(study.report))
            assert "Pneumonia" not in record["labels"]  # uncertain at most
    assert shapes.keys() == {*SHAPES, "lateral image missing"}


def test_llava_files_are_those_of_the_annotation(release, converted, tmp_path):
    out = converted[1]
    convert_annotation(out / ANNOTATION, tmp_path, "frontal", release / "files")
    for split in PATIENTS:
        assert read(tmp_path / f"{split}_llava_llada.json") == read(out / f"{split}_llava_llada.json")
    record = read(out / "train_llava_llada.json")[0]
    assert record["conversations"][0]["value"].startswith(f"<image>\n{FINDINGS} Following clinical context: Indication")


def test_the_dataset_reads_the_result(release, converted, world):
    tokenizer, model, processor = world.build(diffusion={"gen_length": 320}, version="qwen")
    number = num_image_tokens(model.config, training=True)
    path, folder = converted[1] / "train_llava_llada.json", release / "files"
    dataset = ReportDataset(str(path), str(folder), tokenizer, processor, model.config, number, 2048, False)
    images = [len(record["image"]) for record in read(path)]
    assert [len(sample["images"]) for sample in dataset] == images and set(images) == {1, 2}


def test_all_views_come_frontal_first_of_every_study_that_has_its_images(release, studies, tmp_path):
    chosen = read_mimic_release(release, views="all")
    for record in by_study(chosen.splits).values():
        views = studies[record["study_id"]].images()
        lateral = [view in LATERAL_VIEWS for view in record["views"]]
        assert lateral == sorted(lateral) and Counter(record["views"]) == Counter(views.values())
        assert [views[Path(path).stem] for path in record["image_path"]] == record["views"]
    assert any("PA" in r["views"] and r["views"][1:] == ["AP", "LATERAL"] for r in by_study(chosen.splits).values())
    assert all(chosen.left_out[split, "image file missing"] == 2 for split in PATIENTS)
    summary = convert_release(chosen, release, tmp_path, "all", "findings")
    assert "train: 14 studies, 26 images ->" in summary
    first = read_mimic_release(release, views="first")
    assert all(record["views"] in (["PA"], ["AP"]) for record in by_study(first.splits).values())


@pytest.mark.parametrize(
    "target, kept, prompt",
    [
        ("impression", 14, "Provide the impression of the radiology image."),
        ("both", 12, FINDINGS[:-1] + ", then the impression."),
    ],
)
def test_other_targets_have_a_task_of_their_own_and_no_part_in_the_prompt(release, tmp_path, target, kept, prompt):
    convert_release(read_mimic_release(release), release, tmp_path, "frontal", target)
    annotation = read(tmp_path / ANNOTATION)
    llava = read(tmp_path / "train_llava_llada.json")
    assert len(llava) == len(annotation["train"]) == kept
    texts = {"impression": "{impression}", "both": "FINDINGS: {findings} IMPRESSION: {impression}"}
    joined = 0
    for source, record in zip(annotation["train"], llava, strict=True):
        question, answer = (turn["value"] for turn in record["conversations"])
        one_section = target == "both" and source["findings"] == source["impression"]
        joined += one_section
        text = "FINDINGS AND IMPRESSION: {findings}" if one_section else texts[target]
        assert answer == source["report"] == text.format(**source)
        assert question.replace("<image>\n", "").startswith(f"{prompt} ")
        assert source["impression"] not in question and "Impression" not in question
    assert (joined > 0) == (target == "both")
    convert_annotation(tmp_path / ANNOTATION, tmp_path / "again", "frontal")
    assert read(tmp_path / "again" / "train_llava_llada.json") == llava


def test_images_and_tables_may_lie_elsewhere_and_reports_as_unpacked(copy, release, tmp_path):
    jpg = tmp_path / "jpg"
    for image in copy.rglob("*.jpg"):
        target = jpg / image.relative_to(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.rename(target)
    for table in copy.glob("*.gz"):
        (jpg / table.stem).write_bytes(gzip.decompress(table.read_bytes()))  # unpacked
    (copy / "mimic-cxr-reports").mkdir()
    (copy / "files").rename(copy / "mimic-cxr-reports" / "files")
    for table in copy.glob("*.gz"):
        table.unlink()
    expected = read_mimic_release(release)
    for images in (jpg, jpg / "files"):
        moved = read_mimic_release(copy, images)
        assert moved.splits == expected.splits and moved.left_out == expected.left_out
        assert moved.images == jpg / "files"


def write_dicom(path, image):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns, data.SamplesPerPixel = *image.shape, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = image.tobytes()
    data.save_as(path, enforce_file_format=True)


def test_dicom_files_stand_in_for_missing_jpegs(copy, tmp_path):
    for path in list(copy.rglob("*.jpg")):
        with Image.open(path) as image:
            write_dicom(path.with_suffix(".dcm"), np.asarray(image))
        path.unlink()
    found = read_mimic_release(copy)
    paths = [path for record in by_study(found.splits).values() for path in record["image_path"]]
    assert paths and all(path.endswith(".dcm") and (copy / "files" / path).is_file() for path in paths)
    assert "train: 13 studies, 16 images" in convert_release(found, copy, tmp_path / "out", "frontal", "findings")
    truncate(copy / "files" / paths[0], 900)
    with pytest.raises(ValueError, match=f"1 of 20 images cannot be used; the first: .*{paths[0]}"):
        convert_release(found, copy, tmp_path / "out", "frontal", "findings")


def test_labels_come_from_negbio_without_chexpert_and_may_be_missing(copy, release):
    chexpert = copy / "mimic-cxr-2.0.0-chexpert.csv.gz"
    expected = {study: record["labels"] for study, record in by_study(read_mimic_release(release).splits).items()}
    lines = gzip.decompress(chexpert.read_bytes()).decode().splitlines()
    first = next(study for study in expected if f",{study}," in "\n".join(lines))
    rows = [line for line in lines if f",{first}," not in line]
    chexpert.with_name(chexpert.name.replace("chexpert", "negbio")).write_bytes(gzip.compress("\n".join(rows).encode()))
    chexpert.unlink()
    found = by_study(read_mimic_release(copy).splits)
    assert "labels" not in found.pop(first)
    assert {study: record["labels"] for study, record in found.items()} == {
        study: labels for study, labels in expected.items() if study != first
    }


# What is refused


def rewrite(copy, name, change):
    """Changes the lines of a table, header first."""
    path = copy / f"mimic-cxr-2.0.0-{name}.csv.gz"
    lines = change(gzip.decompress(path.read_bytes()).decode().splitlines())
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def first_report(copy):
    return min(path for path in copy.rglob("*.txt") if "FINDINGS:\n" in path.read_text())


def bad_split(copy):
    rewrite(copy, "split", lambda lines: [lines[0], lines[1].replace("train", "dev"), *lines[2:]])


def study_in_two_splits(copy):
    rewrite(copy, "split", lambda lines: [*lines, lines[1].replace("train", "test")])


def another_metadata(copy):
    rewrite(copy, "metadata", lambda lines: [lines[0], *(f"x{line}" for line in lines[1:])])


def patient_in_two_splits(copy):
    records = read_mimic_release(copy).splits["train"]
    patients = Counter(record["subject_id"] for record in records)
    study = next(record["study_id"] for record in records if patients[record["subject_id"]] > 1)
    move = {True: lambda line: line.replace("train", "test"), False: str}
    rewrite(copy, "split", lambda lines: [move[f",{study}," in line](line) for line in lines])


def doubled_image(copy):
    images = [read_mimic_release(copy).splits[split][0]["image_path"][0] for split in ("train", "test")]
    shutil.copy(copy / "files" / images[0], copy / "files" / images[1])


def image_cut_short(copy):
    truncate(copy / "files" / read_mimic_release(copy).splits["train"][0]["image_path"][0], 700)


SPLIT, METADATA, LABELS = (f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("split", "metadata", "chexpert"))
BAD_RELEASES = {
    "no folder": (shutil.rmtree, ": no such folder; name that of the release with --root"),
    "no files": (lambda copy: shutil.rmtree(copy / "files"), ": holds no folder 'files' of reports; unpack"),
    "no split file": (
        lambda copy: (copy / SPLIT).unlink(),
        f"/{SPLIT}: no such file; copy it from MIMIC-CXR-JPG on PhysioNet",
    ),
    "no metadata file": (lambda copy: (copy / METADATA).unlink(), f"/{METADATA}: no such file; copy it from"),
    "no column": (
        lambda copy: rewrite(copy, "metadata", lambda lines: [lines[0].replace("ViewPosition", "View"), *lines[1:]]),
        f"/{METADATA}: has no column 'ViewPosition'; copy the file again",
    ),
    "empty table": (lambda copy: rewrite(copy, "split", lambda lines: []), f"/{SPLIT}: has no column 'dicom_id'"),
    "gz cut short": (
        lambda copy: truncate(copy / METADATA, 600),
        f"/{METADATA}: cannot be read (Compressed file ended",
    ),
    "not gz": (lambda copy: (copy / LABELS).write_text("a,b\n"), f"/{LABELS}: cannot be read (Not a gzipped file"),
    "line cut short": (
        lambda copy: rewrite(copy, "split", lambda lines: [*lines[:2], lines[2][:50]]),
        f"/{SPLIT}, line 3: the line is cut off; copy the file again",
    ),
    "unknown split": (bad_split, f"/{SPLIT}: unknown split 'dev', known: train, validate, test"),
    "study in two splits": (study_in_two_splits, "is in two splits or of two patients; copy the file again"),
    "metadata of another release": (another_metadata, ": no study can be used (train: left out, not in the metadata"),
    "report not UTF-8": (
        lambda copy: first_report(copy).write_bytes("FINDINGS: Größe".encode("latin-1")),
        ".txt: the report is not UTF-8 text (invalid start byte); save it as UTF-8",
    ),
    "image cut short": (image_cut_short, "of 20 images cannot be used; the first: record 's5"),
    "patient in two splits": (patient_in_two_splits, ": patients (subject_id) in two splits: 1, the first: '1"),
    "image in two splits": (doubled_image, "images in two splits under two names: 1, the first: p1"),
}


@pytest.mark.parametrize("spoil, problem", BAD_RELEASES.values(), ids=BAD_RELEASES.keys())
def test_a_bad_release_is_one_line_and_writes_nothing(copy, tmp_path, spoil, problem):
    spoil(copy)
    with pytest.raises(ValueError) as error:
        convert_release(read_mimic_release(copy), copy, tmp_path / "out", "frontal", "findings")
    assert problem in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_program_prints_that_line_and_nothing_else(copy, tmp_path):
    truncate(copy / METADATA, 600)
    done = run("--dataset", "mimic-cxr", "--root", copy, "--out_dir", tmp_path / "out")
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr == (
        f"error: {copy / METADATA}: cannot be read (Compressed file ended before the end-of-stream marker was reached);"
        " copy the file again from MIMIC-CXR-JPG\n"
    )


def test_studies_that_the_release_lacks_are_counted(copy, release):
    extra = "aaaa,59999999,19999999,train"
    rewrite(copy, "split", lambda lines: [*lines, extra])
    rewrite(copy, "metadata", lambda lines: [*lines, f"bbbb,1,2,,PA{',' * 7}"])  # an image that the split does not name
    expected, found = read_mimic_release(release), read_mimic_release(copy)
    assert found.splits == expected.splits
    assert found.left_out - expected.left_out == Counter({("train", "not in the metadata file"): 1})
    rewrite(copy, "metadata", lambda lines: [*lines, f"aaaa,1,2,,PA{',' * 7}"])
    found = read_mimic_release(copy)
    assert found.left_out - expected.left_out == Counter({("train", "no report file"): 1})


def test_ids_of_tables_that_pandas_wrote_again(copy, release):
    """A column with a gap becomes one of 10000032.0, and the gap is empty."""

    def as_floats(lines, *columns):
        header, *rows = (line.split(",") for line in lines)
        numbers = [header.index(column) for column in columns]
        changed = [[f"{cell}.0" if n in numbers else cell for n, cell in enumerate(row)] for row in rows]
        return [",".join(row) for row in (header, *changed)]

    expected = read_mimic_release(release)
    rewrite(copy, "split", lambda lines: as_floats([*lines, "aaaa,59999999,,train"], "study_id", "subject_id"))
    rewrite(copy, "split", lambda lines: [line.replace(",59999999.0,.0,", ",59999999.0,,") for line in lines])
    rewrite(copy, "chexpert", lambda lines: as_floats(lines, "study_id"))
    rewrite(copy, "metadata", lambda lines: [*lines, f"aaaa,1,2,,PA{',' * 7}"])
    found = read_mimic_release(copy)
    assert found.splits == expected.splits
    assert found.left_out - expected.left_out == Counter({("train", "patient unknown"): 1})


def test_an_output_that_cannot_be_written_is_named_before_the_work(release, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    done = run("--dataset", "mimic-cxr", "--root", release, "--out_dir", tmp_path / "file" / "out")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path}/file: cannot be written (not a folder); choose another --out_dir\n"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: cannot be written .permission denied or read-only"):
        convert_annotation(tmp_path / "absent.json", tmp_path / "new" / "out", "first")


def test_root_and_dataset_go_together(release):
    for wrong in (("--root", release), ("--dataset", "mimic-cxr")):
        done = run(*wrong)
        assert done.returncode == 2 and "--root names the folder of a release" in done.stderr


# Sections from the official script's table, and trees as wget leaves them


def write_sectioned(path, rows):
    """mimic_cxr_sectioned.csv of {study: (impression, findings, comparison)}, compressed if its name says so."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["study", "impression", "findings", "last_paragraph", "comparison"])
    table.writerows([f"s{study}", *texts[:2], "", texts[2]] for study, texts in rows.items())
    data = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def sectioned(release):
    """The rows that our own rules would have given."""
    found = by_study(read_mimic_release(release).splits)
    return {
        study: [record[name] for name in ("impression", "findings", "comparison")] for study, record in found.items()
    }


@pytest.mark.parametrize("name", ["mimic_cxr_sectioned.csv", "mimic_cxr_sectioned.csv.gz"])
def test_findings_and_impression_come_from_the_sectioned_table(copy, release, tmp_path, name):
    expected, rows = by_study(read_mimic_release(release).splits), sectioned(release)
    missing = next(iter(rows))
    changed = {
        study: [f"Sign of\n {study}.", f"Clear,\n \n  but {study}.", "Of old."] for study in rows if study != missing
    }
    table = write_sectioned(copy / name, changed)
    found = read_mimic_release(copy)
    studies = by_study(found.splits)
    assert studies.keys() >= changed.keys() and missing not in studies
    assert found.left_out["train", "not in mimic_cxr_sectioned.csv"] >= 1
    for study in changed:
        ours = expected[study] | {"impression": f"Sign of {study}.", "findings": f"Clear, but {study}."}
        assert studies[study] == ours  # the context is that of the report
    assert f"\nfindings and impression are those of {table}" in convert_release(
        found, copy, tmp_path, "frontal", "both"
    )


def test_the_sectioned_table_will_do_without_reports(copy, release):
    rows = sectioned(release)
    for report in copy.rglob("s*.txt"):
        report.unlink()
    write_sectioned(copy / "mimic_cxr_sectioned.csv", rows)
    studies = by_study(read_mimic_release(copy).splits)
    assert studies.keys() == rows.keys()
    for study, (impression, findings, comparison) in rows.items():
        texts = dict.fromkeys(SECTIONS, "") | {
            "impression": impression,
            "findings": findings,
            "comparison": comparison,
        }
        assert texts.items() <= studies[study].items()


@pytest.mark.parametrize(
    "spoil, problem",
    [
        (
            lambda table: table.write_text("study,findings\n"),
            ": has no column 'impression'; write it again with create_",
        ),
        (lambda table: truncate(table, table.stat().st_size - 30), "the line is cut off; write it again with create_"),
    ],
)
def test_a_bad_sectioned_table_is_one_line(copy, release, spoil, problem):
    table = write_sectioned(copy / "mimic_cxr_sectioned.csv", sectioned(release))
    spoil(table)
    with pytest.raises(ValueError) as error:
        read_mimic_release(copy)
    assert str(error.value).startswith(str(table)) and problem in str(error.value) and "\n" not in str(error.value)


def test_compare_sections_says_how_many_agree_and_shows_ten_that_do_not(release, tmp_path):
    rows = sectioned(release)
    studies = list(rows)
    for study in studies[:12]:
        rows[study] = [rows[study][0], rows[study][1].split(" ", 1)[0] + " differs\n here.", ""]
    rows["59999999"] = ["Not in the release.", "", ""]
    table = write_sectioned(tmp_path / "theirs.csv.gz", rows)
    done = run("--dataset", "mimic-cxr", "--root", release, "--out_dir", tmp_path / "out", "--compare_sections", table)
    assert done.returncode == 0, done.stderr
    plain = read_mimic_release(release)
    assert read(tmp_path / "out" / ANNOTATION)["train"][0]["findings"] == plain.splits["train"][0]["findings"]  # ours
    lines = done.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if "word for word" in line]
    agree, both = len(studies) - 12, len(studies)
    assert lines[at] == (
        f"{agree} of {both} studies have the findings and impression of {table} by our rules too, word for word;"
        " the first 10 that do not:"
    )
    shown = [line for line in lines[at + 1 :] if line.startswith("  s")]
    assert len(shown) == 10 and len({line.split(",")[0] for line in shown}) == 10
    first = by_study(plain.splits)[studies[0]]["findings"].split()
    quoted = " ".join(first[1:9])
    assert shown[0] == f"  s{studies[0]}, findings: after 1 words ours {quoted!r}, there 'differs here.'"


def test_the_summary_compares_where_table_and_reports_are_there(copy, release):
    rows = sectioned(release)
    table = write_sectioned(copy / "mimic_cxr_sectioned.csv", rows)
    number = len(rows)
    assert read_mimic_release(copy).notes == (
        f"findings and impression are those of {table}",
        f"{number} of {number} studies have the findings and impression of {table} by our rules too, word for word",
    )
    for report in copy.rglob("s*.txt"):
        report.unlink()
    assert read_mimic_release(copy).notes == (f"findings and impression are those of {table}",)


def test_sections_to_compare_must_be_there_and_of_mimic(release, tmp_path):
    done = run("--annotation", "a.json", "--compare_sections", "b.csv")
    assert done.returncode == 2 and "--compare_sections is for --dataset mimic-cxr" in done.stderr
    with pytest.raises(ValueError, match="none.csv: No such file or directory; check the path"):
        read_mimic_release(release, compare=tmp_path / "none.csv")


def as_wget_leaves_it(copy, root):
    """Moves reports to mimic-cxr and the rest to mimic-cxr-jpg of PhysioNet below `root`, with a page of the site."""
    jpg, reports = (root / "physionet.org/files" / name / "2.1.0" for name in ("mimic-cxr-jpg", "mimic-cxr"))
    jpg.parent.mkdir(parents=True)
    shutil.move(copy, jpg)
    for report in list(jpg.rglob("s*.txt")):
        target = reports / report.relative_to(jpg)
        target.parent.mkdir(parents=True, exist_ok=True)
        report.rename(target)
    (root / "physionet.org/robots.txt").write_text("")
    return jpg


@pytest.mark.parametrize("below", [".", "physionet.org", "physionet.org/files"])
def test_a_tree_as_wget_leaves_it(copy, release, tmp_path, below):
    root = tmp_path / "download"
    jpg = as_wget_leaves_it(copy, root)
    expected, found = read_mimic_release(release), read_mimic_release(root / below)
    assert found.splits == expected.splits and found.left_out == expected.left_out
    assert found.images.samefile(jpg / "files")


def test_reports_images_and_tables_in_trees_of_their_own(copy, release, tmp_path):
    jpg = as_wget_leaves_it(copy, tmp_path / "download")
    images, tables = tmp_path / "disk/images", tmp_path / "download/tables"
    images.mkdir(parents=True)
    shutil.move(jpg / "files", images / "jpg")
    tables.mkdir()
    for table in jpg.glob("*.gz"):
        shutil.move(table, tables)
    found = read_mimic_release(tmp_path / "download", tmp_path / "disk")
    assert found.splits == read_mimic_release(release).splits and found.images == images / "jpg"


def test_hidden_files_are_skipped_and_counted(copy, release, tmp_path):
    for hidden in (
        "._mimic-cxr-2.0.0-split.csv.gz",
        ".DS_Store",
        "__MACOSX/files/p10/._a.txt",
        ".cache/files/p10/a.txt",
    ):
        (copy / hidden).parent.mkdir(parents=True, exist_ok=True)
        (copy / hidden).write_bytes(b"\0\5\26\7")
    found = read_mimic_release(copy)
    assert found.splits == read_mimic_release(release).splits and found.notes == (
        "4 hidden files (._*, __MACOSX) skipped",
    )
    assert convert_release(found, copy, tmp_path / "out", "frontal", "findings").count(found.notes[0]) == 1
