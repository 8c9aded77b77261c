"""FlexAttention, which trains on GPUs, gives the hidden states of SDPA under the layouts of training."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

from dllm.core import objective
from dllm.core.objective import target_losses
from dllm.core.patterns import PATTERNS
from dllm.pipelines import kernels
from dllm.pipelines.a2d import modeling_a2d
from oracles.batches import layouts_of, pack, random_samples, spy
from oracles.families import VARIANTS, family_model
from oracles.models import tiny_model


@pytest.fixture(autouse=True)
def uncompiled():
    """The same kernel as PyTorch defines it; compiled it runs on GPUs."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("prompts, responses", [([3, 0, 7, 5], [9, 4, 2, 1]), ([150, 40], [60, 90])])
def test_hidden_states_are_those_of_sdpa(pattern, prompts, responses):
    model = tiny_model(pattern)
    calls = spy(model, "trunk")
    batch = pack(random_samples(model, prompts, responses))
    (layout,) = layouts_of(lambda: target_losses(model, *batch, True))
    ((embeds, _, position),) = calls
    mask = layout.block_mask(pattern)
    assert isinstance(mask, BlockMask)
    with torch.no_grad():
        flex, sdpa = model.trunk(embeds, mask, position), model.trunk(embeds, layout.mask(pattern), position)
    torch.testing.assert_close(flex[layout.valid], sdpa[layout.valid], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", ["gemma2", "gemma3"])
def test_windows_and_caps_are_those_of_the_other_kernel(variant, pattern, monkeypatch):
    """Gemma's: a mask for each type of layer, and scores within a cap."""
    model = family_model(variant, pattern)
    batch = pack(random_samples(model, [13, 0, 7, 5], [9, 4, 2, 1]))
    expected = target_losses(model, *batch, True)
    monkeypatch.setattr(objective.Layout, "mask", objective.Layout.block_mask)
    calls = spy(model, "trunk")
    with torch.no_grad():
        losses = target_losses(model, *batch, True)
    ((_, masks, _),) = calls
    assert {kind: type(mask) for kind, mask in masks.items()} == dict.fromkeys(masks, BlockMask) and len(masks) == 2
    torch.testing.assert_close(losses, expected, rtol=1e-10, atol=1e-10)


def test_the_kind_of_mask_chooses_the_kernel(monkeypatch):
    chosen = []
    for name in ("flex_attention_forward", "sdpa_attention_forward"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *a, name=name, kernel=kernel, **k: chosen.append(name) or kernel(*a, **k)
        )
    model = tiny_model("block")
    (layout,) = layouts_of(lambda: target_losses(model, *pack(random_samples(model, [5], [8])), True))
    assert set(chosen) == {"sdpa_attention_forward"}
    embeds = torch.zeros(*layout.role.shape, model.config.hidden_size, dtype=torch.float64)
    for mask in (layout.block_mask("block"), None):
        chosen.clear()
        with torch.no_grad():
            model.trunk(embeds, mask, layout.position)
        assert set(chosen) == {"sdpa_attention_forward" if mask is None else "flex_attention_forward"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_are_shared_by_heads_where_few_tokens_meet_a_mask(variant, monkeypatch):
    """As many are fed in a denoising step; in training autograd takes the kernel that it had."""
    model, capped = family_model(variant), variant == "gemma2"
    valid = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    ids = torch.arange(14).view(2, 7)
    expected = model(ids, valid).logits
    called = []
    kernel = kernels.shared_attention_forward
    monkeypatch.setattr(kernels, "shared_attention_forward", lambda *a, **k: called.append(a) or kernel(*a, **k))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, valid).logits, expected, rtol=1e-10, atol=1e-10)
        assert len(called) == (0 if capped else model.config.num_hidden_layers)
        assert all(key.shape[1] < query.shape[1] for _, query, key, *_ in called)
        monkeypatch.setattr(modeling_a2d, "FEW_TOKENS", 6)
        called.clear()
        model(ids, valid)
    assert not called


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("dtype, off", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_the_norm_of_one_kernel_is_transformers_own_but_for_rounding(family, dtype, off, monkeypatch):
    """On a GPU where nothing is trained; here the kernel is torch's for CPUs."""
    model = family_model(family, dtype=dtype)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 2)
    ids = torch.arange(20).view(2, 10)
    with torch.no_grad():
        expected = model(ids).logits
        monkeypatch.setattr(modeling_a2d, "FUSED_NORM", ("cpu",))
        calls = []
        norm = torch.nn.functional.rms_norm
        monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda *a: calls.append(a) or norm(*a))
        found = model(ids).logits
    num_norms = sum("norm" in name for name, _ in model.named_parameters())
    assert len(calls) == num_norms and (found - expected).norm() < off * expected.norm()
    calls.clear()
    assert torch.equal(model(ids).logits, expected) and not calls, "and in training as it was"


def test_pairs_that_may_not_attend_are_skipped():
    """At 2,048 places of `block` training: 256 of prompt, 512 clean and twice 512 noisy ones, and padding."""
    model = tiny_model("block", block_length=32)
    (layout,) = layouts_of(lambda: target_losses(model, *pack(random_samples(model, [512], [512])), True))
    assert layout.block_mask("block").sparsity() > 35
