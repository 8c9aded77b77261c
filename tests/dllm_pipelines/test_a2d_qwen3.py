"""Bidirectional Qwen3: what it sees, padding, equality with transformers' Qwen3, folders, and its own forward."""

import json

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, LlamaConfig, Qwen3Config, Qwen3ForCausalLM

from dllm.core.objective import target_losses
from dllm.core.patterns import PATTERNS
from dllm.inference.writer import rectangle
from dllm.pipelines.a2d import A2DQwen3Config, A2DQwen3LMHeadModel, load_qwen3
from dllm.pipelines.kernels import BY_MASK
from oracles.batches import pack, random_samples, spy
from oracles.models import (
    MASK,
    STOP,
    TAIL,
    VOCAB_SIZE,
    bias_head,
    keep_float64,
    left_padded,
    random_ids,
    tiny_config,
    tiny_model,
)
from oracles.sampling import sample
from oracles.training import writable

IDS = torch.tensor([random_ids(9, torch.Generator().manual_seed(1))])


def logits_of(model, ids, attention_mask=None) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=attention_mask).logits


def plain_qwen3(seed: int = 0, **settings) -> Qwen3ForCausalLM:
    """transformers' own model in the shape of the tiny one."""
    diffusion = set(A2DQwen3Config().to_dict()) - set(Qwen3Config().to_dict()) | {"model_type", "architectures"}
    values = {k: v for k, v in tiny_config(**settings).to_dict().items() if k not in diffusion}
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**values)).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_later_token_changes_an_earlier_logit(attention):
    model = tiny_model("bidirectional", torch.float32, attn_implementation=attention)
    changed = IDS.clone()
    changed[0, -1] = (changed[0, -1] + 1) % MASK
    difference = (logits_of(model, IDS) - logits_of(model, changed)).abs().amax(-1)[0]
    assert (difference[:-1] > 1e-3).all()
    causal = (plain_qwen3()(IDS).logits - plain_qwen3()(changed).logits).abs().amax(-1)[0]
    assert (causal[:-1] == 0).all(), "the causal model does not"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_right_and_no_padding_agree(attention):
    model = tiny_model("bidirectional", torch.float32, attn_implementation=attention)
    alone = logits_of(model, IDS)
    pads, ones, zeros = torch.tensor([random_ids(4, torch.Generator())]), torch.ones(1, 9), torch.zeros(1, 4)
    left = logits_of(model, torch.cat([pads, IDS], 1), torch.cat([zeros, ones], 1))[:, 4:]
    right = logits_of(model, torch.cat([IDS, pads], 1), torch.cat([ones, zeros], 1))[:, :9]
    torch.testing.assert_close(left, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(right, alone, rtol=0, atol=1e-5)
    visible = logits_of(model, torch.cat([pads, IDS], 1))[:, 4:]
    assert (visible - alone).abs().max() > 1e-2, "padding that is not masked does matter"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_a_causal_mask_forced_the_logits_are_those_of_qwen3(attention):
    plain = plain_qwen3()
    model = tiny_model("bidirectional", torch.float32, attn_implementation=attention)
    model.load_state_dict(plain.state_dict())
    causal = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        expected = plain(IDS).logits
    torch.testing.assert_close(logits_of(model, IDS, causal), expected, rtol=0, atol=1e-5)
    assert (logits_of(model, IDS) - expected).abs().max() > 1e-2, "and without it they are not"


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_eager_and_sdpa_agree(pattern, paired):
    losses = {}
    for attention in ("sdpa", "eager"):
        model = tiny_model(pattern, torch.float32, attn_implementation=attention)
        assert model.config._attn_implementation == {"sdpa": BY_MASK}.get(attention, attention)
        losses[attention] = target_losses(model, *pack(random_samples(model, [3, 0, 6], [9, 4, 6])), paired)
        assert losses[attention].isfinite().all()
    torch.testing.assert_close(losses["sdpa"], losses["eager"], rtol=0, atol=1e-5)


def next_token_models(stop_bias: float = 0.0) -> tuple[A2DQwen3LMHeadModel, Qwen3ForCausalLM]:
    """A model in causal blocks of one and transformers' own with the same weights, in float64."""
    model, plain = tiny_model("causal_block", block_length=1), plain_qwen3().double()
    plain.load_state_dict(model.state_dict())
    keep_float64(plain)
    for each in (model, plain):
        bias_head(each, {STOP: stop_bias})
    return model, plain


def test_in_causal_blocks_of_one_training_is_that_of_qwen3_on_next_tokens():
    """After a prompt of one token, the prompts of longer ones being seen both ways; losses and gradients."""
    model, plain = next_token_models()
    generator = torch.Generator().manual_seed(2)
    prompts, responses = [[7], [30], [59]], [random_ids(length, generator) for length in (9, 3, 6)]
    labels, ids = rectangle(responses, -100), writable(model.config)
    everything = torch.ones_like(labels, dtype=torch.bool)
    some = torch.rand(labels.shape, generator=generator) < 0.5
    batch = torch.tensor(prompts), torch.ones(3, 1), labels
    losses, expected = model(*batch, some).losses, []
    for prompt, response in zip(prompts, responses, strict=True):
        logits = plain(torch.tensor([prompt + response])).logits[0, :-1, ids]  # of what may be written
        targets = torch.tensor([ids.index(token) for token in response])
        expected.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    expected = pad_sequence(expected, batch_first=True)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-10)
    weights = torch.rand(losses.shape, generator=generator, dtype=torch.float64)
    for each in (losses, expected):
        (each * weights).sum().backward()
    of_plain = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, of_plain[name].grad, rtol=0, atol=1e-10, msg=name)
        assert weight.grad.abs().max() > 1e-6, name
    for masked in (everything, ~everything, ~some):
        assert torch.equal(model(*batch, masked).losses, losses), "there is nothing to mask"


@pytest.mark.parametrize("cache", ["exact", "none"])
def test_in_causal_blocks_of_one_it_writes_what_qwen3_writes(cache):
    """Greedily, in a batch of prompts of one token; some answers stop early."""
    model, plain = next_token_models(stop_bias=1.0)
    written, lengths = model.generate(torch.arange(12)[:, None], gen_length=24, cache=cache), set()
    barred = sorted(set(range(VOCAB_SIZE)) - set(writable(model.config)))
    settings = {"eos_token_id": [STOP, TAIL], "pad_token_id": TAIL, "suppress_tokens": barred}
    for token, (ids, length) in enumerate(zip(written.ids.tolist(), written.lengths.tolist(), strict=True)):
        prompt = torch.tensor([[token]])
        expected = plain.generate(prompt, max_new_tokens=24, do_sample=False, use_cache=True, **settings)[0, 1:]
        assert ids[:length] == expected.tolist() and set(ids[length:]) <= {TAIL}
        lengths.add(length)
    assert 24 in lengths and len(lengths) > 3, "the case is real: rows leave the batch"


@pytest.mark.parametrize("tie", [True, False])
def test_a_folder_round_trips(tie, tmp_path):
    """Also through the Auto classes, without code from the folder."""
    model = tiny_model("prefix", torch.float32, tie_word_embeddings=tie, block_length=8, gen_length=24)
    model.save_pretrained(tmp_path)
    settings = ("attention_pattern", "block_length", "gen_length", "mask_token_id", "num_tokens", "stop_token_ids")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "a2d-qwen3" and written["architectures"] == ["A2DQwen3LMHeadModel"]
    assert [written[name] for name in settings] == ["prefix", 8, 24, MASK, 64, [STOP, TAIL]]
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is A2DQwen3Config and config.tail_token_id == TAIL
    for load in (AutoModelForMaskedLM.from_pretrained, AutoModel.from_pretrained, load_qwen3):
        loaded = load(str(tmp_path)).eval()
        assert type(loaded) is A2DQwen3LMHeadModel
        assert torch.equal(logits_of(loaded, IDS), logits_of(model, IDS))
        assert [getattr(loaded.config, name) for name in settings] == [getattr(config, name) for name in settings]
    assert not list(tmp_path.glob("*.bin"))


def test_a_folder_without_the_settings_is_bidirectional(tmp_path):
    """As published ones are."""
    model = tiny_model("bidirectional", torch.float32)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    extra = set(A2DQwen3Config().to_dict()) - set(Qwen3Config().to_dict())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in written.items() if k not in extra}))
    loaded = load_qwen3(str(tmp_path))
    assert loaded.config.attention_pattern == "bidirectional"
    assert loaded.config.mask_token_id is None and loaded.config.num_tokens is None
    assert torch.equal(logits_of(loaded, IDS), logits_of(model, IDS))


@pytest.mark.parametrize("tie", [True, False])
def test_a_plain_qwen3_folder_loads_with_all_weights(tie, tmp_path):
    plain = plain_qwen3(tie_word_embeddings=tie)
    plain.save_pretrained(tmp_path)
    model = load_qwen3(str(tmp_path), dtype=torch.float32)
    assert type(model) is A2DQwen3LMHeadModel and model.config.model_type == "a2d-qwen3"
    assert model.config.tie_word_embeddings == tie
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.state_dict().keys() == plain.state_dict().keys()
    kept = ("vocab_size", "hidden_size", "num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps")
    assert all(getattr(model.config, name) == getattr(plain.config, name) for name in kept)


def test_another_model_type_is_refused(tmp_path):
    LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="llama model; a qwen3 or a2d-qwen3 folder is needed"):
        load_qwen3(str(tmp_path))


def test_a_missing_weight_is_refused(tmp_path):
    model = tiny_model("block", torch.float32)
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="layers.1.mlp.up_proj"):
        load_qwen3(str(tmp_path))


@pytest.mark.parametrize("prompts", [[3, 6], [0, 0]], ids=["ragged", "no_prompts"])
def test_forward_with_labels_returns_the_losses_of_the_core(prompts):
    model = tiny_model("block", torch.float32)
    generator = torch.Generator().manual_seed(2)
    rows = [random_ids(length, generator) for length in prompts]
    P = max(prompts)
    input_ids = torch.tensor([[9] * (P - len(row)) + row for row in rows], dtype=torch.long)
    attention_mask = torch.tensor([[0] * (P - len(row)) + [1] * len(row) for row in rows], dtype=torch.long)
    labels = torch.tensor([random_ids(8, generator), random_ids(4, generator) + [-100] * 4])
    masked = torch.rand(2, 8, generator=generator) < 0.5
    prompt = left_padded([model.embed(torch.tensor(row, dtype=torch.long)) for row in rows])
    for paired in (True, False):
        output = model(input_ids, attention_mask, labels=labels, masked=masked, paired=paired)
        expected = target_losses(model, prompt, labels.clamp(min=0), labels >= 0, masked, paired)
        torch.testing.assert_close(output.losses, expected, rtol=0, atol=1e-5)
        assert (output.losses[1, 4:] == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_generate_writes_what_the_oracle_writes(pattern):
    model = tiny_model(pattern)
    generator = torch.Generator().manual_seed(4)
    rows = [random_ids(length, generator) for length in (5, 2)]
    input_ids = torch.tensor([rows[0], [9] * 3 + rows[1]])
    attention_mask = torch.tensor([[1] * 5, [0] * 3 + [1] * 2])
    written = model.generate(input_ids, attention_mask, seeds=[3, 8], temperature=0.8)
    for row, (ids, seed) in enumerate(zip(rows, (3, 8), strict=True)):
        expected, _ = sample(model, model.embed(torch.tensor(ids)), 16, 4, seed=seed, temperature=0.8)
        assert written.ids[row].tolist() == expected
    assert not written.ids.requires_grad
    assert model.generate(input_ids[:1], gen_length=6, block_length=3).ids.shape == (1, 6)


def test_generate_refuses_unknown_arguments_and_impossible_settings():
    model = tiny_model("block")
    with pytest.raises(ValueError, match="'max_new_tokens'.*gen_length"):
        model.generate(IDS, max_new_tokens=5)
    model.config.mask_token_id = VOCAB_SIZE + 5
    with pytest.raises(ValueError, match=f"mask_token_id {VOCAB_SIZE + 5}"):
        model.generate(IDS)


def test_the_padding_token_is_a_tail_that_learns():
    model = tiny_model("block", torch.float32, pad_token_id=TAIL)
    ids = torch.tensor([[TAIL, STOP, TAIL]])
    model(ids).logits.square().sum().backward()
    assert model.get_input_embeddings().weight.grad[TAIL].abs().sum() > 0


def test_the_head_of_few_rows_is_the_head():
    """On a CPU few rows take another product, of the same numbers; training and many rows take the module's call."""
    model = tiny_model("block", torch.float64)
    calls = spy(model.lm_head, "forward")
    for rows in (1, 2, 48, 49):
        hidden = torch.randn(rows, model.config.hidden_size, dtype=torch.float64)
        with torch.no_grad():
            logits = model.head(hidden)
        torch.testing.assert_close(logits, hidden @ model.lm_head.weight.T, rtol=0, atol=1e-12)
        assert logits.is_contiguous() and len(calls) == (rows > 48)
    model.head(torch.randn(2, model.config.hidden_size, dtype=torch.float64))
    assert len(calls) == 2, "the module is called where gradients are wanted"
