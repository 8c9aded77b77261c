"""The picture beside a training output shows what its run logged."""

import pytest
from PIL import Image

from dllm.training.curves import draw, panels
from oracles.text_runs import logged, make_trainer


def test_the_curves_are_the_log_of_the_run(tmp_path):
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.train()
    trainer.state.save_to_json(tmp_path / "trainer_state.json")
    found = panels(trainer.state.log_history)
    loss, noise, rate, norm, validation = found.values()
    assert loss["all targets"] == list(enumerate(logged(trainer, "loss"), start=1))
    assert set(noise) <= {"0-25", "25-50", "50-75", "75-100"} and len(noise) > 1
    assert set(norm) == {"all parts", *trainer.model.parts}
    assert [step for step, _ in validation["mean over responses"]] == [2, 4]
    with Image.open(draw(tmp_path)) as picture:
        assert picture.width > picture.height > 900 and sum(map(bool, picture.convert("L").histogram())) > 10


def test_without_validation_there_is_no_panel_for_it():
    found = panels([{"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"step": 2, "loss": float("nan")}])
    assert found == {"loss, nats": {"all targets": [(1, 2.0)]}, "gradient norm": {"all parts": [(1, 1.0)]}}


@pytest.mark.parametrize("state", [None, '{"log_history": [{"step": 4, "train_runtime": 1.0}]}'])
def test_a_folder_without_losses_is_one_line(tmp_path, state):
    if state:
        (tmp_path / "trainer_state.json").write_text(state)
    error, line = (ValueError, "holds no loss; train with") if state else (FileNotFoundError, "trainer_state.json")
    with pytest.raises(error, match=line):
        draw(tmp_path)
