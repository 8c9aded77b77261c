"""LLaDA: a folder in the published naming gives the logits of the reference formula, and becomes a folder of ours."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from dllm.data.conversation import build_prompt
from dllm.pipelines.a2d.modeling_a2d import A2DLlamaLMHeadModel
from dllm.pipelines.a2d.tiny import train_tokenizer
from dllm.pipelines.auto import frozen_pattern, load_text_model
from dllm.pipelines.llada import load_llada
from dllm.pipelines.llada.tiny import DIALECT, save_llada
from oracles import llada
from oracles.models import keep_float64


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_llada(str(tmp_path / "llada"), train_tokenizer(["say rib"], 300, DIALECT), hidden_size=64, layers=2)
    return tmp_path / "llada"


def published(folder) -> tuple[dict, dict]:
    """Weights by their published names, in float64, and the config."""
    weights = {name: weight.double() for name, weight in load_file(folder / "model.safetensors").items()}
    return weights, json.loads((folder / "config.json").read_text())


def change(folder, **settings) -> None:
    (folder / "config.json").write_text(json.dumps(published(folder)[1] | settings))


def test_the_published_names_are_those_of_the_model_card(folder):
    weights, config = published(folder)
    of_a_block = {"attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out"}
    blocks = {f"model.transformer.blocks.{n}.{name}.weight" for n in range(2) for name in of_a_block}
    assert weights.keys() == blocks | {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    assert (config["model_type"], config["d_model"], config["n_heads"]) == ("llada", 64, 2)
    assert "hidden_size" not in config


def test_logits_are_those_of_the_reference_formula(folder):
    weights, config = published(folder)
    for name, weight in weights.items():
        if "norm" in name or "ln_f" in name:  # other values in each kind, or a mix-up would not be seen
            weight += torch.linspace(-0.5, 0.5, len(weight)).roll(len(name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_llada(str(folder), dtype=torch.float64).eval()
    keep_float64(model)
    ids = [5, 9, 30, 31, 2, 2, 77, 8, 8, 100, 17]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    expected = llada.logits(weights, config, ids)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)  # transformers turns positions in float32
    causal = LlamaForCausalLM(model.config).double()
    causal.load_state_dict(model.state_dict())
    assert (causal(torch.tensor([ids])).logits[0] - expected).abs().max() > 1e-2, "a causal mask gives others"


def test_tokens_have_their_parts(folder):
    """The mask token comes from the config: the tokenizer names none."""
    tokenizer, model, origin = load_text_model(str(folder))
    config = model.config
    named = tokenizer.convert_ids_to_tokens([config.mask_token_id, *config.stop_token_ids, config.tail_token_id])
    assert named == ["<|mdm_mask|>", "<|eot_id|>", "<|endoftext|>", "<|endoftext|>"]
    assert "<|mdm_mask|>" in origin and config.num_tokens == len(tokenizer) < config.vocab_size
    assert config.attention_pattern == frozen_pattern(str(folder)) == "bidirectional"
    text = tokenizer.decode(build_prompt(tokenizer, [{"from": "human", "value": "say rib"}]))
    assert text.startswith("<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nsay rib<|eot_id|>")


def test_it_is_saved_as_a_model_of_ours(folder, tmp_path):
    tokenizer, model, _ = load_text_model(str(folder), {"attention_pattern": "block", "block_length": 4})
    model.save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    assert "model.layers.1.mlp.down_proj.weight" in load_file(tmp_path / "ours/model.safetensors")
    _, again, _ = load_text_model(str(tmp_path / "ours"))
    assert type(again) is A2DLlamaLMHeadModel and again.config.model_type == "a2d-llama"
    assert again.config.attention_pattern == frozen_pattern(str(tmp_path / "ours")) == "block"
    ids = torch.tensor([[4, 9, 30]])
    assert torch.equal(model.generate(ids, gen_length=8).ids, again.generate(ids, gen_length=8).ids)


def test_tied_weights_and_fewer_key_heads_are_read(tmp_path):
    torch.manual_seed(0)
    save_llada(str(tmp_path), train_tokenizer(["say rib"], 300, DIALECT), hidden_size=64, layers=1)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.transformer.ff_out.weight"]
    for name in "kv":
        name = f"model.transformer.blocks.0.{name}_proj.weight"
        weights[name] = weights[name][:32].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change(tmp_path, weight_tying=True, n_kv_heads=1)
    model = load_llada(str(tmp_path), dtype=torch.float64)
    weights, config = published(tmp_path)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 9, 30]])).logits[0]
    torch.testing.assert_close(logits, llada.logits(weights, config, [5, 9, 30]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block_type": "sequential"}, "block_type 'sequential' of config.json is not supported, only 'llama'"),
        ({"include_bias": True}, "include_bias True of config.json is not supported, only False"),
        ({"mask_token_id": 4711}, "mask_token_id 4711 of config.json is none of its tokenizer's 2"),
        ({"n_layers": 3}, "lacks the weight model.layers.2."),
        ({"d_model": 32}, "lacks the weight"),
        ({"n_layers": "two"}, "llada cannot be loaded .*n"),
    ],
)
def test_what_does_not_fit_is_named(folder, settings, said):
    change(folder, **settings)
    with pytest.raises(ValueError, match=said):
        load_text_model(str(folder))
