"""A loss that is not finite is found, with its step and its samples, in the order of the run."""

import pytest
import torch

from dllm.training.divergence import describe, first_divergence
from dllm.training.order import PositionSampler

SAMPLES, BATCH = 10, 4  # an epoch has three steps of four samples


def flags(processes, steps, bad):
    """[processes, micro-batches, B] of the places (from the first of these steps) whose loss is not finite."""
    size = BATCH // processes // 2  # two micro-batches a step
    finite = torch.ones(steps * BATCH, dtype=torch.bool)
    finite[bad] = False
    return finite.view(-1, processes, size).transpose(0, 1)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("steps_before", "place"), [(0, 0), (0, 6), (2, 1), (2, 4), (7, 11)])
def test_step_and_samples_of_the_first(processes, steps_before, place):
    sampler = PositionSampler(SAMPLES, seed=3, batch=BATCH)
    step = steps_before + place // BATCH
    same_step = place + 1 if place % BATCH < BATCH - 1 else place - 1
    found = first_divergence(flags(processes, 4, [place, same_step, 15]), steps_before, sampler)
    sampler.set_epoch(step // 3)
    index_of = dict(sampler)
    expected = [index_of[steps_before * BATCH + each] for each in sorted({place, same_step})]
    assert found == (step + 1, expected)


def test_finite_losses_with_a_gradient_that_is_not():
    sampler = PositionSampler(SAMPLES, seed=3, batch=BATCH)
    assert first_divergence(flags(2, 3, []), 5, sampler) == (8, [])
    said = describe(1.5, float("inf"), 8, [])
    assert said == "the gradient norm is inf at step 8, the loss 1.5; lower the learning rate"


def test_few_samples_are_named():
    said = describe(float("nan"), float("nan"), 3, [f"record {number}" for number in range(7)])
    assert "at step 3, in record 0, record 1, record 2, record 3 and 3 more; look at" in said
