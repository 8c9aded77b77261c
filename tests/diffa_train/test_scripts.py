"""The stage scripts, as far as torchrun: the published values, and what the program makes of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffa.model.modeling_diffa import DiffaConfig
from diffa.train import train as program

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {  # learning rate, warm-up, batch, accumulation, kept checkpoints
    1: (1e-4, 1000, 16, 2, 5),
    2: (5e-5, 2000, 4, 2, 1),
}


def start(stage: int, folder: Path, **environment) -> subprocess.CompletedProcess:
    """The script of a stage with a torchrun that writes its arguments to a file."""
    torchrun = folder / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nfor each in "$@"; do echo "$each"; done >{folder}/arguments\n')
    torchrun.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    command = ["bash", str(ROOT / f"examples/diffa/train_stage{stage}.sh"), "1", "2", "--max_steps", "7"]
    environment = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("stage", PUBLISHED)
def test_a_stage_has_the_published_values(tmp_path, monkeypatch, stage):
    result = start(stage, tmp_path, DEEPSPEED="", LLM_MODEL="my llada")
    assert result.returncode == 0, result.stderr
    launcher, _, arguments = (tmp_path / "arguments").read_text().partition("diffa/train/train_mem.py\n")
    assert launcher.startswith("--standalone\n--nproc_per_node\n2\n")
    monkeypatch.setattr("sys.argv", ["train_mem.py", *arguments.splitlines()])
    model, data, args = program.parse()
    rate, *numbers = PUBLISHED[stage]
    assert args.learning_rate == rate
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    assert [args.warmup_steps, batch, accumulated, args.save_total_limit] == numbers
    assert (args.num_train_epochs, args.weight_decay, args.seed, args.max_steps) == (10, 0.05, 1, 7)
    assert args.lr_scheduler_type == "linear" and args.save_strategy == "epoch"
    assert (model.training_stage, model.model_name_or_path, model.attention_pattern) == (
        stage,
        "my llada",
        "bidirectional",
    )
    assert model.stage1_ckpt == (None if stage == 1 else "exp/stage1") and args.output_dir == f"exp/stage{stage}"
    assert data.train_dataset_path.endswith("train.json") and not data.cut_long_audio
    assert model.settings() == {
        "stage": stage,
        "num_prompts": 20,
        "prompt_size": 64,
        "acoustic_layers": None,
        "acoustic_intermediate_size": 3072,
        "mask_padding": True,
    }


def test_an_empty_variable_is_named(tmp_path):
    result = start(2, tmp_path, STAGE1_CKPT="")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "train: error: STAGE1_CKPT is empty; give it a value, or unset it for its default"
    )


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_takes_over_the_settings_of_the_one_that_it_goes_on_from(tmp_path, monkeypatch, stage):
    text = {"model_type": "a2d-qwen3", "attention_pattern": "prefix", "block_length": 8, "gen_length": 16}
    DiffaConfig(text_config=text, stage=2, prompt_size=4, acoustic_layers=[1, 2]).save_pretrained(tmp_path / "before")
    start(stage, tmp_path, STAGE1_CKPT="before", DEEPSPEED="", GEN_LENGTH="32")
    arguments = (tmp_path / "arguments").read_text().partition("diffa/train/train_mem.py\n")[2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_mem.py", *arguments.splitlines()])
    model, _, _ = program.parse()
    assert model.diffusion() == {"attention_pattern": "prefix", "block_length": 8, "gen_length": 32}
    settings = model.settings()
    expected = (4, [1, 2]) if stage == 2 else (64, None)  # of the other stage: its adapters are not read
    assert (settings["prompt_size"], settings["acoustic_layers"]) == expected
