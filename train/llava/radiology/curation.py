"""Training data of a short run from real studies: which of them it uses, and what its stages learn of their reports."""

from pathlib import Path

from dllm.data.files import read_json, write_json
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.records import image_names
from llava.radiology.annotation import SPLITS, read_annotation
from llava.radiology.labels import NO_FINDING, labels


def write_subset(annotation: Path, subset: Path, train: int, test: int) -> None:
    """Writes the annotation of at most `train` training studies, and `test` of each other split.

    Without a test list val takes its place, and the end of train that of val. ValueError if there is neither.
    """
    splits = read_annotation(annotation)
    if "test" not in splits:
        if "val" not in splits:
            raise ValueError(f"{annotation} has neither a val nor a test list: nothing is left to score on")
        held_out = min(test, len(splits["train"]) // 10)
        records = splits["train"]
        splits = {"train": records[:-held_out], "val": records[-held_out:], "test": splits["val"]}
    limits = {"train": train, "val": test, "test": test}
    write_json(subset, {split: splits[split][: limits[split]] for split in SPLITS if split in splits})


def write_training_sets(annotation: Path, records: Path, reports: Path, captions: Path, repeat: int) -> None:
    """From the LLaVA file `records` of the training studies, one of reports, and one of the labels that they state.

    Studies with an abnormal label are written `repeat` times: most studies are normal, and the likeliest report of
    nearly every image would be.
    """
    stated = {study["id"]: labels(study["report"]) for study in read_annotation(annotation)["train"]}
    shown = [
        record
        for record in read_json(records, "remove it and start again", list)
        for _ in range(repeat if stated[record["id"]] - {NO_FINDING} else 1)
    ]
    write_json(reports, shown)
    write_json(captions, [_caption(record, stated[record["id"]]) for record in shown])


def _caption(record: dict, stated: set[str]) -> dict:
    caption = ", ".join(sorted(stated)).lower() or "other"
    turns = [{"from": "human", "value": DEFAULT_IMAGE_TOKEN}, {"from": "gpt", "value": caption}]
    return {"id": record["id"], "image": image_names(record)[0], "conversations": turns}
