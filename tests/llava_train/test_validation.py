"""Validation during a run: a loss that two checkpoints, runs or numbers of processes can be compared by."""

import json

import pytest

from oracles.tiny import build_trainer, launch, run_program

EVERY_3 = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 4}


def eval_losses(history: list[dict]) -> list[float]:
    return [entry["eval_loss"] for entry in history if "eval_loss" in entry]


@pytest.fixture(scope="module")
def validated(world, tmp_path_factory):
    """The output folder of a run of six steps that is validated after the third and the last."""
    out = tmp_path_factory.mktemp("run")
    result = run_program(world.arguments(out, eval_data_path=world.test, **EVERY_3))
    assert result.returncode == 0, result.stderr[-3000:]
    return out


def history(out) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def test_the_loss_of_unseen_studies_is_logged_and_falls(validated):
    first, last = eval_losses(history(validated))
    assert 0 < last < first


def test_it_is_that_of_the_checkpoint_alone(world, validated, tmp_path):
    """Other noise, seed, order, batch size: the same number."""
    trainer = build_trainer(
        world.arguments(
            tmp_path,
            model_name_or_path=validated,
            vision_tower=None,
            eval_data_path=world.test,
            noise_estimator="single",
            seed=9,
            **EVERY_3 | {"per_device_eval_batch_size": 1},
        )
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(eval_losses(history(validated))[-1], rel=1e-5)


def test_two_processes_measure_the_same(world, validated, tmp_path):
    result = launch(world.arguments(tmp_path, eval_data_path=world.test, **EVERY_3, per_device_train_batch_size=2), 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert eval_losses(history(tmp_path)) == pytest.approx(eval_losses(history(validated)), rel=1e-5)


def test_validation_does_not_change_the_run(world, validated, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path))
    trainer.train()
    without = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in history(validated) if "loss" in entry] == without


def test_masked_drop_keeps_every_patch_in_validation(world, tmp_path):
    arguments = world.arguments(
        tmp_path, eval_data_path=world.test, mm_resampler_type="masked_drop", mm_mask_drop_ratio=0.25, **EVERY_3
    )
    trainer = build_trainer(arguments)
    short, whole = (
        (sample["prompt_ids"] < 0).sum() for sample in (trainer.train_dataset[0, 0], trainer.eval_dataset[0])
    )
    assert (short, whole) == (2 * 4, 16)  # of two films and of one
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_file_that_would_never_be_read_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match="^--eval_data_path is never read; say when with --eval_strategy"):
        build_trainer(world.arguments(tmp_path, eval_data_path=world.test))
