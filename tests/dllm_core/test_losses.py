"""Weighting and reduction of per-token losses against the formulas."""

import numpy as np
import pytest
import torch

from dllm.core.losses import reduce_losses
from dllm.core.noise import Noise
from oracles.loss import pair_loss, single_loss, stratified_loss


def weights_of(masked: set[int], R: int, weight_masked: float, weight_rest: float) -> torch.Tensor:
    noise = Noise.of(np.array([i in masked for i in range(R)]), 0.5, weight_masked, weight_rest)
    return torch.from_numpy(noise.weights)


def batch(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different length as a rectangle and its mask of targets; the padding holds a number to be ignored."""
    R = max(len(row) for row in rows)
    losses = torch.tensor([row + [1e6] * (R - len(row)) for row in rows], dtype=torch.float64)
    targets = torch.tensor([[True] * len(row) + [False] * (R - len(row)) for row in rows])
    return losses, targets


def test_the_golden_vector_gives_3():
    losses, targets = batch([[1.0, 2.0, 3.0, 4.0]])
    weights = weights_of({0, 2}, 4, 0.5 / 0.25, 0.5 / 0.75)
    assert reduce_losses(losses, weights[None], targets, "sequence").item() == pytest.approx(3.0, abs=1e-12)
    assert pair_loss([1.0, 2.0, 3.0, 4.0], {0, 2}, 0.25) == pytest.approx(3.0, abs=1e-12)


def test_1_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    for _ in range(50):
        R = int(rng.integers(1, 9))
        losses = rng.exponential(3, R).tolist()
        masked = {i for i in range(R) if rng.random() < 0.5}
        p, w = float(rng.uniform(0.01, 0.99)), float(rng.uniform(0.1, 9))
        k, scale = len(masked), (R + 1) / 2
        for weights, expected in [
            (weights_of(masked, R, 0.5 / p, 0.5 / (1 - p)), pair_loss(losses, masked, p)),
            (weights_of(masked, R, w, 0.0), single_loss(losses, masked, w)),
            (weights_of(masked, R, scale / max(k, 1), scale / max(R - k, 1)), stratified_loss(losses, masked)),
        ]:
            rows, targets = batch([losses])
            assert reduce_losses(rows, weights[None], targets, "sequence").item() == pytest.approx(expected, rel=1e-12)


ROWS = [[1.0, 2.0, 3.0], [5.0], [4.0, 8.0]]
WEIGHTS = [[2.0, 1.0, 1.0], [3.0], [1.0, 0.5]]


@pytest.mark.parametrize(
    "normalisation, expected",
    [("sequence", (7 / 3 + 15 / 1 + 8 / 2) / 3), ("token", (7 + 15 + 8) / 6), ("batch", (7 + 15 + 8) / 3)],
)
def test_normalisations(normalisation, expected):
    losses, targets = batch(ROWS)
    weights, _ = batch(WEIGHTS)
    assert reduce_losses(losses, weights, targets, normalisation).item() == pytest.approx(expected, rel=1e-12)


def test_token_can_be_normalised_by_the_targets_of_a_global_batch():
    losses, targets = batch(ROWS)
    weights, _ = batch(WEIGHTS)
    assert reduce_losses(losses, weights, targets, "token", 12).item() == pytest.approx(30 / 12, rel=1e-12)


@pytest.mark.parametrize("normalisation", ["sequence", "token", "batch"])
def test_5_a_sample_without_targets_contributes_0(normalisation):
    losses = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]], requires_grad=True)
    targets = torch.tensor([[True, True], [False, False]])
    loss = reduce_losses(losses, torch.ones(2, 2), targets, normalisation)
    assert loss.item() == {"sequence": 0.75, "token": 1.5, "batch": 1.5}[normalisation]
    loss.backward()
    assert torch.isfinite(losses.grad).all() and (losses.grad[1] == 0).all()
    empty = torch.zeros(2, 2, dtype=torch.bool)
    assert reduce_losses(losses, torch.ones(2, 2), empty, normalisation).item() == 0


@pytest.mark.parametrize("normalisation", ["sequence", "batch"])
def test_9_two_micro_batches_average_to_one_batch(normalisation):
    torch.manual_seed(0)
    losses, weights, targets = torch.rand(4, 5), torch.rand(4, 5), torch.rand(4, 5) < 0.7
    whole = reduce_losses(losses, weights, targets, normalisation)
    halves = [reduce_losses(losses[i], weights[i], targets[i], normalisation) for i in (slice(0, 2), slice(2, 4))]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-6)


def test_9_two_micro_batches_add_up_to_one_batch_under_token():
    torch.manual_seed(0)
    losses, weights, targets = torch.rand(4, 5), torch.rand(4, 5), torch.rand(4, 5) < 0.7
    whole = reduce_losses(losses, weights, targets, "token")
    halves = [
        reduce_losses(losses[i], weights[i], targets[i], "token", targets.sum()) for i in (slice(0, 2), slice(2, 4))
    ]
    assert sum(halves).item() == pytest.approx(whole.item(), rel=1e-6)


def test_4_inputs_are_not_changed():
    losses, weights, targets = torch.rand(2, 3), torch.rand(2, 3), torch.tensor([[True] * 3, [False] * 3])
    copies = losses.clone(), weights.clone(), targets.clone()
    reduce_losses(losses, weights, targets, "sequence")
    assert all(torch.equal(a, b) for a, b in zip((losses, weights, targets), copies, strict=True))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="'mean'.*sequence, token, batch"):
        reduce_losses(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), "mean")
