"""What a run on real studies takes of them: the splits, and what the stages learn of the reports."""

import json

import pytest

from llava.radiology.curation import write_subset, write_training_sets


def records(split: str, count: int) -> list[dict]:
    return [{"id": f"{split}{i}", "report": "The lungs are clear.", "image_path": ["film.jpg"]} for i in range(count)]


def subset(tmp_path, splits: dict, train: int, test: int) -> dict:
    annotation, written = tmp_path / "annotation.json", tmp_path / "data/annotation.json"
    annotation.write_text(json.dumps(splits))
    write_subset(annotation, written, train, test)
    return json.loads(written.read_text())


def test_without_a_test_list_val_takes_its_place_and_no_study_is_in_two(tmp_path):
    splits = {"train": records("train", 50), "val": records("val", 20)}
    found = subset(tmp_path, splits, train=30, test=8)
    ids = {split: [record["id"] for record in part] for split, part in found.items()}
    assert ids["test"] == [f"val{i}" for i in range(8)]
    assert ids["train"] == [f"train{i}" for i in range(30)]
    assert ids["val"] == [f"train{i}" for i in range(45, 50)]


def test_the_lists_that_are_there_are_kept(tmp_path):
    splits = {"train": records("train", 5), "test": records("test", 4)}
    found = subset(tmp_path, splits, train=100, test=3)
    assert {split: len(part) for split, part in found.items()} == {"train": 5, "test": 3}


def test_real_reports_teach_their_labels_first_and_abnormal_ones_more_often(tmp_path):
    reports = {
        "one": "The heart is enlarged. There is a left pleural effusion. No pneumothorax.",
        "two": "The heart is normal in size. The lungs are clear.",
        "three": "There is scoliosis.",
    }
    studies = [{"id": id, "report": report, "image_path": [f"{id}.jpg", "b.jpg"]} for id, report in reports.items()]
    annotation, written, *sets = (tmp_path / f"{name}.json" for name in ("annotation", "llava", "reports", "captions"))
    annotation.write_text(json.dumps({"train": studies, "test": studies[:1]}))
    turns = {
        id: [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}] for id, text in reports.items()
    }
    records = [{"id": id, "image": f"{id}.jpg", "conversations": turns[id]} for id in reports]
    written.write_text(json.dumps(records))
    write_training_sets(annotation, written, *sets, repeat=2)
    shown, captions = (json.loads(file.read_text()) for file in sets)
    assert shown == [records[0], records[0], records[1], records[2]]
    assert [(record["image"], record["conversations"][1]["value"]) for record in captions] == [
        *[("one.jpg", "cardiomegaly, pleural effusion")] * 2,
        ("two.jpg", "no finding"),
        ("three.jpg", "other"),
    ]


def test_without_studies_to_score_on_there_is_no_subset(tmp_path):
    with pytest.raises(ValueError, match="neither a val nor a test list"):
        subset(tmp_path, {"train": records("train", 5)}, train=3, test=2)
