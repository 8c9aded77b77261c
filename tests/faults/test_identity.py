"""Kind 7: no run goes on from the checkpoint of another one, and what changes no loss is no other run."""

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dllm.pipelines.text import PlainDataArguments
from dllm.training.identity import Identity, differences
from faults.checkpoints import arguments, start
from llava.train import train as program


def identity(words: list[str]) -> dict:
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["train_mem.py", *words]
        return Identity(*program.parse()).values()


@pytest.fixture(scope="module")
def own(world, tmp_path_factory):
    return identity(arguments(world, tmp_path_factory.mktemp("identity")))


OTHER = {
    "noise_estimator": "pair",
    "noise_eps": 1e-2,
    "loss_normalisation": "token",
    "lr_scheduler_type": "constant",
    "warmup_steps": 2,
    "max_grad_norm": 0.5,
    "weight_decay": 0.0,
    "adam_beta2": 0.95,
    "max_steps": 7,
    "bf16": True,
    "optim": "adamw_torch_fused",
    "attention_pattern": "prefix",
    "gen_length": 128,
    "mm_tunable_parts": "mm_mlp_adapter",
    "mm_projector_type": "linear",
    "image_aspect_ratio": "pad",
    "model_max_length": 512,
}
SAME = {
    "logging_steps": 5,
    "save_steps": 2,
    "save_total_limit": 1,
    "dataloader_num_workers": 2,
    "gradient_checkpointing": True,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "disable_tqdm": True,
    "run_name": "another",
    "output_dir": "elsewhere",
}


@pytest.mark.parametrize("name", OTHER)
def test_another_run(world, own, tmp_path, name):
    new = identity(arguments(world, tmp_path, **{name: OTHER[name]}))
    (found,) = differences(own, new, [])
    assert found.startswith(f"--{name} ")
    assert differences(own, new, [name]) == []


@pytest.mark.parametrize("name", SAME)
def test_the_same_run(world, own, tmp_path, name):
    assert differences(own, identity(arguments(world, tmp_path, **{name: SAME[name]})), []) == []


def changed_answer(world, folder):
    records = json.loads(world.mixed.read_text())
    records[0]["conversations"][1]["value"] += " Clear."
    (folder / "data.json").write_text(json.dumps(records))
    return {"data_path": folder / "data.json"}


def changed_weight(name):
    def change(world, folder):
        copy = shutil.copytree(getattr(world, name), folder / name)
        state = load_file(copy / "model.safetensors")
        first = min(state)
        save_file(state | {first: state[first] + 1}, copy / "model.safetensors", metadata={"format": "pt"})
        return {{"language_model": "model_name_or_path"}.get(name, name): copy}

    return change


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (changed_answer, "data_path"),
        (changed_weight("language_model"), "model_name_or_path"),
        (changed_weight("vision_tower"), "vision_tower"),
    ],
)
def test_files_of_another_content(world, own, tmp_path, change, name):
    """As many records; the same shapes."""
    (found,) = differences(own, identity(arguments(world, tmp_path / "out", **change(world, tmp_path))), [])
    assert found.startswith(f"--{name} sha256 ")


def test_files_of_the_same_content_elsewhere(world, own, tmp_path):
    shutil.copytree(world.language_model, tmp_path / "language_model")
    shutil.copy(world.mixed, tmp_path / "data.json")
    moved = {"model_name_or_path": tmp_path / "language_model", "data_path": tmp_path / "data.json"}
    assert differences(own, identity(arguments(world, tmp_path / "out", **moved)), []) == []


def test_a_start_names_what_differs_and_lets_pass_what_is_allowed(world, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match="was written with --weight_decay 0.1, not 0.0: .*--allow_changed"):
        start(world, out, weight_decay=0)
    assert start(world, out, weight_decay=0, allow_changed="weight_decay") == str(out / "checkpoint-3")


def test_data_behind_a_spec(tmp_path, monkeypatch):
    """Its text is the same, the rows are not."""
    (tmp_path / "a.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/b.parquet").write_text("b")
    monkeypatch.chdir(tmp_path)
    arguments = PlainDataArguments(dataset_args="a.jsonl[train:1] + folder + some/hub_name")
    old = Identity(arguments).values()
    assert old["--dataset_args"] == arguments.dataset_args and differences(old, Identity(arguments).values(), []) == []
    for path, content in (("a.jsonl", '{"messages": {}}\n'), ("folder/b.parquet", "bb")):
        before = Path(path).read_text()
        Path(path).write_text(content)
        (found,) = differences(old, Identity(arguments).values(), [])
        assert found.startswith("data of --dataset_args sha256 ")
        assert differences(old, Identity(arguments).values(), ["dataset_args"]) == []
        Path(path).write_text(before)
