"""A run that starts from a trained model instead of two towers."""

import pytest
import torch

from oracles.tiny import build_trainer


@pytest.fixture(scope="module")
def trained_model(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    tokenizer, model, processor = world.build(
        mm_resampler_type="none", diffusion={"attention_pattern": "prefix", "gen_length": 160}
    )
    for part in (tokenizer, model, processor):
        part.save_pretrained(folder)
    return folder, model


def arguments(world, out, model, **overrides):
    settings = {"vision_tower": None, "mm_resampler_type": "none", "attention_pattern": "prefix", "max_steps": 1}
    return world.arguments(out, model_name_or_path=model, **(settings | overrides))


def test_a_trained_model_goes_on_from_its_weights_and_settings(world, trained_model, tmp_path):
    folder, model = trained_model
    trainer = build_trainer(arguments(world, tmp_path, folder))
    after = trainer.model.state_dict()
    assert after.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, after[name]) for name, weight in model.state_dict().items())
    assert trainer.model.config.text_config.attention_pattern == "prefix"
    trainer.train()
    assert trainer.model.training and trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"mm_resampler_type": "perceiver"}, "--mm_resampler_type perceiver: .* was trained with none"),
        ({"attention_pattern": "block"}, "--attention_pattern block: .* was trained with prefix"),
        ({"image_aspect_ratio": "pad"}, "--image_aspect_ratio pad: .* was trained with square"),
    ],
)
def test_other_settings_than_the_models_are_refused(world, trained_model, tmp_path, overrides, said):
    with pytest.raises(ValueError, match=said):
        build_trainer(arguments(world, tmp_path, trained_model[0], **overrides))


def test_the_vision_tower_is_asked_for_exactly_when_it_is_needed(world, trained_model, tmp_path):
    with pytest.raises(ValueError, match="--vision_tower .* has its own"):
        build_trainer(arguments(world, tmp_path, trained_model[0], vision_tower=world.vision_tower))
    with pytest.raises(ValueError, match="--vision_tower is missing"):
        build_trainer(arguments(world, tmp_path, world.language_model))
