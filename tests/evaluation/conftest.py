"""A small test set in LLaVA format with grey images, made up for the tests."""

import json

import pytest
from PIL import Image

PROMPT = "Provide a detailed description of the findings in the radiology image."
REPORTS = ["The heart is normal. Lungs are clear.", "Small left effusion. No pneumothorax.", "Pacemaker in place."]
SPLITS = {"train": 12, "val": 4, "test": 3}


def write_split(folder, split: str, studies: int) -> list[dict]:
    """Write one LLaVA file and its images of 32 x 32 px; image i of a split is 10 i grey but for a corner."""
    records = []
    for index in range(studies):
        name = f"{split}/study {index}.png"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("L", (32, 32), 10 * index)
        image.putpixel((0, 0), 255)
        image.save(path)
        turns = [
            {"from": "human", "value": f"<image>\n{PROMPT}"},
            {"from": "gpt", "value": f"{REPORTS[index % 3]} Image {index}."},
        ]
        records.append({"id": f"{split}-{index}", "image": name, "conversations": turns})
    (folder / f"{split}_llava_llada.json").write_text(json.dumps(records), encoding="utf-8")
    return records


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of three LLaVA files and their images, named in the environment."""
    folder = tmp_path / "a data set"
    for split, studies in SPLITS.items():
        write_split(folder, split, studies)
    monkeypatch.setenv("MIMIC_CXR_DATA", str(folder))
    monkeypatch.delenv("MIMIC_CXR_IMAGES", raising=False)
    return folder
