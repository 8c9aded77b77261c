"""The phantom as a release of MIMIC-CXR: the same bytes every time, laid out and written as PhysioNet ships it."""

import csv
import gzip
import hashlib
import subprocess
import sys
from collections import Counter

from PIL import Image

from oracles import mimic_release
from oracles.mimic_release import CASES, LABELS, METADATA, SHAPES, write_mimic_release
from oracles.phantom_mimic import PATIENTS


def table(release, name):
    with gzip.open(release / f"mimic-cxr-2.0.0-{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_two_releases_of_a_seed_are_the_same_bytes(release, tmp_path):
    again = hashes(write_mimic_release(tmp_path / "again", PATIENTS, seed=3, size_px=32))
    other = hashes(write_mimic_release(tmp_path / "other", {"train": 6, "val": 1, "test": 1}, seed=4, size_px=32))
    assert again == hashes(release) and len(again) > 80
    assert not set(again.values()) & {h for name, h in other.items() if name.endswith((".jpg", ".gz"))}


def test_every_shape_and_case_is_there_and_patients_have_several_studies(studies):
    names = Counter((entry.study.split, entry.name) for entry in studies.values())
    assert {name for split, name in names if split == "train"} == {*SHAPES, *CASES}
    assert all(names[split, case] == 1 for split in PATIENTS for case in CASES)
    patients = Counter(entry.study.subject_id for entry in studies.values())
    assert sorted(Counter(patients.values()).items()) == [(1, 2 + 1 + 1 + 3 * len(CASES)), (2, 2), (3, 2)]
    for subject_id in patients:
        assert len({entry.study.split for entry in studies.values() if entry.study.subject_id == subject_id}) == 1


def test_tables_have_the_published_columns_and_name_every_image(release, studies):
    split, metadata, labels = (table(release, name) for name in ("split", "metadata", "chexpert"))
    assert list(split[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert list(metadata[0]) == METADATA and len(METADATA) == 12
    assert list(labels[0]) == ["subject_id", "study_id", *LABELS] and len(LABELS) == 14
    assert Counter(row["split"] for row in split).keys() == {"train", "validate", "test"}
    ids = [row["dicom_id"] for row in split]
    assert len(set(ids)) == len(ids) == sum(len(entry.images()) for entry in studies.values())
    unlisted = set(ids) - {row["dicom_id"] for row in metadata}
    assert {next(s.name for s in studies.values() if image in s.images()) for image in unlisted} == {
        "not in the metadata"
    }
    for row in metadata:
        assert row["ViewPosition"] == studies[row["study_id"]].images()[row["dicom_id"]]


def test_labels_are_those_of_the_findings(release, studies):
    seen = Counter()
    for row in table(release, "chexpert"):
        positive = {label for label, value in row.items() if value == "1.0"}
        names = {finding.name for finding in studies[row["study_id"]].study.findings}
        devices = names & {"pacemaker", "line", "tube"}
        assert ("Support Devices" in positive) == bool(devices)
        assert ("No Finding" in positive) == (names == devices)
        assert ("Pleural Effusion" in positive) == ("effusion" in names)
        assert len(positive - {"Support Devices", "No Finding"}) == len(names - devices)
        seen.update(row.values())
    assert {"1.0", "0.0", "-1.0", ""} <= set(seen)


def test_files_are_where_physionet_puts_them(release, studies):
    for entry in studies.values():
        study = entry.study
        patient = release / "files" / f"p{str(study.subject_id)[:2]}" / f"p{study.subject_id}"
        report = patient / f"s{study.study_id}.txt"
        assert report.exists() == (entry.name != "no report file")
        for dicom_id, view in entry.images().items():
            image = patient / f"s{study.study_id}" / f"{dicom_id}.jpg"
            assert image.exists() == (view not in entry.case.absent)
            if image.exists():
                with Image.open(image) as image:
                    assert image.size == ((24 if view in ("LATERAL", "LL") else 32), 32)
    headed = next(entry for entry in studies.values() if entry.name == "headed").report()
    assert headed.startswith(" EXAMINATION: CHEST") and max(map(len, headed.splitlines())) <= 76
    assert len(list(release.rglob("*.txt"))) == len(studies) - len(PATIENTS)


def test_images_of_a_study_differ(release, studies):
    three = next(entry for entry in studies.values() if len(entry.images()) == 3)
    folder = release / "files" / three.folder
    assert len({(folder / f"{dicom_id}.jpg").read_bytes() for dicom_id in three.images()}) == 3


def test_the_command_writes_a_release_or_one_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, mimic_release.__file__, "--out", str(tmp_path / "r"), "--size", "32"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    done = run("--test", "1")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'r'}\n", done.stderr
    assert {row["split"] for row in table(tmp_path / "r", "split")} == {"test"}
    again = run("--test", "1")
    assert again.returncode == 1 and again.stderr == (
        f"error: {tmp_path}/r/mimic-cxr-2.0.0-split.csv.gz is there already: remove the folder or choose"
        " another --out\n"
    )
    assert run().stderr == "error: no studies asked for: set --train, --val or --test above 0\n"
