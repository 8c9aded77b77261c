"""The chest phantom: its studies, its images and its release."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from llava.phantom import generate as phantom
from llava.phantom.generate import ANNOTATION, CAPTIONS, SPLITS, make_study, render, write_release
from llava.phantom.report import CONTEXT, write_context
from llava.radiology.findings import SEVERITIES, SIDES, Finding, parse_report, sides_of
from report_scores.scorer import micro_f1

GRADED = [name for name, severities in SEVERITIES.items() if len(severities) > 1]
SIDED = [name for name in SEVERITIES if sides_of(name) == SIDES]


@pytest.fixture(scope="module")
def studies():
    return [make_study(0, "train", number) for number in range(4000)]


@pytest.fixture(scope="module")
def truths(studies):
    return [{(finding.name, finding.side) for finding in study.findings} for study in studies]


def difference(finding, number, size_px=64):
    """What a finding changes on the image of an otherwise normal study, float [size_px, size_px]."""
    study = make_study(5, "test", number)
    without, only = replace(study, findings=()), replace(study, findings=(finding,))
    return render(only, size_px).astype(float) - render(without, size_px)


# Studies


def test_a_study_is_the_same_every_time_and_unlike_any_other():
    assert make_study(1, "val", 7) == make_study(1, "val", 7)
    others = [make_study(2, "val", 7), make_study(1, "test", 7), make_study(1, "val", 8)]
    images = [render(study, 64) for study in (make_study(1, "val", 7), *others)]
    assert np.array_equal(images[0], render(make_study(1, "val", 7), 64))
    assert not any(np.array_equal(images[0], image) for image in images[1:])
    assert make_study(1, "val", 7).dicom_id not in {study.dicom_id for study in others}


def test_rates_are_those_of_a_mixed_ward(truths):
    share_normal = np.mean([not truth for truth in truths])
    mean_findings = np.mean([len(truth) for truth in truths])
    assert 0.20 < share_normal < 0.30
    assert 1.5 < mean_findings < 1.9
    counts = Counter(pair for truth in truths for pair in truth)
    for name in SIDED:
        left, right = counts[name, "left"], counts[name, "right"]
        assert min(left, right) > 0.05 * len(truths), name
        assert abs(left - right) < 4 * np.sqrt(left + right), f"{name} prefers a side: {left} left, {right} right"


def test_the_findings_of_another_study_score_low(truths):
    metric = micro_f1("f1", iter)
    score = metric.scores["f1"](metric.statistics(truths[1:] + truths[:1], truths).sum(axis=0))
    print(f"micro-F1 between random pairs of studies: {score:.3f}")
    assert score < 0.3


def test_reports_agree_with_the_truth_and_are_short(studies, truths):
    assert [parse_report(study.report) for study in studies] == truths
    lengths = [len(study.report.split()) for study in studies]
    assert 20 < np.mean(lengths) < 45 and max(lengths) <= 75


def test_context_tells_nothing_of_the_findings(studies, truths):
    assert {name for study in studies for name in study.context} == set(CONTEXT)
    assert any(study.context.get("indication") == "" for study in studies)
    assert any("indication" not in study.context for study in studies)
    words = {word for _, texts in CONTEXT.values() for text in texts for word in parse_report(text)}
    assert words == set()
    normal = [study.context.get("indication", "").split()[-1:] for study in studies if not study.findings]
    sick = [study.context.get("indication", "").split()[-1:] for study in studies if study.findings]
    for word in ({"pain"}, {"fever"}, {"fall"}, set()):
        share = [np.mean([set(words) == word for words in group]) for group in (normal, sick)]
        assert abs(share[0] - share[1]) < 0.07, word


def test_context_is_untouched_when_the_findings_change(monkeypatch):
    before = make_study(0, "train", 3)
    monkeypatch.setattr(phantom, "RATES", dict.fromkeys(phantom.RATES, 1.0))
    monkeypatch.setattr(phantom, "HEALTHY_RATE", 0.0)
    after = make_study(0, "train", 3)
    assert len(after.findings) == 17 and after.findings != before.findings
    assert after.context == before.context
    assert write_context(np.random.default_rng(4)) == write_context(np.random.default_rng(4))


# Images


@pytest.mark.parametrize("size_px", [64, 128, 200])
def test_a_image_has_the_size_and_range_asked_for(size_px):
    image = render(make_study(0, "train", 0), size_px)
    assert image.shape == (size_px, size_px) and image.dtype == np.uint8
    assert image.min() < 40 and image.max() > 160


def test_patients_differ():
    images = np.stack([render(replace(make_study(0, "train", n), findings=()), 64) for n in range(20)]).astype(float)
    assert images.std(axis=0).mean() > 8


@pytest.mark.parametrize("name", SIDED)
@pytest.mark.parametrize("side", SIDES)
def test_the_patients_right_is_on_the_images_left(name, side):
    changes = sum(np.abs(difference(Finding(name, side, SEVERITIES[name][-1]), number)) for number in range(10))
    image_left, image_right = changes[:, :22].sum(), changes[:, -22:].sum()
    assert (image_left > 10 * image_right) == (side == "right")
    assert (image_right > 10 * image_left) == (side == "left")


def test_fluid_is_bright_at_the_base_and_free_air_dark_at_the_wall():
    fluid = np.mean([difference(Finding("effusion", "right", "moderate"), number) for number in range(10)], axis=0)
    assert fluid[40:48, 10:24].mean() > 40 and abs(fluid[:20]).mean() < 1
    free_air = np.mean([difference(Finding("pneumothorax", "left", "moderate"), n) for n in range(10)], axis=0)
    assert free_air[20:36, 46:50].mean() < -15


@pytest.mark.parametrize("name", GRADED)
def test_severity_changes_the_extent(name):
    def extent(severity):
        finding = Finding(name, sides_of(name)[0], severity)
        return np.mean([np.abs(difference(finding, number)).sum() for number in range(20)])

    small, moderate, large = map(extent, SEVERITIES[name])
    assert 1.15 * small < moderate and 1.15 * moderate < large


@pytest.mark.parametrize("name", SEVERITIES)
def test_the_mildest_finding_is_seen_at_64_pixels(name):
    for side in sides_of(name):
        for number in range(20):
            change = np.abs(difference(Finding(name, side, SEVERITIES[name][0]), number, size_px=128))
            change = change.reshape(64, 2, 64, 2).mean(axis=(1, 3))
            assert (change > 20).sum() >= 5, f"{name} {side} of study {number} is hardly visible"


# Release


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    out = tmp_path_factory.mktemp("release")
    write_release(out, {"train": 30, "val": 10, "test": 12}, seed=3, size_px=64)
    return out


def test_layout_is_that_of_mimic(release):
    splits = json.loads((release / ANNOTATION).read_text(encoding="utf-8"))
    assert {split: len(records) for split, records in splits.items()} == {"train": 30, "val": 10, "test": 12}
    for record in (record for records in splits.values() for record in records):
        (path,) = record["image_path"]
        hexes = "-".join(["[0-9a-f]{8}"] * 5)
        assert re.fullmatch(rf"p1\d/p1\d{{7}}/s5\d{{7}}/{hexes}\.jpg", path)
        assert path.split("/") == [
            f"p{str(record['subject_id'])[:2]}",
            f"p{record['subject_id']}",
            f"s{record['study_id']}",
            f"{record['id']}.jpg",
        ]
        with Image.open(release / "images" / path) as image:
            assert image.size == (64, 64) and image.mode == "L"
        assert parse_report(record["report"]) == {(name, side) for name, side, _ in record["findings"]}
        for name, side, severity in record["findings"]:
            assert side in sides_of(name) and severity in SEVERITIES[name]
    assert len(list((release / "images").rglob("*.jpg"))) == 52
    assert not list(release.rglob("*.partial"))


def test_captions_name_the_findings_of_the_training_images(release):
    annotation = json.loads((release / ANNOTATION).read_text())
    captions = json.loads((release / CAPTIONS).read_text())
    assert [caption["image"] for caption in captions] == [record["image_path"][0] for record in annotation["train"]]
    for caption, record in zip(captions, annotation["train"], strict=True):
        question, answer = (turn["value"] for turn in caption["conversations"])
        names = [name.replace("effusion", "pleural effusion") for name, _, _ in record["findings"]]
        items = zip(record["findings"], names, strict=True)
        named = [f"{severity} {side} {name}".split() for (_, side, severity), name in items]
        assert question == "<image>" and [item.split() for item in answer.split(", ")] == (named or [["normal"]])


def test_no_patient_or_study_is_in_two_splits():
    everyone = [make_study(0, split, number) for split in SPLITS for number in range(1000)]
    for field in ("subject_id", "study_id", "dicom_id", "image_path"):
        assert len({getattr(study, field) for study in everyone}) == len(everyone), field


def test_a_study_does_not_depend_on_the_counts(release, tmp_path):
    other = json.loads(write_release(tmp_path, {"val": 4, "test": 0}, seed=3, size_px=64).read_text(encoding="utf-8"))
    first = json.loads((release / ANNOTATION).read_text(encoding="utf-8"))
    assert list(other) == ["val"] and other["val"] == first["val"][:4]
    for record in other["val"]:
        image = record["image_path"][0]
        assert (tmp_path / "images" / image).read_bytes() == (release / "images" / image).read_bytes()


@pytest.mark.parametrize(
    "counts, seed, size_px, word",
    [
        ({"train": -1}, 0, 64, "--train -1"),
        ({"train": 0}, 0, 64, "no studies"),
        ({"dev": 1}, 0, 64, "unknown split 'dev'"),
        ({"train": 1}, -1, 64, "--seed -1"),
        ({"train": 1}, 0, 8, "--size 8"),
    ],
)
def test_an_impossible_release_is_refused_before_anything_is_written(tmp_path, counts, seed, size_px, word):
    with pytest.raises(ValueError, match=word):
        write_release(tmp_path / "out", counts, seed, size_px)
    assert not (tmp_path / "out").exists()


def test_a_release_is_never_overwritten(release):
    before = (release / ANNOTATION).read_bytes()
    with pytest.raises(ValueError, match="is there already"):
        write_release(release, {"train": 1}, seed=3, size_px=64)
    assert (release / ANNOTATION).read_bytes() == before


def test_a_broken_off_release_has_no_annotation(tmp_path, monkeypatch):
    def fail_at_the_third(study, size_px):
        if study.number == 2:
            raise OSError("disk full")
        return render(study, size_px)

    monkeypatch.setattr(phantom, "render", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        write_release(tmp_path, {"train": 5}, seed=0, size_px=64)
    assert not list(tmp_path.glob("*.json*"))
    monkeypatch.undo()
    assert write_release(tmp_path, {"train": 5}, seed=0, size_px=64).exists()


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "llava.phantom.generate", *arguments], capture_output=True, text=True)


def test_the_command_writes_a_release_or_one_line(tmp_path):
    done = run("--out", str(tmp_path / "a b"), "--train", "2", "--test", "1", "--seed", "9", "--size", "64")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "a b" / ANNOTATION)
    assert done.stderr == ""  # what takes less than seconds needs no bar
    wrong = run("--out", str(tmp_path / "c"), "--train", "-3")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == ["error: --train -3 is out of range: use 0 to 3333330"]
    (tmp_path / "file").write_text("")
    blocked = run("--out", str(tmp_path / "file"), "--train", "1")
    assert blocked.returncode == 1 and "Traceback" not in blocked.stderr and "file" in blocked.stderr
