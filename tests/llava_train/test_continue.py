"""A run that starts from a trained model instead of two towers."""

import pytest
import torch

from llava.model.language_model.llava_qwen import LlavaQwen3Config
from llava.train import train as program
from oracles.launchers import stage
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
    """Of a run that goes on from a model: none of the settings that it has."""
    unset = ("vision_tower", "mm_qformer_depth", "mm_qformer_hidden_size", "mm_qformer_latents")
    unset += ("mm_perceiver_depth", "mm_perceiver_latents", "block_length", "gen_length")
    return world.arguments(out, model_name_or_path=model, max_steps=1, **dict.fromkeys(unset) | overrides)


def test_a_trained_model_goes_on_from_its_weights_and_settings(world, trained_model, tmp_path):
    folder, model = trained_model
    trainer = build_trainer(arguments(world, tmp_path, folder))
    after = trainer.model.state_dict()
    assert after.keys() == model.state_dict().keys()
    assert all(torch.equal(weight, after[name]) for name, weight in model.state_dict().items())
    assert trainer.model.config.text_config.attention_pattern == "prefix"
    settings = trainer.identity.values()
    own = {"attention_pattern": "prefix", "gen_length": 160, "mm_resampler_type": "none", "mm_qformer_latents": 4}
    assert settings == settings | {f"--{name}": value for name, value in own.items()}
    trainer.train()
    assert trainer.model.training and trainer.state.global_step == 1


def test_a_trained_model_goes_on_with_blocks_of_another_length(world, trained_model, tmp_path):
    assert trained_model[1].diffusion.block_length == 16
    trainer = build_trainer(arguments(world, tmp_path, trained_model[0], block_length=80))
    trainer.train()
    trainer.model.save_pretrained(tmp_path)
    other = LlavaQwen3Config.from_pretrained(tmp_path)
    assert trainer.model.language_model.config.block_length == other.text_config.block_length == 80
    with pytest.raises(ValueError, match="block_length must be at least 1"):
        build_trainer(arguments(world, tmp_path, trained_model[0], block_length=0))


def test_all_settings_that_are_not_the_models_are_told_at_once(world, trained_model, tmp_path):
    folder = trained_model[0]
    other = {"mm_resampler_type": "perceiver", "attention_pattern": "block", "image_aspect_ratio": "pad"}
    same = {"gen_length": 160}
    with pytest.raises(ValueError) as told:
        build_trainer(arguments(world, tmp_path, folder, vision_tower=world.vision_tower, **other | same))
    assert str(told.value) == (
        f"{folder} was trained with other settings: --attention_pattern block (it has prefix), --vision_tower "
        f"{world.vision_tower} (it has its own), --mm_resampler_type perceiver (it has none), --image_aspect_ratio pad "
        "(it has square); leave these out"
    )


def test_the_stage_script_goes_on_from_a_model_with_its_path_alone(world, trained_model, tmp_path, monkeypatch):
    folders = {"DATA_PATH": str(world.train), "IMAGE_FOLDER": str(world.images), "LM_PATH": str(trained_model[0])}
    monkeypatch.setattr("sys.argv", ["train_mem.py", *stage("llada_v_finetune.sh", tmp_path / "bin", **folders)[1]])
    model, _, _ = program.parse()
    assert (model.vision_tower, model.pretrain_mm_mlp_adapter, model.gen_length) == (None, None, 160)


def test_the_vision_tower_is_asked_for_where_there_is_none(world, tmp_path):
    with pytest.raises(ValueError, match="--vision_tower is missing"):
        build_trainer(arguments(world, tmp_path, world.language_model))
