"""FlexAttention, which trains on GPUs, gives the hidden states of SDPA under the layouts of training."""

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask

from dllm.core import objective
from dllm.core.attention import PATTERNS
from dllm.core.objective import target_losses
from dllm.pipelines import kernels
from oracles.batches import layouts_of, pack, random_samples, spy
from oracles.families import family_model
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
    monkeypatch.setattr(objective, "_mask", lambda layout, pattern, window, flex: layout.block_mask(pattern, window))
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


def test_pairs_that_may_not_attend_are_skipped():
    """At 2,048 places of `block` training: 256 of prompt, 512 clean and twice 512 noisy ones, and padding."""
    model = tiny_model("block", block_length=32)
    (layout,) = layouts_of(lambda: target_losses(model, *pack(random_samples(model, [512], [512])), True))
    assert layout.block_mask("block").sparsity() > 35
