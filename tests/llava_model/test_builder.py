"""Models are built from published folders, saved to self-contained ones, and refused when anything is missing."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, Qwen3Config, Qwen3ForCausalLM

from llava.model import LlavaQwen3Config, LlavaQwen3ModelLM
from llava.model.builder import (
    ADAPTER_FILE,
    build_model,
    check_folder,
    load_adapter,
    load_pretrained_model,
    save_adapter,
)
from oracles.tiny import widen


def save_whole(parts, folder, **kwargs):
    for part in parts:
        part.save_pretrained(folder, **kwargs)
    return folder


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A saved model and its folder; the folders that it was built of are elsewhere."""
    parts = world.build(diffusion={"attention_pattern": "prefix"}, version="qwen", image_aspect_ratio="pad")
    return parts[1], save_whole(parts, tmp_path_factory.mktemp("whole"))


def same_weights(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def response(model):
    """A report on one image, written by sampling."""
    ids = torch.tensor([[7, 8] + [-200] * 4 + [9, 10]])
    images = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    return model.generate(ids, torch.ones_like(ids), images, seeds=[3], temperature=1.0, gen_length=32).ids


def test_weights_of_both_towers_are_taken_over(world):
    _, model, _ = world.build()
    language = load_file(world.language_model / "model.safetensors")
    for name, weight in language.items():
        assert torch.equal(model.language_model.state_dict()[name], weight)
    vision = load_file(world.vision_tower / "model.safetensors")
    for name, weight in model.model.vision_tower.state_dict().items():
        assert torch.equal(weight, vision[name])
    assert "encoder.layers.2.mlp.fc1.weight" in vision
    assert not [name for name in model.state_dict() if "layers.2" in name and "vision" in name]


def test_a_built_model_computes_what_its_saved_folder_does(world, tmp_path):
    """Causal blocks of 16 in a canvas of 48: attention that ignored its mask would see what is to come."""
    tokenizer, model, processor = world.build()
    widen(model)
    for part in (tokenizer, processor, model):
        part.save_pretrained(tmp_path)
    _, loaded, _ = load_pretrained_model(str(tmp_path))
    assert model.config.text_config is model.language_model.config
    assert model.config.vision_config is model.model.vision_tower.config
    for part in ("text_config", "vision_config"):
        kernels = [getattr(each.config, part)._attn_implementation for each in (model, loaded)]
        assert kernels[0] == kernels[1] is not None
    built = response(model.eval())
    assert len(built.unique()) > 3 and torch.equal(built, response(loaded))
    prompt = torch.tensor([[7, 8, 9]])
    (found, expected) = (
        each.losses(
            each.prepare_prompt(prompt, torch.ones_like(prompt), torch.zeros(1, 3, 32, 32)),
            torch.arange(10, 42)[None],
            torch.arange(32)[None] % 3 == 0,
        ).losses
        for each in (model, loaded)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_plain_qwen3_folder_is_made_bidirectional(world, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32, "vocab_size": 408}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    causal = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads))
    causal.save_pretrained(tmp_path)
    words = (world.language_model / "tokenizer.json").read_text().replace("<|mask|>", "<|other|>")
    (tmp_path / "tokenizer.json").write_text(words)  # as published: no mask token, and rows to spare
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3"
    diffusion = {"attention_pattern": "bidirectional", "gen_length": 48}
    tokenizer, model, _ = build_model(str(tmp_path), str(world.vision_tower), -2, torch.float32, diffusion)
    assert same_weights(model.language_model, causal)
    config = model.config.text_config
    assert (config.attention_pattern, config.gen_length) == ("bidirectional", 48)
    assert config.mask_token_id == tokenizer.convert_tokens_to_ids("<|mask|>") == 400
    assert config.num_tokens == 401
    assert config.stop_token_ids == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert tokenizer.chat_template is not None


def test_saved_folder_loads_by_itself(whole, tmp_path):
    model, folder = whole
    moved = shutil.copytree(folder, tmp_path / "moved")
    tokenizer, loaded, processor = load_pretrained_model(str(moved))
    assert same_weights(loaded, model)
    assert not loaded.training
    assert torch.equal(response(loaded), response(model))
    assert loaded.config.text_config.attention_pattern == "prefix"
    assert loaded.config.image_aspect_ratio == "pad"
    assert processor.size == {"height": 32, "width": 32}
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert chat == "<|im_start|>user\na<|im_end|>\n"


def test_saved_folder_loads_through_the_auto_classes(whole):
    model, folder = whole
    assert type(AutoConfig.from_pretrained(folder)) is LlavaQwen3Config
    for auto in (AutoModel, AutoModelForMaskedLM):
        loaded = auto.from_pretrained(folder).eval()
        assert type(loaded) is LlavaQwen3ModelLM
        assert same_weights(loaded, model)
        assert torch.equal(response(loaded), response(model))


def test_weights_in_several_files_load(world, tmp_path):
    parts = world.build()
    save_whole(parts, tmp_path, max_shard_size="200KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert same_weights(load_pretrained_model(str(tmp_path))[1], parts[1])
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} is incomplete: {shards[1].name} is missing"):
        load_pretrained_model(str(tmp_path))


def test_bfloat16_is_loaded_as_such(whole):
    _, model, _ = load_pretrained_model(str(whole[1]), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def edit_config(folder, part=None, **values):
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(values)
    (folder / "config.json").write_text(json.dumps(config))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


DAMAGES = {
    "no folder": (lambda folder: shutil.rmtree(folder), "does not exist"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "config is not JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "weights truncated": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors is damaged"),
    "weights empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no processor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "preprocessor_config.json is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["whole", "language_model", "vision_tower"])
def test_incomplete_folder_is_named(world, whole, tmp_path, kind, damage):
    if (kind, damage) in {("language_model", "no processor"), ("vision_tower", "no tokenizer")}:
        return
    original = whole[1] if kind == "whole" else getattr(world, kind)
    folder = shutil.copytree(original, tmp_path / "copy")
    apply, message = DAMAGES[damage]
    apply(folder)
    folders = {"language_model": str(world.language_model), "vision_tower": str(world.vision_tower)}
    with pytest.raises(ValueError, match=message) as error:
        if kind == "whole":
            load_pretrained_model(str(folder))
        else:
            build_model(**folders | {kind: str(folder)}, select_layer=-2, dtype=torch.float32, diffusion={})
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_read(world, tmp_path):
    folder = shutil.copytree(world.language_model, tmp_path / "copy")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        build_model(str(folder), str(world.vision_tower), -2, torch.float32, {})


@pytest.mark.parametrize("values", [{"intermediate_size": 48}, {"num_hidden_layers": 9}], ids=["width", "layers"])
@pytest.mark.parametrize("kind", ["whole", "language_model", "vision_tower"])
def test_weights_that_do_not_fit_their_config_are_named(world, whole, tmp_path, kind, values):
    folder = shutil.copytree(whole[1] if kind == "whole" else getattr(world, kind), tmp_path / "copy")
    types = {"layer_types": None} if kind != "vision_tower" else {}
    edit_config(folder, "text_config" if kind == "whole" else None, **values, **types)
    folders = {"language_model": str(world.language_model), "vision_tower": str(world.vision_tower)}
    with pytest.raises(ValueError, match=f"{folder} lacks the weight .*layers") as error:
        if kind == "whole":
            load_pretrained_model(str(folder))
        else:
            build_model(**folders | {kind: str(folder)}, select_layer=-2, dtype=torch.float32, diffusion={})
    assert "\n" not in str(error.value)


def test_mask_token_outside_the_vocabulary_is_named(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    edit_config(folder, "text_config", mask_token_id=400)
    with pytest.raises(ValueError, match="mask_token_id 400 is outside the vocabulary of 400"):
        load_pretrained_model(str(folder))


def test_unknown_pattern_is_named(world, whole, tmp_path):
    with pytest.raises(ValueError, match="attention_pattern 'x' is unknown; known: bidirectional, prefix, block"):
        world.build(diffusion={"attention_pattern": "x"})
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    edit_config(folder, "text_config", attention_pattern="x")
    with pytest.raises(ValueError, match="attention_pattern 'x' is unknown"):
        load_pretrained_model(str(folder))


def test_a_language_model_alone_is_no_checkpoint(world, tmp_path):
    folder = shutil.copytree(world.language_model, tmp_path / "copy")
    shutil.copy(world.vision_tower / "preprocessor_config.json", folder)
    with pytest.raises(ValueError, match="holds a a2d-qwen3 model, not a trained llava_qwen3 checkpoint"):
        load_pretrained_model(str(folder))


def test_a_language_model_without_a_spare_row_for_the_mask_is_named(world, tmp_path):
    tokenizer, model, _ = world.build()
    tokenizer.add_tokens(["<one more>"])
    save_whole([model.language_model, tokenizer], tmp_path)
    with pytest.raises(ValueError, match="num_tokens 401 .* vocabulary of 400"):
        build_model(str(tmp_path), str(world.vision_tower), -2, torch.float32, {})


def test_check_folder_returns_the_config(world):
    assert check_folder(str(world.language_model))["model_type"] == "a2d-qwen3"


@pytest.mark.parametrize("name", ["qformer", "spatial_pool"])
def test_adapter_takes_resampler_and_projector_along_and_nothing_else(world, tmp_path, name):
    _, source, _ = world.build(mm_resampler_type=name)
    torch.manual_seed(1)
    for parameter in source.parameters():
        parameter.data.normal_()
    path = save_adapter(source.state_dict(), source.config, str(tmp_path / "new"))
    assert path == tmp_path / "new" / ADAPTER_FILE
    assert [file.name for file in path.parent.iterdir()] == [ADAPTER_FILE]

    _, model, _ = world.build(mm_resampler_type=name)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    load_adapter(model, str(path))
    for key, weight in model.state_dict().items():
        moved = key.startswith(("model.mm_projector.", "model.vision_resampler."))
        assert torch.equal(weight, source.state_dict()[key] if moved else before[key]), key


@pytest.mark.parametrize(
    "stage_1, message",
    [
        ({"mm_resampler_type": "perceiver"}, "trained with mm_resampler_type 'perceiver', the model has 'qformer'"),
        ({"mm_resampler_type": "none"}, "trained with mm_resampler_type 'none', the model has 'qformer'"),
        ({"mm_projector_type": "linear"}, "trained with mm_projector_type 'linear', the model has 'mlp2x_gelu'"),
        ({"mm_qformer_depth": 3}, "of shape .*, the model not at all; give the settings of stage 1"),
        ({"mm_qformer_hidden_size": 128}, r"of shape \[64, 128\], the model of shape \[64, 64\]"),
        ({"mm_qformer_latents": 5}, r"queries.weight of shape \[5, 64\], the model of shape \[4, 64\]"),
    ],
)
def test_adapter_of_another_model_is_refused_and_leaves_the_model_alone(world, tmp_path, stage_1, message):
    _, source, _ = world.build(**stage_1)
    path = save_adapter(source.state_dict(), source.config, str(tmp_path))
    _, model, _ = world.build()
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(model, str(path))
    assert str(path) in str(error.value)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


def test_adapters_without_weights_of_the_resampler_are_told_apart(world, tmp_path):
    _, source, _ = world.build(mm_resampler_type="none")
    path = save_adapter(source.state_dict(), source.config, str(tmp_path))
    with pytest.raises(ValueError, match="trained with mm_resampler_type 'none', the model has 'spatial_pool'"):
        load_adapter(world.build(mm_resampler_type="spatial_pool")[1], str(path))


def test_adapter_that_is_missing_or_no_safetensors_file_is_named(world, tmp_path):
    _, model, _ = world.build()
    with pytest.raises(ValueError, match=f"adapter {tmp_path}/a.safetensors is missing; run stage 1"):
        load_adapter(model, str(tmp_path / "a.safetensors"))
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=f"adapter {tmp_path}/a.safetensors is not a safetensors file"):
        load_adapter(model, str(tmp_path / "a.safetensors"))
