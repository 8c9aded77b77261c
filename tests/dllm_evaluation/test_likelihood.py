"""Likelihoods of responses against the bound written out over all masks, and whether a model would write them."""

from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch

from dllm.core.noise import ForwardProcess, Noise, Quadrature
from dllm.core.patterns import BLOCKWISE, PATTERNS
from dllm.evaluation.likelihood import Pair, are_greedy, log_likelihoods
from oracles.loss import likelihood_bound
from oracles.models import STOP, TAIL, tiny_model
from oracles.training import view_losses

PAIRS = [Pair([5, 9, 12], [3, 8, 14, 7]), Pair([], [21, 4]), Pair([30], []), Pair([17] * 7, [1, 2, 40, 41])]
WITH_PROMPTS = [Pair(prompt or [33], response) for prompt, response in PAIRS]
BLOCK = 2


class EveryMask(ForwardProcess):
    """All counts and all orders of masking a block, one after another; blocks of a response draw the same."""

    def draw(self, position: int, num_targets: int, block_length: int | None = None) -> Noise:
        length = block_length or num_targets
        orders = list(permutations(range(length)))
        count, order = position % (length + 1), orders[position // (length + 1) % len(orders)]
        block = self._draw_block((count + 0.5) / (length + 1), Told(order), length)
        return Noise(*(np.tile(array, num_targets // length) for array in block))


class Told:
    """Stands in for numpy's generator."""

    def __init__(self, order: tuple):
        self.order = order

    def permutation(self, size: int) -> np.ndarray:
        return np.array(self.order)


def exact(model, prompt: list[int], response: list[int]) -> float:
    """The bound in nats, every mask of every block written out."""
    embeds = model.embed(torch.tensor(prompt, dtype=torch.long))
    length = model.diffusion.block_length if model.diffusion.attention_pattern in BLOCKWISE else len(response)
    total = 0.0
    for start in range(0, len(response), max(length, 1)):

        @cache
        def losses(masked: frozenset, start=start) -> dict:
            return view_losses(model, embeds, response, {start + i for i in masked})

        def loss_of(i: int, masked: set[int], start=start, losses=losses) -> float:
            return losses(frozenset(masked))[start + i].item()

        total -= length * likelihood_bound(loss_of, length)
    return total


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_over_all_masks_it_is_the_bound_written_out(pattern):
    model, pairs = tiny_model(pattern, block_length=BLOCK), WITH_PROMPTS if pattern == "causal_block" else PAIRS
    draws = 5 * 24 * 3  # a multiple of the masks of 2 and of 4 tokens
    found = log_likelihoods(model, pairs, EveryMask(), draws, batch_size=50)
    expected = [exact(model, *pair) for pair in pairs]
    assert found == pytest.approx(expected, rel=1e-6) and found[2] == 0  # weights are fp32
    few = log_likelihoods(model, pairs, Quadrature(points=64), 64, batch_size=50)
    assert few == pytest.approx(expected, rel=0.1) and few != found


@torch.no_grad()
def test_in_causal_blocks_of_one_a_single_draw_gives_the_likelihood_itself():
    model = tiny_model("causal_block", block_length=1)
    found = log_likelihoods(model, WITH_PROMPTS, Quadrature(points=1), 1, batch_size=3)
    assert found == pytest.approx([exact(model, *pair) for pair in WITH_PROMPTS], rel=1e-6)


def test_with_the_tail_of_training():
    model = tiny_model("block", block_length=4)
    with_tail, by_hand = (
        log_likelihoods(model, [Pair([5, 9], response)], Quadrature(points=8), 8, 8, with_tail=tail)
        for tail, response in ((True, [3, 8, STOP]), (False, [3, 8, STOP, TAIL]))
    )
    assert with_tail == by_hand


def test_neighbours_and_batches_change_nothing():
    model, noise = tiny_model("prefix"), Quadrature(points=3)
    alone = [log_likelihoods(model, [pair], noise, 3, batch_size=1)[0] for pair in PAIRS]
    assert log_likelihoods(model, PAIRS[::-1], noise, 3, batch_size=7)[::-1] == pytest.approx(alone, rel=1e-9)


def test_every_pair_has_the_same_draws():
    drawn = []

    class Recorder(Quadrature):
        def draw(self, position: int, num_targets: int, block_length: int | None = None) -> Noise:
            drawn.append((position, num_targets))
            return super().draw(position, num_targets, block_length)

    log_likelihoods(tiny_model("prefix"), PAIRS, Recorder(points=2), 2, batch_size=3)
    assert sorted(drawn) == [(0, 2), (0, 4), (0, 4), (1, 2), (1, 4), (1, 4)]


@pytest.mark.parametrize("pattern", ["prefix", *BLOCKWISE])
def test_what_the_model_writes_is_greedy_and_nothing_else(pattern):
    model = tiny_model(pattern, block_length=4)
    prompts = [[5, 9, 12], [33] if pattern == "causal_block" else [], [30, 2]]
    pairs = []
    for prompt, length in zip(prompts, (4, 6, 4), strict=True):
        ids = torch.tensor([prompt], dtype=torch.long)
        pairs.append(Pair(prompt, model.generate(ids, gen_length=length).ids[0].tolist()))
    other = [Pair(prompt, [*response[:-1], (response[-1] + 1) % 50]) for prompt, response in pairs]
    assert are_greedy(model, pairs + other + [Pair([1], [])], batch_size=2) == [True] * 3 + [False] * 3 + [True]
    if pattern in BLOCKWISE:  # the start of a block, in the canvas of the whole block
        start = Pair(prompts[0], pairs[0].response[:3])
        assert are_greedy(model, [start], batch_size=2, with_tail=True) == [True]
