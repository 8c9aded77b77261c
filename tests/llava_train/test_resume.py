"""A run that was stopped goes on as if it had not been, from the newest checkpoint that was written to its end."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from dllm.training.checkpoints import COMPLETE, check_settings, newest_whole_checkpoint
from oracles.tiny import STAGE_1, build_trainer, launch, losses

SAVING = {"save_strategy": "steps", "save_steps": 1}
HALF = {"per_device_train_batch_size": 2}
LORA = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.2}
RUNS = {  # of six steps over an epoch and a half, an epoch being four steps
    "whole model": SAVING,
    "stage 1": SAVING | {"mm_tunable_parts": STAGE_1},
    "dropout": SAVING | LORA,
    "workers and accumulation": SAVING | HALF | {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2},
    "loss of four steps": SAVING | {"save_steps": 3, "logging_steps": 4},
}
EPOCH = 4


class Draws(TrainerCallback):
    """Draws from every random generator after each step."""

    def __init__(self):
        self.drawn = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.drawn[state.global_step] = (random.random(), np.random.rand(), torch.rand(()).item())


def run(arguments, checkpoint=None):
    """(trainer after its run, what each of its steps drew)."""
    trainer, draws = build_trainer(arguments), Draws()
    trainer.add_callback(draws)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, draws.drawn


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """Name of a run -> its output folder, losses, draws and weights; each is made once."""
    made = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("run")
            trainer, drawn = run(world.arguments(out, **RUNS[name]))
            made[name] = out, losses(trainer.state.log_history), drawn, trainer.model.state_dict()
        return made[name]

    return of


def stopped_at(out: Path, step: int, target: Path) -> Path:
    """A copy of an output folder as a kill in the save after `step` leaves it."""
    stopped = shutil.copytree(out, target)
    for folder in stopped.glob("checkpoint-*"):
        later = int(folder.name.removeprefix("checkpoint-")) - step
        if later > 1:
            shutil.rmtree(folder)
        elif later == 1:
            (folder / COMPLETE).unlink()
            (folder / "trainer_state.json").unlink()
            (folder / "left_behind").touch()
    return stopped


def test_checkpoints_are_marked_and_self_contained(uninterrupted):
    out, *_ = uninterrupted("whole model")
    assert len(list(out.glob("checkpoint-*"))) == 6
    names = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json"}
    for folder in out.glob("checkpoint-*"):
        assert names | {COMPLETE, "optimizer.pt", "trainer_state.json"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *(("whole model", step) for step in (3, EPOCH, 5, 6)),
        ("stage 1", 5),
        ("dropout", 5),
        ("workers and accumulation", EPOCH),
        ("workers and accumulation", 5),
        ("loss of four steps", 3),
    ],
)
def test_a_resumed_run_is_the_whole_one_to_the_bit(world, uninterrupted, tmp_path, name, step):
    """Losses, weights and what is drawn from python, numpy and torch."""
    out, expected, drawn, weights = uninterrupted(name)
    stopped = stopped_at(out, step, tmp_path / "run")
    checkpoint = str(newest_whole_checkpoint(stopped)[0])
    assert checkpoint == str(stopped / f"checkpoint-{step}")
    trainer, drawn_again = run(world.arguments(stopped, **RUNS[name]), checkpoint)
    assert losses(trainer.state.log_history) == expected
    assert drawn_again == {number: drawn[number] for number in range(step + 1, 7)}
    assert all(torch.equal(weight, weights[key]) for key, weight in trainer.model.state_dict().items())
    assert not (stopped / f"checkpoint-{step + 1}" / "left_behind").exists()


def test_dropout_makes_the_random_states_matter(world, uninterrupted, tmp_path):
    out, expected, *_ = uninterrupted("dropout")
    stopped = stopped_at(out, 5, tmp_path / "run")
    (stopped / "checkpoint-5" / "rng_state.pth").unlink()
    trainer, _ = run(world.arguments(stopped, **RUNS["dropout"]), str(stopped / "checkpoint-5"))
    assert losses(trainer.state.log_history)[:5] == expected[:5]
    assert losses(trainer.state.log_history)[5] != expected[5]


def test_a_step_that_is_saved_is_logged(uninterrupted):
    out, *_ = uninterrupted("loss of four steps")
    history = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [3, 4, 6]


@pytest.fixture(scope="module")
def of_two(world, tmp_path_factory):
    """Name -> (output folder, command line of a folder) of runs on two processes."""
    made = {}
    settings = {"DDP": SAVING | HALF, "ZeRO-2": SAVING | HALF | LORA | {"deepspeed": "scripts/zero2.json"}}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("two")
            result = launch(world.arguments(out, **settings[name]), processes=2)
            assert result.returncode == 0, result.stderr[-3000:]
            made[name] = out, lambda folder, **more: world.arguments(folder, **settings[name] | more)
        return made[name]

    return of


def finished(out: Path) -> list[float]:
    return losses(json.loads((out / "trainer_state.json").read_text())["log_history"])


def test_zero_2_goes_on_to_the_bit_with_the_random_states_of_both_processes(of_two, tmp_path):
    """With dropout; the batches of the processes differ in length, and so do the states."""
    out, arguments = of_two("ZeRO-2")
    states = [torch.load(out / "checkpoint-5" / f"rng_state_{rank}.pth", weights_only=False) for rank in range(2)]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    stopped = stopped_at(out, 5, tmp_path / "run")
    result = launch(arguments(stopped), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert finished(stopped) == finished(out)
    assert (stopped / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_another_number_of_processes_goes_on_with_the_same_losses(of_two, world, tmp_path):
    """With the same samples a step; sums are rounded in another order."""
    out, _ = of_two("DDP")
    stopped = stopped_at(out, 5, tmp_path / "run")
    arguments = world.arguments(stopped, **SAVING)
    checkpoint = str(newest_whole_checkpoint(stopped)[0])
    check_settings(checkpoint, build_trainer(arguments).run_settings(), [])
    trainer, _ = run(arguments, checkpoint)
    assert losses(trainer.state.log_history) == pytest.approx(finished(out), rel=0, abs=1e-5)


def test_another_number_of_zero_processes_is_refused(of_two, tmp_path):
    """Each has its part of the optimizer's state."""
    out, arguments = of_two("ZeRO-2")
    stopped = stopped_at(out, 5, tmp_path / "run")
    result = launch(arguments(stopped, per_device_train_batch_size=4), processes=1)
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("train: error: ")]
    said = "was written with ZeRO processes 2, not 1: the losses would be of two runs; give the same or another"
    assert line.startswith(f"train: error: {stopped / 'checkpoint-5'} {said}")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"per_device_train_batch_size": 2}, "samples a step 4, not 2"),
        ({"learning_rate": 1e-4}, "--learning_rate 0.003, not 0.0001"),
        ({"mm_projector_lr": 1e-3}, "--mm_projector_lr .*, not 0.001"),
        ({"seed": 2}, "--seed 1, not 2"),
        ({"data_seed": 2}, "--data_seed .*, not 2"),
        ({"train_sampling_strategy": "random"}, "--train_sampling_strategy group_by_length, not random"),
    ],
)
def test_settings_that_would_not_go_on_are_refused(world, uninterrupted, tmp_path, changed, said):
    out, *_ = uninterrupted("whole model")
    trainer = build_trainer(world.arguments(tmp_path, **SAVING | changed))
    with pytest.raises(ValueError, match=f"checkpoint-6 was written with {said}: .*; give the same or another"):
        check_settings(str(newest_whole_checkpoint(out)[0]), trainer.run_settings(), [])
