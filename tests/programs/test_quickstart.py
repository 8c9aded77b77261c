"""The quickstart's own steps; the job as a whole is too long for a test and is run by hand."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "scripts/quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records(split: str, count: int) -> list[dict]:
    return [{"id": f"{split}{i}", "report": "The lungs are clear.", "image_path": ["film.jpg"]} for i in range(count)]


def subset(quickstart, tmp_path, splits: dict, train: int, test: int) -> dict:
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps(splits))
    args = argparse.Namespace(annotation=annotation, train=train, test=test)
    quickstart.write_subset(args, tmp_path / "data")
    return json.loads((tmp_path / "data" / quickstart.ANNOTATION).read_text())


def test_without_a_test_list_val_takes_its_place_and_no_study_is_in_two(quickstart, tmp_path):
    splits = {"train": records("train", 50), "val": records("val", 20)}
    found = subset(quickstart, tmp_path, splits, train=30, test=8)
    ids = {split: [record["id"] for record in part] for split, part in found.items()}
    assert ids["test"] == [f"val{i}" for i in range(8)]
    assert ids["train"] == [f"train{i}" for i in range(30)]
    assert ids["val"] == [f"train{i}" for i in range(45, 50)]


def test_the_lists_that_are_there_are_kept(quickstart, tmp_path):
    splits = {"train": records("train", 5), "test": records("test", 4)}
    found = subset(quickstart, tmp_path, splits, train=100, test=3)
    assert {split: len(part) for split, part in found.items()} == {"train": 5, "test": 3}


def test_real_reports_teach_their_labels_first_and_abnormal_ones_more_often(quickstart, tmp_path):
    reports = {
        "one": "The heart is enlarged. There is a left pleural effusion. No pneumothorax.",
        "two": "The heart is normal in size. The lungs are clear.",
        "three": "There is scoliosis.",
    }
    studies = [{"id": id, "report": report, "image_path": [f"{id}.jpg", "b.jpg"]} for id, report in reports.items()]
    (tmp_path / quickstart.ANNOTATION).write_text(json.dumps({"train": studies, "test": studies[:1]}))
    turns = {
        id: [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}] for id, text in reports.items()
    }
    records = [{"id": id, "image": f"{id}.jpg", "conversations": turns[id]} for id in reports]
    (tmp_path / "train_llava_llada.json").write_text(json.dumps(records))
    quickstart.write_lessons(tmp_path, repeat=2)
    shown, captions = (json.loads((tmp_path / name).read_text()) for name in (quickstart.REPORTS, quickstart.CAPTIONS))
    assert shown == [records[0], records[0], records[1], records[2]]
    assert [(record["image"], record["conversations"][1]["value"]) for record in captions] == [
        *[("one.jpg", "cardiomegaly, pleural effusion")] * 2,
        ("two.jpg", "no finding"),
        ("three.jpg", "other"),
    ]


def test_the_summary_has_the_promised_keys(quickstart, tmp_path, monkeypatch):
    scores = {name: {"BLEU_1": 0.5} for name in ("model", "constant_report", "shuffled_images")}
    truth = "There is a small left pleural effusion."
    texts = {"model": [(truth, truth)], "shuffled_images": [(truth, "The lungs are clear.")]}
    monkeypatch.setattr(quickstart, "results_file", lambda folder: folder)
    monkeypatch.setattr(quickstart, "read_scores", lambda file: scores)
    monkeypatch.setattr(quickstart, "generations", lambda folder: texts)
    for stage in ("stage1", "stage2"):
        (tmp_path / stage).mkdir()
        state = {"global_step": 4, "log_history": [{"train_runtime": 2.0}]}
        (tmp_path / stage / "trainer_state.json").write_text(json.dumps(state))
    summary = quickstart.summarise(argparse.Namespace(out=tmp_path, annotation=None), tmp_path / "stage2", tmp_path)
    assert summary["metrics"] == {"BLEU_1": 0.5} and set(summary["floors"]) == {"constant_report", "shuffled_images"}
    assert summary["finding_f1"] == {"model": 1.0, "shuffled_images": 0.0}
    assert summary["report"] == truth and summary["seconds"] == {"stage1": 0.5, "stage2": 0.5}
    assert summary["checkpoint"] == str(tmp_path / "stage2") and {"pattern", "resampler"} <= set(summary)


def test_a_mistake_is_one_line_and_leaves_an_earlier_run_alone(tmp_path):
    def run(*arguments):
        return subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], capture_output=True, text=True)

    out = tmp_path / "out"
    done = run("--annotation", tmp_path / "none.json", "--images", tmp_path, "--out", out)
    assert done.returncode == 1 and "none.json: no such annotation file" in done.stderr.splitlines()[-1]
    (out / "settings.json").write_text("{}")
    done = run("--out", out)
    assert done.returncode == 1 and "holds a run with other settings" in done.stderr
    assert (out / "settings.json").read_text() == "{}"
    done = run("--annotation", tmp_path / "none.json")
    assert done.returncode == 2 and "--annotation and --images belong together" in done.stderr
    done = run("--repeat_abnormal", 0)
    assert done.returncode == 2 and "--repeat_abnormal needs at least 1" in done.stderr
