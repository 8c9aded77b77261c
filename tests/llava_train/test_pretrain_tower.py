"""A tower that learns the words of its films' reports: what is learned, what is written, what is refused."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file

from llava.data.dataset import read_records
from llava.model.multimodal_encoder.builder import load_vision_tower
from llava.phantom.generate import CAPTIONS, write_release
from llava.train.pretrain_tower import ImageWordDataset, jitter, pretrain, words_and_pairs


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """64 phantom films with their captions."""
    root = tmp_path_factory.mktemp("films")
    write_release(root, {"train": 64}, seed=0, size_px=32)
    return root


def arguments(world, films, out, **changes):
    values = {
        "vision_tower": str(world.vision_tower),
        "data_path": str(films / CAPTIONS),
        "image_folder": str(films / "images"),
        "out": str(out),
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "augment": False,
        "select_layer": -2,
        "seed": 0,
    }
    return Namespace(**values | changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "severe cardiomegaly, left pacemaker",
            "severe|cardiomegaly|severe cardiomegaly|left|pacemaker|left pacemaker",
        ),
        ("Clear. CLEAR", "clear"),
        ("No effusion", "no|effusion|no effusion"),
        ("...", ""),
    ],
)
def test_words_and_the_pairs_within_a_clause(text, expected):
    assert words_and_pairs(text) == set(expected.split("|")) - {""}


def test_words_that_all_reports_have_or_lack_are_left_out(world, films, tmp_path):
    records = read_records(str(films / CAPTIONS))[:4]
    for record, text in zip(records, ["the lungs", "the heart", "the lungs", "the heart"], strict=True):
        record["conversations"][1]["value"] = text
    text_only = {"id": "t", "conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "none"}]}
    (tmp_path / "data.json").write_text(json.dumps([*records, text_only]))
    _, processor = load_vision_tower(str(world.vision_tower), -2, torch.float32)
    data = ImageWordDataset(
        str(tmp_path / "data.json"), str(films / "images"), processor, augment=False, progress=False
    )
    assert data.words == ["heart", "lungs", "the heart", "the lungs"]
    assert [data[number]["has"].tolist() for number in range(4)] == [[0, 1, 0, 1], [1, 0, 1, 0]] * 2


def test_jitter_moves_a_film_a_little_and_never_mirrors_it():
    torch.manual_seed(0)
    film = torch.linspace(-1, 1, 32).expand(3, 32, 32)  # brighter to the right
    versions = [jitter(film) for _ in range(20)]
    assert all(version.shape == film.shape for version in versions)
    assert len({version.sum().item() for version in versions}) == 20
    for version in versions:
        right, down = (version[0].diff(dim=dim).mean() for dim in (1, 0))
        assert right > 4 * down.abs()


def test_augmented_films_differ_at_every_look(world, films):
    _, processor = load_vision_tower(str(world.vision_tower), -2, torch.float32)
    for augment in (True, False):
        data = ImageWordDataset(str(films / CAPTIONS), str(films / "images"), processor, augment, progress=False)
        assert torch.equal(data[0]["pixels"], data[0]["pixels"]) != augment
        assert torch.equal(data[0]["has"], data[0]["has"])


def test_the_tower_learns_to_tell_films_apart_and_the_rest_of_its_folder_stays(world, films, tmp_path):
    message = pretrain(arguments(world, films, tmp_path / "out", epochs=25))
    first, last = (float(figure) for figure in message.split("loss ")[1].split(" -> "))
    assert "64 images" in message and last < first / 2
    before, after = (load_file(folder / "model.safetensors") for folder in (world.vision_tower, tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    unused = {name for name in before if "layers.2." in name or "post_layernorm" in name or name.startswith("head.")}
    assert unused and changed == before.keys() - unused
    trained, processor = load_vision_tower(str(tmp_path / "out"), -2, torch.float32)
    assert processor.size["height"] == trained.config.image_size == 32


def test_two_processes_train_one_tower(world, films, tmp_path):
    values = vars(arguments(world, films, tmp_path / "out"))
    flags = ["--augment", *(f"--{name}={value}" for name, value in values.items() if name != "augment")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "-m", "llava.train.pretrain_tower", *flags], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("64 images") == 1
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_tower": "missing"}, "missing"),
        ({"data_path": "missing.json"}, "missing.json.*is not a file"),
        ({"image_folder": "missing"}, "no such image file"),
        ({"select_layer": 3}, "select_layer 3 does not fit"),
    ],
)
def test_what_does_not_serve_is_named(world, films, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain(arguments(world, films, tmp_path / "out", **changes))


def test_reports_that_are_all_alike_teach_nothing(world, films, tmp_path):
    records = read_records(str(films / CAPTIONS))[:4]
    for record in records:
        record["conversations"][1]["value"] = "normal"
    (tmp_path / "data.json").write_text(json.dumps(records))
    with pytest.raises(ValueError, match="no word that some reports have and others lack"):
        pretrain(arguments(world, films, tmp_path / "out", data_path=str(tmp_path / "data.json")))
