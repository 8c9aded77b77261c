"""The packed training pass against every view as a sequence of its own."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dllm.core.attention import NOISY, PROMPT
from dllm.core.losses import reduce_losses
from dllm.core.objective import target_losses
from dllm.core.patterns import BLOCKWISE, NO_PROMPT, PATTERNS
from oracles.batches import layouts_of, pack, random_samples, spy, with_prompts
from oracles.models import MASK, NUM_TOKENS, tiny_model
from oracles.training import training_losses

# Lengths of prompts and of responses; a block has 4 tokens.
RAGGED = ([3, 8, 0, 5], [9, 4, 6, 12])
NO_PROMPTS = ([0, 0, 0], [7, 1, 8])
ALONE = ([6], [8])
BLOCKS = [*((pattern, 4) for pattern in PATTERNS), ("block", 1), ("causal_block", 1)]


def separate(model, samples, paired) -> torch.Tensor:
    """Losses [B, R] of the oracle."""
    R = max(len(sample.response) for sample in samples)
    rows = []
    for sample in samples:
        losses = training_losses(model, sample.prompt, sample.response, sample.masked, paired)
        rows.append(torch.stack([losses.get(i, torch.zeros((), dtype=torch.float64)) for i in range(R)]))
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", [RAGGED, NO_PROMPTS, ALONE], ids=["ragged", "no_prompts", "alone"])
@pytest.mark.parametrize("paired", [True, False], ids=["paired", "single"])
@pytest.mark.parametrize("pattern, block_length", BLOCKS)
def test_packed_losses_and_gradients_are_those_of_separate_sequences(pattern, block_length, paired, lengths):
    model = tiny_model(pattern, block_length=block_length)
    prompts, responses = lengths
    samples = random_samples(model, with_prompts(pattern, prompts), responses)
    losses = {"packed": target_losses(model, *pack(samples), paired), "separate": separate(model, samples, paired)}
    assert losses["packed"].dtype == torch.float64
    torch.testing.assert_close(losses["packed"], losses["separate"], rtol=0, atol=1e-10)

    weights = torch.rand(losses["packed"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    gradients = {}
    for form, each in losses.items():
        model.zero_grad()
        (each * weights).sum().backward()
        gradients[form] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for name, gradient in gradients["separate"].items():
        torch.testing.assert_close(gradients["packed"][name], gradient, rtol=0, atol=1e-9, msg=name)
    assert gradients["packed"]["model.embed_tokens.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("masked", ["everything", "nothing"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_6_a_mask_of_everything_or_nothing_is_fine(pattern, masked):
    model = tiny_model(pattern)
    samples = random_samples(model, [3, 5], [6, 8])
    for sample in samples:
        sample.masked = set(range(len(sample.response))) if masked == "everything" else set()
    for paired in (True, False):
        losses = target_losses(model, *pack(samples), paired)
        torch.testing.assert_close(losses, separate(model, samples, paired), rtol=0, atol=1e-10)
        assert torch.isfinite(losses).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_do_not_depend_on_their_neighbours(pattern):
    model = tiny_model(pattern)
    samples = random_samples(model, with_prompts(pattern, [3, 0, 8]), [9, 4, 6])
    together = target_losses(model, *pack(samples), True)
    for row, sample in enumerate(samples):
        alone = target_losses(model, *pack([sample]), True)
        torch.testing.assert_close(together[row, : len(sample.response)], alone[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_3_masks_are_disjoint_and_complete_and_all_else_is_bit_identical(pattern):
    """What the trunk is given: two views that differ from the clean response in complementary places alone."""
    model = tiny_model(pattern)
    samples = random_samples(model, *RAGGED)
    prompt, response, targets, masked = pack(samples)
    calls = spy(model, "trunk")
    (layout,) = layouts_of(lambda: target_losses(model, prompt, response, targets, masked, True))
    ((embeds, _, _),) = calls
    B, P, R = len(samples), prompt.embeds.shape[1], response.shape[1]
    if pattern == "bidirectional":
        rows = [slice(0, B), slice(B, 2 * B)]
        for row in rows:
            assert torch.equal(embeds[row, :P], prompt.embeds)
            assert (layout.role[row, :P] == PROMPT).all() and (layout.role[row, P:] == NOISY).all()
        views = [embeds[row, P:] for row in rows]
    else:
        assert torch.equal(embeds[:, :P], prompt.embeds)
        copies = list(embeds[:, P:].split(R, dim=1))
        if pattern in BLOCKWISE:
            assert torch.equal(copies.pop(0), model.embed(response))
        views = copies
    assert len(views) == 2
    clean, mask_embed = model.embed(response), model.embed(torch.tensor(MASK))
    is_mask = [(view == mask_embed).all(-1) for view in views]
    assert not (is_mask[0] & is_mask[1]).any()
    assert torch.equal(is_mask[0] | is_mask[1], targets)
    assert torch.equal(is_mask[0], masked & targets)
    for view, places in zip(views, is_mask, strict=True):
        assert torch.equal(view[~places], clean[~places])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_target_goes_through_the_head_exactly_once(pattern):
    model = tiny_model(pattern)
    prompt, response, targets, masked = pack(random_samples(model, *RAGGED))
    heads, trunks = spy(model, "logits"), spy(model, "trunk")
    target_losses(model, prompt, response, targets, masked, True)
    target_losses(model, prompt, response, targets, masked, False)
    single = targets if pattern == "causal_block" else masked & targets  # the clean copy predicts the others
    assert [len(hidden) for (hidden,) in heads] == [targets.sum(), single.sum()]
    assert len(trunks) == 2, "one pass of the trunk for both views"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_extras_come_with_every_row_of_the_prompt(pattern, monkeypatch):
    model = tiny_model(pattern)
    prompt, response, targets, masked = pack(random_samples(model, *RAGGED))
    trunk, given = model.trunk, []

    def trunk_with_extras(embeds, mask, position, *, seen):
        given.append((embeds[:, : prompt.valid.shape[1]], seen))
        return trunk(embeds, mask, position)

    monkeypatch.setattr(model, "trunk", trunk_with_extras)
    prompt.extras["seen"] = prompt.embeds.sum(2)  # [B, P]
    target_losses(model, prompt, response, targets, masked, True)
    ((embeds, seen),) = given
    torch.testing.assert_close(seen, embeds.sum(2), rtol=0, atol=0)
    assert len(seen) == len(response) * (2 if pattern == "bidirectional" else 1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_4_inputs_are_unchanged_and_a_second_call_gives_the_same(pattern):
    model = tiny_model(pattern)
    prompt, response, targets, masked = pack(random_samples(model, *RAGGED))
    inputs = (prompt.embeds, prompt.valid, prompt.positions, response, targets, masked)
    copies = [each.clone() for each in inputs]
    first = target_losses(model, prompt, response, targets, masked, True)
    assert all(torch.equal(each, copy) for each, copy in zip(inputs, copies, strict=True))
    assert torch.equal(first, target_losses(model, prompt, response, targets, masked, True))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_5_a_sample_without_targets_contributes_0_with_finite_gradients(pattern, paired):
    model = tiny_model(pattern)
    samples = random_samples(model, [4, 6], [8, 0])
    losses = target_losses(model, *pack(samples), paired)
    assert (losses[1] == 0).all() and losses[0].sum() > 0
    targets = pack(samples)[2]
    loss = reduce_losses(losses, torch.ones_like(losses), targets, "sequence")
    assert loss.item() == pytest.approx(losses[0].sum().item() / 8 / 2, rel=1e-12)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("paired", [True, False])
def test_5_a_batch_without_any_target_has_loss_0_and_can_be_differentiated(paired):
    """Every rank must be able to go backward, whatever its batch holds."""
    model = tiny_model("block")
    prompt, response, targets, masked = pack(random_samples(model, [4, 2], [8, 4]))
    nowhere = torch.zeros_like(targets)
    losses = target_losses(model, prompt, response, nowhere, masked, paired)
    loss = reduce_losses(losses, torch.ones_like(losses), nowhere, "sequence")
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("pattern, block_length", BLOCKS)
def test_10_a_single_view_is_the_first_of_the_pair(pattern, block_length):
    model = tiny_model(pattern, block_length=block_length)
    prompt, response, targets, masked = pack(random_samples(model, *RAGGED))
    pair = target_losses(model, prompt, response, targets, masked, True)
    single = target_losses(model, prompt, response, targets, masked, False)
    torch.testing.assert_close(single[masked], pair[masked], rtol=0, atol=1e-10)
    assert torch.equal(single > 0, targets if pattern == "causal_block" else masked & targets)
    assert (pair[targets] > 0).all()


@pytest.mark.parametrize("block_length", [1, 4])
def test_a_batch_without_any_prompt_is_refused_where_tokens_follow_the_one_before(block_length):
    model = tiny_model("causal_block", block_length=block_length)
    with pytest.raises(ValueError, match=NO_PROMPT):
        target_losses(model, *pack(random_samples(model, *NO_PROMPTS)), True)


def test_2_uniform_logits_give_ln_v_times_the_weights():
    model = tiny_model("block")
    torch.nn.init.zeros_(model.lm_head.weight)
    prompt, response, targets, masked = pack(random_samples(model, [5], [8]))
    losses = target_losses(model, prompt, response, targets, masked, True)
    ln_v = math.log(NUM_TOKENS - 1)  # every token of the tokenizer but the mask
    torch.testing.assert_close(losses, torch.full_like(losses, ln_v), rtol=0, atol=1e-10)
    p, k, R = 0.3, masked.sum().item(), 8
    weights = torch.where(masked, 0.5 / p, 0.5 / (1 - p))
    expected = ln_v * 0.5 * (k / (p * R) + (R - k) / ((1 - p) * R))
    assert reduce_losses(losses, weights, targets, "sequence").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_9_two_micro_batches_accumulate_to_the_gradients_of_one_batch(pattern):
    model = tiny_model(pattern)
    samples = random_samples(model, *RAGGED)
    gradients = []
    for parts in ([samples], [samples[:2], samples[2:]]):
        model.zero_grad()
        for part in parts:
            prompt, response, targets, masked = pack(part)
            weights = torch.where(masked, 2.0, 0.7)
            losses = target_losses(model, prompt, response, targets, masked, True)
            (reduce_losses(losses, weights, targets, "sequence") / len(parts)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)
    assert gradients[0].abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_fp32_whatever_the_model(dtype):
    model = tiny_model("block", dtype)
    losses = target_losses(model, *pack(random_samples(model, *RAGGED)), True)
    assert losses.dtype == torch.float32


def test_the_loss_of_a_token_is_computed_in_fp32_from_bf16_logits():
    model = tiny_model("block", torch.bfloat16)
    prompt, response, targets, masked = pack(random_samples(model, [5], [8]))
    heads = spy(model, "logits")
    losses = target_losses(model, prompt, response, targets, masked, True)
    logits = model.logits(heads[0][0])
    expected = F.cross_entropy(logits.double(), response[0], reduction="none")
    np.testing.assert_allclose(losses[0].detach().numpy(), expected.detach().numpy(), rtol=1e-5)
