"""What the command line may say, and the DeepSpeed settings that belong to it."""

import json

import pytest
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from oracles.tiny import CHECKOUT, build_trainer

SCRIPTS = CHECKOUT / "train" / "scripts"


@pytest.mark.parametrize("name", ["zero1.json", "zero2.json", "zero3.json", "zero3pp.json"])
def test_deepspeed_settings_leave_optimizer_and_schedule_to_the_trainer(name):
    settings = json.loads((SCRIPTS / name).read_text())
    assert not {"optimizer", "scheduler"} & settings.keys()
    stage = settings["zero_optimization"]["stage"]
    assert stage == int(name[4])
    if stage == 3:  # or nothing whole could be saved
        assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        assert settings[key] == "auto"


@pytest.mark.parametrize("block", ["optimizer", "scheduler"])
def test_deepspeed_settings_that_drop_the_learning_rates_are_refused(world, tmp_path, block):
    settings = json.loads((SCRIPTS / "zero3.json").read_text()) | {block: {"type": "x"}}
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(
        ValueError, match=f"--deepspeed {path} has a block '{block}', which would drop the learning rates"
    ):
        build_trainer(world.arguments(tmp_path / "out", deepspeed=path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("block", ["optimizer", "scheduler"])
def test_deepspeed_settings_of_accelerate_are_held_to_the_same(world, tmp_path, monkeypatch, block):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(json.loads((SCRIPTS / "zero2.json").read_text()) | {block: {"type": "x"}}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    with pytest.raises(ValueError, match=f"deepspeed_config_file {path} has a block '{block}', which would drop"):
        build_trainer(world.arguments(tmp_path / "out"))


def test_zero3pp_is_zero3_with_quantised_communication_that_deepspeed_knows():
    zero3, zero3pp = (json.loads((SCRIPTS / f"{name}.json").read_text()) for name in ("zero3", "zero3pp"))
    plain, quantised = zero3.pop("zero_optimization"), zero3pp.pop("zero_optimization")
    assert zero3 == zero3pp and plain.items() < quantised.items()
    config = DeepSpeedZeroConfig(**{name: value for name, value in quantised.items() if value != "auto"})
    assert config.zero_quantized_weights and config.zero_quantized_gradients and config.zero_hpz_partition_size == 8
    with pytest.raises(ValueError):  # it refuses what it does not know
        DeepSpeedZeroConfig(stage=3, zero_quantised_weights=True)


def test_deepspeed_settings_that_cannot_be_read_are_named(world, tmp_path):
    path = tmp_path / "zero.json"
    with pytest.raises(ValueError, match=f"--deepspeed {path} is not a file"):
        build_trainer(world.arguments(tmp_path / "out", deepspeed=path))
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path} is not JSON"):
        build_trainer(world.arguments(tmp_path / "out", deepspeed=path))


def test_deepspeed_without_a_launcher_is_refused(world, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="--deepspeed needs a launcher: start the program with torchrun"):
        build_trainer(world.arguments(tmp_path / "out", deepspeed=SCRIPTS / "zero3.json"))


BAD_ARGUMENTS = [
    ({"data_path": ""}, "--data_path is empty; give the JSON file that convert_data.py wrote"),
    ({"data_path": "none.json"}, "--data_path 'none.json' is not a file"),
    ({"image_folder": ""}, "--image_folder '' is not a folder"),
    ({"image_folder": "none"}, "--image_folder 'none' is not a folder"),
    ({"model_name_or_path": "none"}, "model folder none does not exist"),
    ({"vision_tower": "none"}, "model folder none does not exist"),
    ({"pretrain_mm_mlp_adapter": "none.safetensors"}, "adapter none.safetensors is missing; run stage 1"),
    ({"mm_tunable_parts": ""}, "--mm_tunable_parts '': name some of mm_vision_tower"),
    ({"mm_tunable_parts": "mm_mlp_adapter,x"}, "--mm_tunable_parts 'mm_mlp_adapter,x': name some of mm_vision_tower"),
    (
        {"mm_tunable_parts": "mm_vision_resampler", "mm_resampler_type": "none"},
        "the parts to train have no weights in this model",
    ),
    ({"mm_resampler_type": "x"}, "unknown mm_resampler_type 'x'; known: qformer, perceiver"),
    ({"mm_projector_type": "x"}, "unknown mm_projector_type 'x'; known: mlp2x_gelu, linear, identity"),
    ({"mm_vision_select_layer": 0}, "--mm_vision_select_layer 0 does not fit 3 layers"),
    ({"attention_pattern": "x"}, "attention_pattern 'x' is unknown; known: bidirectional, prefix, block"),
    ({"block_length": 0}, "block_length must be at least 1"),
    ({"noise_estimator": "x"}, "unknown noise estimator 'x'; known: pair, stratified"),
    ({"noise_schedule": "cosine"}, "the stratified estimator needs the linear schedule"),
    ({"noise_eps": 0.7}, "noise eps must be in (0, 0.5)"),
    ({"loss_normalisation": "x"}, "unknown loss_normalisation 'x'; known: sequence, token, batch"),
    ({"image_aspect_ratio": "x"}, "unknown --image_aspect_ratio 'x'; known: square, pad"),
    ({"version": "x"}, "unknown conversation 'x' (--version, conv_template); known: qwen"),
    ({"model_max_length": 60}, "leaves no room for a response"),
    ({"resume_from_checkpoint": "x"}, "--resume_from_checkpoint: a run goes on from the newest whole one by itself"),
    ({"save_only_model": True}, "--save_only_model: no run could go on from such a checkpoint"),
    ({"bogus_flag": "x"}, "--bogus_flag"),
]


@pytest.mark.parametrize("changes, message", BAD_ARGUMENTS, ids=[str(changes) for changes, _ in BAD_ARGUMENTS])
def test_a_mistake_is_one_line_and_leaves_no_output(world, tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        build_trainer(world.arguments(tmp_path / "out", **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_settings_of_the_command_line_are_those_of_the_model(world, tmp_path):
    settings = {
        "version": "qwen",
        "image_aspect_ratio": "pad",
        "mm_resampler_type": "masked_drop",
        "mm_projector_type": "linear",
        "mm_qformer_depth": 5,
        "mm_qformer_hidden_size": 192,
        "mm_qformer_latents": 7,
        "mm_perceiver_depth": 6,
        "mm_perceiver_latents": 9,
        "mm_spatial_pool_stride": 3,
        "mm_spatial_pool_mode": "max",
        "mm_mask_drop_ratio": 0.5,
    }
    diffusion = {"attention_pattern": "prefix", "block_length": 8, "gen_length": 128}
    trainer = build_trainer(world.arguments(tmp_path / "out", **settings, **diffusion))
    config = trainer.model.config
    assert {name: getattr(config, name) for name in settings} == settings
    assert {name: getattr(config.text_config, name) for name in diffusion} == diffusion
    assert trainer.train_dataset.dataset.preprocessor.mode == "pad"
    assert (trainer.train_dataset[0, 0]["prompt_ids"] < 0).sum() == 2 * 8  # two films, half of 16 patches


@pytest.mark.parametrize(
    "name, value",
    [("per_device_train_batch_size", 0), ("gradient_accumulation_steps", 0), ("learning_rate", "nan")],
)
def test_numbers_that_train_nothing_are_refused(world, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--{name} must be"):
        build_trainer(world.arguments(tmp_path / "out", **{name: value}))
