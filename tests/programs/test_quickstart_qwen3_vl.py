"""The table quickstart from data to table, a few steps long, and the tables that it learns."""

import json
import sys

import numpy as np
import pytest

import quickstart_common
import quickstart_qwen3_vl as quickstart
from dllm.pipelines.qwen3_vl import tiny_tables
from dllm.pipelines.qwen3_vl.tiny_tables import CELL_PX, COLOURS, LETTERS, make_rows
from dllm.program import run_program


def read(image, row: int, column: int) -> str:
    """The colour of the middle of a cell."""
    pixel = np.array(image)[row * CELL_PX + CELL_PX // 2, column * CELL_PX + CELL_PX // 2].astype(int)
    return min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())


def test_answers_are_what_the_images_show():
    rows = make_rows(300, seed=4)
    kinds = {}
    for row in rows:
        (question, answer), image = (turn["content"] for turn in row["messages"]), row["image"]
        height, width = image.size[1] // CELL_PX, image.size[0] // CELL_PX
        kind = quickstart.kind_of(question)
        words = question.rstrip(".?").replace(",", "").split()
        r = LETTERS.index(words[words.index("row") + 1]) if "row" in words else None
        c = int(words[words.index("column") + 1]) - 1 if "column" in words else None
        cells = [(i, j) for i in range(height) for j in range(width) if r in (i, None) and c in (j, None)]
        assert answer.split() == [read(image, i, j) for i, j in cells]
        kinds.setdefault(kind, set()).add((height, width))
    assert kinds.keys() == set(tiny_tables.QUESTIONS) and all(len(sizes) > 7 for sizes in kinds.values())
    assert [row["messages"] for row in make_rows(300, seed=4)] == [row["messages"] for row in rows]
    assert [row["messages"] for row in make_rows(300, seed=5)] != [row["messages"] for row in rows]


def test_shuffled_images_are_others_of_the_same_size():
    images = [row["image"] for row in make_rows(200, seed=1)]
    others = quickstart.shuffled(images)
    assert all(one.size == other.size and one is not other for one, other in zip(images, others, strict=True))
    assert {id(image) for image in images} == {id(image) for image in others}


def test_it_runs_end_to_end_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    arguments = ["--out", str(tmp_path / "out"), "--train", "64", "--test", "20", "--epochs", "1"]
    monkeypatch.setattr(quickstart, "LAUNCH", (sys.executable,))  # one process: its start takes most of the time
    monkeypatch.setattr(quickstart, "VISION_STEPS", 3)
    monkeypatch.setattr(sys, "argv", ["quickstart_qwen3_vl.py", *arguments])
    quickstart.main()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert set(summary["accuracy"]) == {"model", "shuffled_images"} and summary["steps"] == 4
    assert all(0 <= share <= 1 for kinds in summary["kinds"].values() for share in kinds.values())
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("accuracy", "shuffled_images", "cell", "row", "column", "4 steps"))

    monkeypatch.setattr(quickstart_common, "launch", None)  # nothing is left to run
    quickstart.main()
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    monkeypatch.setattr(sys, "argv", ["quickstart_qwen3_vl.py", *arguments[:-1], "2"])
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        run_program(quickstart.main)
