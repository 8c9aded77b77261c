"""Folders of a trained model: what they hold, what they name, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffa.model.builder import build_model, load_pretrained_model, load_stage
from diffa.model.tiny import save_audio_encoder
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from oracles.sounds import TINY
from oracles.tiny import widen


def save(model, tokenizer, extractor, folder):
    for each in (tokenizer, extractor, model):
        each.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(sounds, tmp_path_factory):
    """(a folder of stage 1, its model)."""
    tokenizer, model, extractor = sounds.build(stage=1)
    widen(model.semantic_adapter)
    return save(model, tokenizer, extractor, tmp_path_factory.mktemp("stage 1")), model


def test_a_folder_names_its_frozen_parts_and_holds_the_rest(sounds, trained):
    folder, model = trained
    assert all(name.startswith("semantic_adapter.") for name in load_file(f"{folder}/model.safetensors"))
    named = json.loads(open(f"{folder}/config.json").read())["frozen"]
    assert named["language_model"]["folder"] == str(sounds.language_model)
    tokenizer, loaded, extractor = load_pretrained_model(folder)
    assert tokenizer.decode(tokenizer("a b").input_ids) == "a b" and extractor.n_samples == 48_000
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight), name


def test_a_language_model_that_was_trained_is_in_the_folder(sounds, tmp_path):
    tokenizer, model, extractor = sounds.build(freeze_language_model=False, diffusion={"attention_pattern": "block"})
    folder = save(widen(model), tokenizer, extractor, tmp_path)
    _, loaded, _ = load_pretrained_model(folder)
    assert loaded.diffusion.attention_pattern == "block" and list(loaded.config.frozen) == ["audio_encoder"]
    for name, weight in model.language_model.named_parameters():
        assert torch.equal(loaded.language_model.get_parameter(name), weight), name
    with pytest.raises(ValueError, match="has a language_model of its own; leave the folder out"):
        load_pretrained_model(folder, language_model=str(sounds.language_model))


@pytest.mark.parametrize("part", ["language_model", "whisper"])
def test_other_frozen_parts_are_refused_and_moved_ones_are_found(sounds, trained, tmp_path, part):
    folder, model = trained
    argument = "audio_encoder" if part == "whisper" else part
    moved = shutil.copytree(getattr(sounds, part), tmp_path / "moved")
    load_pretrained_model(folder, **{argument: str(moved)})
    weights = load_file(moved / "model.safetensors")
    name = min(weights)
    save_file(weights | {name: weights[name] + 1e-3}, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"was trained with the weights of .*, sha256 .*moved has others"):
        load_pretrained_model(folder, **{argument: str(moved)})
    parts = {"language_model": str(sounds.language_model), "whisper": str(sounds.whisper)} | {part: str(moved)}
    _, other, _ = build_model(parts["language_model"], parts["whisper"], {}, **TINY)
    with pytest.raises(ValueError, match=rf"was trained with the {argument} of .*give the same"):
        load_stage(other, folder)


def test_stage_2_starts_from_stage_1(sounds, trained, tmp_path):
    folder, first = trained
    _, second, _ = sounds.build(stage=2)
    load_stage(second, folder)
    for name, weight in second.semantic_adapter.named_parameters():
        assert torch.equal(first.semantic_adapter.get_parameter(name), weight), name
    assert second.semantic_adapter.prompts is None and not second.acoustic_adapter.proj[1].weight.any()
    tokenizer, talker, extractor = sounds.build(stage=1, freeze_language_model=False)
    talked = save(widen(talker), tokenizer, extractor, tmp_path)
    load_stage(second, talked)  # whose language model comes along
    assert list(second.config.frozen) == ["audio_encoder"]
    assert torch.equal(second.language_model.lm_head.weight, talker.language_model.lm_head.weight)


def test_an_adapter_of_another_width_is_refused(sounds, trained, tmp_path):
    save_audio_encoder(tmp_path / "whisper", hidden_size=96, layers=2)
    _, wide, _ = build_model(str(sounds.language_model), str(tmp_path / "whisper"), {}, **TINY | {"stage": 1})
    wide.config.frozen.pop("audio_encoder")  # or its other weights would be told first
    with pytest.raises(ValueError, match=r"semantic_adapter.conv.0.bias of shape \[64\], the model of shape \[96\]"):
        load_stage(wide, trained[0])
    with pytest.raises(ValueError, match="holds no trained diffa model; give the output folder of stage 1"):
        load_stage(wide, str(sounds.language_model))


def test_a_frozen_language_model_keeps_its_pattern(sounds, tmp_path):
    for diffusion in ({"attention_pattern": "block"}, {"attention_pattern": "prefix"}):
        with pytest.raises(ValueError, match="is frozen and knows the attention_pattern bidirectional alone"):
            sounds.build(diffusion=diffusion)
    save_language_model(tmp_path, train_tokenizer([], 300), 64, 1, plain=True)
    with pytest.raises(ValueError, match="autoregressive"):
        build_model(str(tmp_path), str(sounds.whisper), {}, **TINY)


def test_an_unknown_layer_is_named(sounds):
    with pytest.raises(ValueError, match="acoustic_layers: 4 is no state of an encoder of 3 layers; give some of 0-3"):
        sounds.build(acoustic_layers=[1, 4])


@pytest.mark.parametrize("part, file", [("whisper", "preprocessor_config.json"), ("whisper", "model.safetensors")])
def test_an_incomplete_folder_is_named(sounds, tmp_path, part, file):
    folder = shutil.copytree(getattr(sounds, part), tmp_path / "copy")
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"copy is incomplete: {file} is missing"):
        build_model(str(sounds.language_model), str(folder), {}, **TINY)
    with pytest.raises(ValueError, match="holds a llada model; give the folder of a Whisper"):
        shutil.copy(sounds.whisper / "preprocessor_config.json", tmp_path)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(sounds.language_model / name, tmp_path)
        build_model(str(sounds.language_model), str(tmp_path), {}, **TINY)
