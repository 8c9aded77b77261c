"""Whether the estimators estimate the likelihood bound, and how much they scatter. All of it by their real weights."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from dllm.core.losses import reduce_losses
from dllm.core.noise import ForwardProcess, Noise
from oracles.loss import likelihood_bound, probability, subsets


def tell(monkeypatch, u: float, **told) -> None:
    """Makes numpy's next generators give these numbers."""
    generator = Told(u, **told)
    monkeypatch.setattr(np.random, "default_rng", lambda key: generator)


def sample_loss(noise: Noise, losses: np.ndarray) -> float:
    """The code's own loss of one sample."""
    targets = torch.ones(1, len(losses), dtype=torch.bool)
    weights = torch.from_numpy(noise.weights)[None]
    return reduce_losses(torch.from_numpy(losses)[None], weights, targets, "sequence").item()


class RandomLosses:
    """A loss for every token under every mask, as some model would have it."""

    def __init__(self, R: int, seed: int):
        self.R, self.table = R, np.random.default_rng(seed).exponential(2.0, (2**R, R))

    def __call__(self, i: int, masked: set[int]) -> float:
        return self.table[sum(2**j for j in masked), i]

    def of_pair(self, masked: set[int]) -> np.ndarray:
        """Losses of a complementary pair: each token's from the view in which it is masked."""
        rest = set(range(self.R)) - masked
        return np.array([self(i, masked if i in masked else rest) for i in range(self.R)])


class Told:
    """Stands in for numpy's generator: one number for the mask rate, then which places are masked."""

    def __init__(self, u: float, masked: set[int] = frozenset(), order: tuple = ()):
        self.u, self.masked, self.order = u, masked, order

    def random(self, size=None):
        return self.u if size is None else np.array([-1.0 if i in self.masked else 2.0 for i in range(size)])

    def permutation(self, size):
        return np.array(self.order)


def expected_pair_loss(forward: ForwardProcess, losses: RandomLosses, monkeypatch) -> float:
    """The mean of the code's loss over all mask rates (by quadrature, exact for these polynomials) and all masks."""
    nodes, node_weights = np.polynomial.legendre.leggauss(16)
    R, eps, total = losses.R, forward.eps, 0.0
    for x, weight in zip(nodes, node_weights, strict=True):
        u = (x + 1) / 2
        p = eps + (1 - 2 * eps) * u
        for masked in subsets(R):
            tell(monkeypatch, u, masked=masked)
            noise = forward.draw(0, R)
            total += weight / 2 * probability(masked, R, p) * sample_loss(noise, losses.of_pair(masked))
    return total


@pytest.mark.parametrize("R", [1, 2, 4, 6])
def test_7_the_pair_is_unbiased_up_to_eps(R, monkeypatch):
    losses = RandomLosses(R, seed=R)
    bound = likelihood_bound(losses, R)
    error = {
        eps: expected_pair_loss(ForwardProcess("pair", eps=eps), losses, monkeypatch) - bound for eps in (1e-3, 1e-2)
    }
    assert abs(error[1e-3]) < 2e-3 * bound
    assert abs(error[1e-2]) < 2e-2 * bound
    if R > 2:  # up to there the two ends cancel exactly
        assert abs(error[1e-2]) > 5 * abs(error[1e-3]) > 0


@pytest.mark.parametrize("R", [1, 2, 3, 4, 5, 6])
def test_7_the_stratified_pair_is_exactly_unbiased(R, monkeypatch):
    losses = RandomLosses(R, seed=10 + R)
    total, orders = 0.0, list(permutations(range(R)))
    for count in range(R + 1):  # each an equal part of the interval from which u is drawn
        for order in orders:
            tell(monkeypatch, (count + 0.5) / (R + 1), order=order)
            noise = ForwardProcess("stratified").draw(0, R)
            assert noise.masked.sum() == count
            total += sample_loss(noise, losses.of_pair(set(np.flatnonzero(noise.masked)))) / (R + 1) / len(orders)
    assert total == pytest.approx(likelihood_bound(losses, R), rel=1e-12)


def test_2_uniform_predictions_give_ln_v():
    """Every token costs ln V: the loss is ln V times the weights of the masks, and ln V on average."""
    ln_v, R = math.log(50), 16
    losses = np.full(R, ln_v)
    for estimator, tolerance in [("pair", 0.02), ("stratified", 0.02), ("single", 0.05)]:
        forward, values = ForwardProcess(estimator), []
        for position in range(4000):
            noise = forward.draw(position, R)
            values.append(sample_loss(noise, losses))
            if estimator == "pair":
                k, p = noise.masked.sum(), noise.rates[0] if noise.masked[0] else 1 - noise.rates[0]
                assert values[-1] == pytest.approx(ln_v * 0.5 * (k / (p * R) + (R - k) / ((1 - p) * R)), rel=1e-9)
        assert np.mean(values) == pytest.approx(ln_v, rel=tolerance), estimator


def sampled_variance(estimator: str, R: int = 16, samples: int = 20000) -> float:
    """R Var / c^2 over real draws, for a loss c that is the same for every token: all of it comes from the weights."""
    forward, losses = ForwardProcess(estimator, seed=1), []
    for position in range(samples):
        noise = forward.draw(position, R)
        losses.append(noise.weights[noise.masked | forward.paired].sum() / R)
    return R * np.var(losses)


def exact_variance(estimator: str, monkeypatch, grid: int = 4000) -> float:
    """The same for R = 1 (the number does not depend on R), over a grid of mask rates and both masks."""
    forward, variance = ForwardProcess(estimator), 0.0
    for u in (np.arange(grid) + 0.5) / grid:
        values = []
        for masked in (set(), {0}):
            tell(monkeypatch, u, masked=masked)
            noise = forward.draw(0, 1)
            values.append(noise.weights[noise.masked | forward.paired].sum())
        p = forward.eps + (1 - forward.eps * (1 + (estimator == "pair"))) * u
        variance += ((1 - p) * values[0] ** 2 + p * values[1] ** 2 - 1) / grid  # the mean is 1
    return variance


def test_variances_by_integration(monkeypatch):
    """In units of c^2/R: 2.46 for the pair, 5.91 for one single view, so 2.96 for two at the same cost."""
    pair, single = exact_variance("pair", monkeypatch), exact_variance("single", monkeypatch)
    assert pair == pytest.approx(2.460, abs=0.02)
    assert single == pytest.approx(5.91, abs=0.04)
    assert pair < single / 2


def test_the_variance_of_the_seeds_own_form_grows_with_every_finer_grid(monkeypatch):
    """Its integral diverges: every tenfold finer grid adds ln(10) / 4. With the symmetric clip it converges."""
    growth = {
        estimator: exact_variance(estimator, monkeypatch, 8000) - exact_variance(estimator, monkeypatch, 800)
        for estimator in ("pair", "seed_literal")
    }
    assert growth["seed_literal"] == pytest.approx(math.log(10) / 4, rel=0.1)
    assert abs(growth["pair"]) < 0.1


def test_variances_of_real_draws():
    """20,000 samples of 16 tokens: 2.46 for the pair (+-25 %: its tail is heavy), 0.47 for the stratified (+-2 %)."""
    pair, stratified = sampled_variance("pair"), sampled_variance("stratified")
    assert pair == pytest.approx(2.46, rel=0.25)
    assert stratified == pytest.approx(0.47, rel=0.02)


def test_the_seeds_one_sided_clip_has_a_heavy_tail():
    """Its second half has weights far beyond the bound 1/(2 eps) that the symmetric clip keeps."""
    heaviest = {}
    for estimator in ("pair", "seed_literal"):
        noises = [ForwardProcess(estimator).draw(position, 1) for position in range(5000)]
        unmasked = [1 - noise.rates[0] if noise.masked[0] else noise.rates[0] for noise in noises]
        heaviest[estimator] = 0.5 / min(unmasked)
    assert heaviest["pair"] <= 500 * (1 + 1e-9)
    assert heaviest["seed_literal"] > 2000
