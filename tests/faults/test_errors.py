"""Kind 1: what a user's file, folder, environment or flag can cause is one line: its name, cause and remedy."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from oracles.tiny import CHECKOUT

SPEC = importlib.util.spec_from_file_location("generate_demo", CHECKOUT / "generate_demo.py")
demo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(demo)
DEEP = "[" * 200_000


def config(**values):
    return lambda folder: _change(folder / "config.json", values)


def _change(path: Path, values: dict) -> None:
    whole = json.loads(path.read_text())
    for name, value in values.items():
        part, _, name = name.rpartition("__")
        (whole[part] if part else whole)[name] = value
    path.write_text(json.dumps(whole))


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def sharded(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def of_another_size(folder: Path) -> None:
    _change(folder / "preprocessor_config.json", {"size": {"height": 48, "width": 48}})


FOLDERS = {
    "a config that is a list": (text("config.json", "[]"), "config.json holds list, not dict"),
    "brackets": (text("config.json", DEEP), "config.json is not JSON"),
    "a negative width": (config(text_config__hidden_size=-96), "cannot be loaded"),
    "a width that is no number": (config(text_config__hidden_size="wide"), "cannot be loaded"),
    "no layers": (config(text_config__num_hidden_layers=-1), "lacks the weight|cannot be loaded"),
    "another vision tower": (config(vision_config__model_type="resnet"), "cannot be loaded"),
    "an index of nothing": (sharded, "index.json names no files of weights"),
    "a tokenizer of nothing": (text("tokenizer.json", "{}"), "cannot be loaded"),
    "a preprocessor of another size": (of_another_size, "images of 48 x 48 px, but the vision tower sees 32 x 32"),
}


@pytest.mark.parametrize(("spoil", "said"), FOLDERS.values(), ids=FOLDERS)
def test_a_model_folder(world, model, tmp_path, line, spoil, said):
    folder = shutil.copytree(model, tmp_path / "model")
    spoil(folder)
    image = next(world.images.rglob("*.jpg"))
    told = line(demo.main, "--model_path", folder, "--image", image)
    assert str(folder) in told and any(part in told for part in said.split("|")), told


def test_an_image_with_a_name_of_300_characters(model, tmp_path, line):
    told = line(demo.main, "--model_path", model, "--image", tmp_path / ("a" * 300 + ".png"))
    assert told.endswith(".png: File name too long; give a shorter path")


@pytest.mark.parametrize("device", ["bogus", "cuda:99"])
def test_a_device(world, model, line, device):
    image = next(world.images.rglob("*.jpg"))
    told = line(demo.main, "--model_path", model, "--image", image, "--device", device)
    assert told.startswith(f"error: --device {device}: ") and told.endswith("give cpu, or cuda where there is a GPU")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "image"])
def test_permission_is_not_damage(world, model, tmp_path, line, name, request):
    folder, image = shutil.copytree(model, tmp_path / "model"), tmp_path / "image"
    shutil.copy(next(world.images.rglob("*.jpg")), image)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o055)
    path = image if name == "image" else folder / name
    path.chmod(0)
    request.getfixturevalue("as_nobody")
    told = line(demo.main, "--model_path", folder, "--image", image)
    assert told == f"error: {path}: Permission denied; check its permissions, and those of its folders"


@pytest.mark.parametrize(
    ("environment", "arguments", "said"),
    [
        ({}, ("one", "1"), "NUM_NODES is 'one'; give a whole number from 1"),
        ({}, ("1", "x"), "GPU_NUM is 'x'; give a whole number from 1"),
        ({}, ("0", "1"), "NUM_NODES is '0'"),
        ({"RANK": "first"}, ("2", "1"), "RANK is 'first'; give the number of this node"),
        ({"MASTER_PORT": "http"}, ("2", "1"), "MASTER_PORT is 'http'"),
    ],
)
def test_a_stage_script(environment, arguments, said):
    command = ["bash", "scripts/llada_v_pretrain.sh", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT / "train", env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"train: error: {said}") and done.stderr.count("\n") == 1
