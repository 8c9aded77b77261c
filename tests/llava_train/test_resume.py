"""A run that was stopped goes on as if it had not been, from the newest checkpoint that was written to its end."""

import shutil

import pytest

from llava.train.llava_trainer import COMPLETE, last_complete_checkpoint
from oracles.tiny import build_trainer, losses

SAVING = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def uninterrupted(world, tmp_path_factory):
    """The output folder and losses of a run of six steps, over one epoch and a half, with a checkpoint at each."""
    out = tmp_path_factory.mktemp("run")
    trainer = build_trainer(world.arguments(out, **SAVING))
    trainer.train()
    return out, losses(trainer.state.log_history)


def test_checkpoints_are_marked_and_self_contained(uninterrupted):
    out, _ = uninterrupted
    assert len(list(out.glob("checkpoint-*"))) == 6
    names = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "preprocessor_config.json"}
    for folder in out.glob("checkpoint-*"):
        assert names | {COMPLETE, "optimizer.pt", "trainer_state.json"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("steps", [3, 5, 6])
def test_a_resumed_run_gives_the_losses_of_the_whole_one_to_the_bit(world, uninterrupted, tmp_path, steps):
    out, expected = uninterrupted
    stopped = shutil.copytree(out, tmp_path / "run")
    if steps < 6:  # stopped while the next checkpoint was being written
        for step in range(steps + 2, 7):
            shutil.rmtree(stopped / f"checkpoint-{step}")
        (stopped / f"checkpoint-{steps + 1}" / COMPLETE).unlink()
        (stopped / f"checkpoint-{steps + 1}" / "optimizer.pt").unlink()
    trainer = build_trainer(world.arguments(stopped, **SAVING))
    trained_losses = []
    compute = trainer.training_step
    trainer.training_step = lambda *a, **k: trained_losses.append(compute(*a, **k)) or trained_losses[-1]
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(stopped)))
    assert losses(trainer.state.log_history) == expected
    assert [loss.item() for loss in trained_losses] == expected[steps:]


def test_the_newest_complete_checkpoint_is_the_highest_step(tmp_path):
    assert last_complete_checkpoint(str(tmp_path)) is None
    assert last_complete_checkpoint(str(tmp_path / "none")) is None
    for step in (500, 1000, 1500, 90):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_complete_checkpoint(str(tmp_path)) is None
    for step in (90, 500, 1000):
        (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_complete_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-1000")


def test_no_marker_before_everything_is_written(world, tmp_path, monkeypatch):
    trainer = build_trainer(world.arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1))
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        trainer.train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").is_file()
    assert last_complete_checkpoint(str(tmp_path)) is None
