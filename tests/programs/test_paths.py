"""The three paths of docs/, from end to end at tiny sizes on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava.phantom.generate import write_release

DOCS = Path(__file__).resolve().parents[2] / "docs"
TINY = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHON": sys.executable,
    "CUDA_VISIBLE_DEVICES": "",
    "DEEPSPEED": "",
    "MM_RESAMPLER_TYPE": "none",
    "GEN_LENGTH": "160",
    "BLOCK_LENGTH": "16",
    "BATCH_SIZE": "4",
    "DATALOADER_NUM_WORKERS": "0",
    "SAVE_STRATEGY": "no",
    "REPORT_TO": "none",
    "EXTRA_ARGS": "--max_steps 2",
    "GEN_KWARGS": "gen_length=16",
    "NUM_PROCESSES": "1",
}


def run(path: str, *arguments, **environment) -> str:
    """What a path prints; it must end well."""
    command = ["bash", str(DOCS / path), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | TINY | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def out(world, tmp_path_factory):
    """The output folder of the cluster's path."""
    root = tmp_path_factory.mktemp("cluster")
    annotation = write_release(root, {"train": 8, "val": 2, "test": 2}, seed=3, size_px=48)
    said = run("path_cluster.sh", annotation, root / "images", world.language_model, world.vision_tower, root / "out")
    assert "gain from the image" in said
    return root / "out"


def test_a_cluster_converts_trains_and_evaluates(out):
    [results] = (out / "results").iterdir()
    assert (results / "scores.json").is_file() and (results / "reports.html").is_file()
    for stage in ("stage1", "stage2"):
        assert (out / stage / "curves.png").is_file()
    card = (out / "stage2/README.md").read_text()
    assert "shuffled_images" in card and "None yet" not in card  # the evaluation put its scores in


def test_lora_on_one_card_is_merged_and_writes(out, world, tmp_path):
    image = next(world.images.rglob("*.jpg"))
    data = out / "data/train_llava_llada.json"
    said = run("path_24gb.sh", out / "stage2", data, out.parent / "images", tmp_path / "lora", image)
    assert "LoRA of rank 64" in said and (tmp_path / "lora/lora/adapter_model.safetensors").is_file()
    assert "tokens" in said.splitlines()[-1]


def test_an_own_image_is_described(out, world, tmp_path):
    """The environment is one whose pip installs nothing."""
    site, binaries = tmp_path / "venv/lib/python3.11/site-packages", tmp_path / "venv/bin"
    for folder in (site, binaries):
        folder.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\n[ "$2" = pip ] && exit\nexec {sys.executable} "$@"\n')
    (binaries / "python").chmod(0o755)
    (binaries / "activate").write_text("")
    image = next(world.images.rglob("*.jpg"))
    said = run("path_own_image.sh", image, MODEL_PATH=str(out / "stage2"), VENV=str(tmp_path / "venv"))
    assert "Installing the Python packages" in said and "tokens" in said.splitlines()[-1]
