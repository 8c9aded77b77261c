"""Vision towers of open_clip and timm. test_towers.py runs this file where the libraries can be imported."""

import json
import shutil
from argparse import Namespace

import open_clip
import pytest
import timm
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from llava.data.images import preprocess_image
from llava.inference import ReportWriter, Request
from llava.model.builder import load_pretrained_model
from llava.model.multimodal_encoder.builder import load_vision_tower, save_vision_tower
from llava.train.pretrain_tower import pretrain
from oracles.tiny import STAGE_1, build_trainer

MEAN, STD = [0.481, 0.457, 0.408], [0.268, 0.261, 0.275]
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
VISION = {
    "clip": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3},
    "biomedclip": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
    "coca": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "attentional_pool": True},
}
TIMM = {
    "vit": ("test_vit", {"img_size": 32, "patch_size": 8}),
    "relpos": ("test_vit_relpos", {"img_size": 32, "patch_size": 8}),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 3}),
    "convnext": ("test_convnext", {}),
    "resnet": ("test_resnet", {}),
}


def save_open_clip(folder, vision):
    """A random CLIP in the folder format of open_clip; returns its vision model."""
    torch.manual_seed(0)
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": TEXT}
    model = open_clip.CustomTextCLIP(**config)
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return model.visual.eval()


def save_timm(folder, name, arguments):
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments)
    save_for_hf(model, folder, safe_serialization=True)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Name of a tower -> (what --vision_tower says, the library's own model)."""
    root = tmp_path_factory.mktemp("libraries")
    towers = {}
    for name, vision in VISION.items():
        towers[name] = f"open_clip:{root / name}", save_open_clip(root / name, vision)
    for name, (architecture, arguments) in TIMM.items():
        towers[name] = f"timm:{root / name}", save_timm(root / name, architecture, arguments)
    return towers


def expected_features(model, images, layer):
    """Outputs of a layer counted from the end, as the whole model of the library gives them."""
    model = getattr(model, "trunk", model)
    outputs = model.forward_intermediates(images, intermediates_only=True)
    outputs = outputs["image_intermediates"] if isinstance(outputs, dict) else outputs
    return outputs[layer].flatten(2).transpose(1, 2)


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("name", [*VISION, *TIMM])
def test_features_are_those_of_the_selected_layer(saved, name, layer):
    spec, model = saved[name]
    tower, processor = load_vision_tower(spec, layer, torch.float32)
    config, side = tower.config, processor.size["height"]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features, expected = tower(images), expected_features(model, images, layer)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    assert features.shape == (2, (config.image_size // config.patch_size) ** 2, config.hidden_size)
    assert side == config.image_size


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*VISION, *TIMM])
def test_every_weight_of_the_tower_gets_a_gradient(saved, name, checkpointing):
    tower, _ = load_vision_tower(saved[name][0], -2, torch.float32)
    if checkpointing:
        tower.gradient_checkpointing = True
    side = tower.config.image_size
    tower.train()
    before = {key: buffer.clone() for key, buffer in tower.named_buffers()}
    tower(torch.randn(2, 3, side, side)).square().sum().backward()
    assert [key for key, weight in tower.named_parameters() if weight.grad is None] == []
    assert all(torch.equal(buffer, before[key]) for key, buffer in tower.named_buffers())  # statistics of a batch


@pytest.mark.parametrize("name, block", [("clip", "transformer.resblocks.0"), ("biomedclip", "blocks.0")])
def test_checkpointing_computes_a_layer_again_in_the_backward_pass(saved, name, block):
    tower, _ = load_vision_tower(saved[name][0], -2, torch.float32)
    calls = []
    tower.encoder.get_submodule(block).register_forward_pre_hook(lambda *_: calls.append(1))
    for enable, expected in [(True, 2), (False, 1)]:
        tower.gradient_checkpointing = enable
        tower(torch.randn(1, 3, tower.config.image_size, tower.config.image_size)).sum().backward()
        assert len(calls) == expected
        calls.clear()


@pytest.mark.parametrize("name", ["clip", "eva"])
def test_pixels_are_normalised_as_the_library_does(saved, name):
    spec, model = saved[name]
    _, processor = load_vision_tower(spec, -2, torch.float32)
    side = processor.size["height"]
    if name == "clip":
        transform = open_clip.image_transform(side, is_train=False, mean=tuple(MEAN), std=tuple(STD))
    else:
        size = {"input_size": (3, side, side), "crop_pct": 1.0}
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model) | size)
    film = Image.radial_gradient("L").resize((90, 90)).convert("RGB")
    pixels = preprocess_image(film, processor, "square")[0]
    torch.testing.assert_close(pixels, transform(film), rtol=0, atol=1e-5)
    margin = preprocess_image(film.resize((90, 30)), processor, "pad")[0, :, 0]
    assert margin.abs().max() < 0.02  # the mean colour


@pytest.mark.parametrize("name", ["biomedclip", "eva"])
def test_training_saves_a_folder_that_needs_no_other(world, saved, tmp_path, name):
    spec, _ = saved[name]
    moved = shutil.copytree(spec.partition(":")[2], tmp_path / "tower")
    spec = f"{spec.partition(':')[0]}:{moved}"
    settings = {"vision_tower": spec, "max_steps": 2, "image_aspect_ratio": "pad"}
    trainer = build_trainer(world.arguments(tmp_path / "out", **settings))
    before = {key: weight.clone() for key, weight in trainer.model.state_dict().items()}
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    shutil.rmtree(moved)
    assert str(moved) not in (tmp_path / "out/config.json").read_text()

    tokenizer, model, processor = load_pretrained_model(str(tmp_path / "out"))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(weight, after[key]) for key, weight in trainer.model.state_dict().items())
    tower = [key for key in before if key.startswith("model.vision_tower.encoder.")]
    assert sum(not torch.equal(before[key], after[key]) for key in tower) > len(tower) / 2
    side = processor.size["height"]
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():  # buffers that are not saved are the same, too
        trained = trainer.model.model.vision_tower(images)
        torch.testing.assert_close(model.model.vision_tower(images), trained, rtol=0, atol=1e-6)
    assert processor.image_mean == trainer.processors[0].image_mean != [0.5] * 3

    record = json.loads(world.test.read_text())[0]
    request = Request([Image.open(world.images / record["image"]).convert("RGB")], record["conversations"][0]["value"])
    (report,) = ReportWriter(str(tmp_path / "out")).write([request], gen_length=16)
    assert report.tokens >= 1


@pytest.mark.parametrize("name", ["clip", "biomedclip", "resnet"])
def test_a_tower_that_learned_on_its_own_is_a_folder_for_training(world, saved, tmp_path, name):
    spec, _ = saved[name]
    flags = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "augment": True, "select_layer": -2, "seed": 0}
    files = {"data_path": str(world.train), "image_folder": str(world.images), "out": str(tmp_path / "out")}
    pretrain(Namespace(vision_tower=spec, **files, **flags))

    (before, processor), (after, again) = (load_vision_tower(each, -2, torch.float32) for each in (spec, files["out"]))
    assert processor.to_dict() == again.to_dict()
    for name in ("library", "factory", "select_layer", "image_size", "patch_size", "hidden_size"):
        assert json.loads(json.dumps(getattr(before.config, name))) == getattr(after.config, name), name
    weights = [dict(tower.encoder.named_parameters()) for tower in (before, after)]
    assert weights[0].keys() == weights[1].keys()
    changed = {key for key in weights[0] if not torch.equal(weights[0][key], weights[1][key])}
    assert len(changed) > len(weights[0]) / 2
    trainer = build_trainer(world.arguments(tmp_path / "model", vision_tower=files["out"], max_steps=1))
    started = trainer.model.model.vision_tower.encoder.state_dict()
    assert all(torch.equal(weight, started[key]) for key, weight in after.encoder.state_dict().items())
    with pytest.raises(ValueError, match="was cut at layer -2"):
        load_vision_tower(files["out"], -1, torch.float32)


@pytest.mark.parametrize("name", ["clip", "resnet"])
def test_a_tower_whose_writing_was_interrupted_has_no_processor(saved, tmp_path, monkeypatch, name):
    tower, processor = load_vision_tower(saved[name][0], -2, torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(type(tower), "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save_vision_tower(tower, processor, saved[name][0], tmp_path)
    assert not list(tmp_path.iterdir())
    save_vision_tower(tower, processor, saved[name][0], tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()


def test_stage_1_leaves_no_bit_of_a_frozen_tower_changed(world, saved, tmp_path):
    settings = {"vision_tower": saved["resnet"][0], "mm_tunable_parts": STAGE_1, "max_steps": 1}
    trainer = build_trainer(world.arguments(tmp_path, **settings))
    before = {key: weight.clone() for key, weight in trainer.model.model.vision_tower.state_dict().items()}
    trainer.train()
    after = trainer.model.model.vision_tower.state_dict()
    assert any("running_mean" in key for key in after)
    assert all(torch.equal(weight, after[key]) for key, weight in before.items())


@pytest.mark.parametrize("name, layer", [("clip", 0), ("clip", -4), ("vit", 1), ("vit", -20)])
def test_a_layer_that_is_not_there_is_named(saved, name, layer):
    with pytest.raises(ValueError, match=f"--mm_vision_select_layer {layer} does not fit .*; use -2") as error:
        load_vision_tower(saved[name][0], layer, torch.float32)
    assert "\n" not in str(error.value)


def test_a_model_without_layers_to_cut_is_refused(tmp_path):
    save_open_clip(tmp_path / "resnet", {"image_size": 64, "width": 16, "layers": [1, 1, 1, 1]})
    with pytest.raises(ValueError, match="ModifiedResNet cannot be cut at a layer; use a vision transformer"):
        load_vision_tower(f"open_clip:{tmp_path}/resnet", -2, torch.float32)


@pytest.mark.parametrize("name, message", [("clip", "KeyError"), ("vit", "KeyError")])
def test_a_config_that_says_nothing_is_named(saved, tmp_path, name, message):
    library, _, folder = saved[name][0].partition(":")
    (config,) = shutil.copytree(folder, tmp_path / "copy").glob("*.json")
    config.write_text("{}")
    with pytest.raises(ValueError, match=f"{config} does not describe a model of {library} .{message}") as error:
        load_vision_tower(f"{library}:{tmp_path}/copy", -2, torch.float32)
    assert "\n" not in str(error.value)


def test_a_model_that_the_library_does_not_know_is_named(saved, tmp_path):
    config = shutil.copytree(saved["vit"][0].partition(":")[2], tmp_path / "copy") / "config.json"
    config.write_text(config.read_text().replace('"test_vit"', '"vit_of_tomorrow"'))
    with pytest.raises(
        ValueError, match="timm .* cannot build the vision tower .*vit_of_tomorrow.*; update it"
    ) as error:
        load_vision_tower(f"timm:{tmp_path}/copy", -2, torch.float32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["clip", "vit"])
def test_weights_that_do_not_fit_the_config_are_named(saved, tmp_path, name):
    spec, _ = saved[name]
    library, _, folder = spec.partition(":")
    (file,) = shutil.copytree(folder, tmp_path / "copy").glob("*.safetensors")
    weights = load_file(file)
    (lost, *_) = [key for key in weights if "mlp" in key and "visual" in key or "blocks.2.mlp" in key]
    del weights[lost]
    save_file(weights, file)
    with pytest.raises(ValueError, match=f"{file} does not fit its config .*; copy it again") as error:
        load_vision_tower(f"{library}:{tmp_path}/copy", -2, torch.float32)
    assert "\n" not in str(error.value)
