"""The forward process: noise from (seed, position) alone, well-spread mask rates, the weights of each estimator."""

import numpy as np
import pytest

from dllm.core.noise import ESTIMATORS, PAIRED, ForwardProcess, Quadrature

EPS = 1e-3


class Told:
    """Stands in for numpy's generator and gives the numbers it was told."""

    def __init__(self, u, uniforms):
        self.u, self.uniforms = u, np.array(uniforms)

    def random(self, size=None):
        return self.u if size is None else self.uniforms[:size]

    def permutation(self, size):
        return np.argsort(np.argsort(self.uniforms[:size]))


@pytest.fixture
def draw_with(monkeypatch):
    """draw_with(forward, u, uniforms): the noise of a response with these random numbers, at position 0."""

    def draw(forward, u, uniforms):
        with monkeypatch.context() as patch:
            patch.setattr(np.random, "default_rng", lambda key: Told(u, uniforms))
            return forward.draw(0, len(uniforms))

    return draw


def same(one, other):
    return all(np.array_equal(*arrays) for arrays in zip(one, other, strict=True))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_noise_is_a_function_of_seed_and_position(estimator):
    forward = ForwardProcess(estimator, seed=3)
    first = [forward.draw(position, 40, block_length=8) for position in range(6)]
    np.random.seed(123)
    again = {n: ForwardProcess(estimator, seed=3).draw(n, 40, block_length=8) for n in reversed(range(6))}
    assert all(same(first[position], again[position]) for position in range(6))
    assert not any(same(first[0], first[position]) for position in range(1, 6))
    other = ForwardProcess(estimator, seed=4)
    assert not any(same(first[position], other.draw(position, 40, block_length=8)) for position in range(6))


def test_keys_of_other_choices_differ_by_seed_position_and_number():
    keys = {
        ForwardProcess(seed=seed).key(position, number) for seed in (0, 1) for position in (0, 1) for number in (0, 1)
    }
    assert len(keys) == 8
    assert ForwardProcess(seed=1).key(5, 2) == ForwardProcess(seed=1).key(5, 2)


def mask_rates(seed: int, start: int, count: int) -> np.ndarray:
    """The mask rates p of consecutive samples, recovered from their weights and brought to [0, 1]."""
    forward = ForwardProcess("pair", eps=EPS, seed=seed)
    noises = [forward.draw(position, 1) for position in range(start, start + count)]
    p = np.array([noise.rates[0] if noise.masked[0] else 1 - noise.rates[0] for noise in noises])
    return (p - EPS) / (1 - 2 * EPS)


@pytest.mark.parametrize("seed, start, count", [(0, 0, 8), (1, 5, 64), (2, 1000, 512), (3, 77777, 512)])
def test_mask_rates_of_consecutive_samples_are_well_spread(seed, start, count):
    rates = np.sort(mask_rates(seed, start, count))
    assert 0 <= rates[0] and rates[-1] < 1
    steps = np.arange(count)
    discrepancy = max(np.max((steps + 1) / count - rates), np.max(rates - steps / count))
    assert discrepancy * count < 3  # of independent draws: about 0.9 sqrt(count), 20 at 512


def test_mask_rates_depend_on_the_seed():
    assert abs(mask_rates(0, 0, 5) - mask_rates(1, 0, 5)).min() > 1e-3


def test_a_token_is_masked_with_the_rate_of_its_sample(draw_with):
    for estimator, schedule, rate in [
        ("pair", "linear", EPS + (1 - 2 * EPS) * 0.3),
        ("seed_literal", "linear", EPS + (1 - EPS) * 0.3),
        ("single", "linear", EPS + (1 - EPS) * 0.3),
        ("uniform", "linear", EPS + (1 - EPS) * 0.3),
        ("single", "sqrt", (EPS + (1 - EPS) * 0.3) ** 0.5),
    ]:
        forward = ForwardProcess(estimator, schedule, EPS)
        noise = draw_with(forward, 0.3, [0.0, rate - 1e-9, rate + 1e-9, 0.999])
        assert noise.masked.tolist() == [True, True, False, False], (estimator, schedule)


@pytest.mark.parametrize(
    "estimator, schedule, masked, rest",
    [
        ("pair", "linear", 0.5 / 0.3008, 0.5 / 0.6992),  # p = .001 + .998 * .3004
        ("seed_literal", "linear", 0.5 / 0.3010996, 0.5 / 0.6989004),  # p = .001 + .999 * .3004
        ("single", "linear", 1 / 0.3010996, 0),
        ("single", "sqrt", 0.5 / 0.3010996, 0),
        ("uniform", "cosine", 1, 0),
        ("stratified", "linear", 2.5 / 1, 2.5 / 3),  # R = 4, one of them masked
    ],
)
def test_weights_of_masked_tokens_and_of_the_rest(draw_with, estimator, schedule, masked, rest):
    noise = draw_with(ForwardProcess(estimator, schedule, EPS), 0.3004, [0.1, 0.8, 0.9, 0.7])
    assert noise.masked.tolist() == [True, False, False, False]
    assert noise.weights.tolist() == pytest.approx([masked] + [rest] * 3, rel=1e-3)
    rate = {"pair": 0.3008, "seed_literal": 0.3011, "stratified": 0.25}.get(estimator)
    if rate:  # each target's is that of the view which predicts it
        assert noise.rates.tolist() == pytest.approx([rate] + [1 - rate] * 3, rel=1e-3)


def test_a_draft_is_what_comes_after_a_cut_and_every_cut_comes_equally_often():
    R = 7
    drawn = [ForwardProcess("draft").draw(n, R) for n in range(800)]
    cuts = np.bincount([R - noise.masked.sum() for noise in drawn], minlength=R + 1)
    assert len(cuts) == R + 1 and np.all(abs(cuts - 100) <= 2)
    for noise in drawn:
        assert noise.masked.tolist() == sorted(noise.masked) and set(noise.weights) == {1.0}


def test_the_stratified_count_takes_every_number_of_tokens_equally_often():
    R = 7
    counts = np.bincount([ForwardProcess("stratified").draw(n, R).masked.sum() for n in range(800)], minlength=R + 1)
    assert len(counts) == R + 1
    assert np.all(abs(counts - 100) <= 2)
    places = np.mean([ForwardProcess("stratified").draw(n, R).masked for n in range(800)], axis=0)
    assert np.all(abs(places - 0.5) < 0.08)


@pytest.mark.parametrize("estimator", PAIRED)
@pytest.mark.parametrize("u", [0.0, 1e-12, 0.5, 1 - 2**-53])
def test_weights_stay_finite_at_both_ends(draw_with, estimator, u):
    """Bounded by 1/eps on both sides; the seed's own form only on the masked one."""
    noise = draw_with(ForwardProcess(estimator, eps=EPS), u, [0.0, 0.25, 0.5, 0.99])
    assert np.isfinite(noise.weights).all() and (noise.weights > 0).all()
    assert noise.weights[noise.masked].max(initial=0) <= 1 / EPS
    if estimator != "seed_literal":
        assert noise.weights[~noise.masked].max(initial=0) <= 1 / EPS


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sqrt"])
@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_single_views_stay_finite_at_both_ends(draw_with, schedule, u):
    noise = draw_with(ForwardProcess("single", schedule, EPS), u, [0.0, 0.999999])
    assert noise.masked.any() == (noise.weights.max() > 0)
    assert 0 <= noise.weights.min() and noise.weights.max() <= 1 / EPS


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"estimator": "antithetic"}, "'antithetic'.*pair, stratified"),
        ({"schedule": "quadratic"}, "'quadratic'.*linear"),
        ({"eps": 0.0}, r"\(0, 0.5\)"),
        ({"eps": 0.5}, r"\(0, 0.5\)"),
        ({"estimator": "pair", "schedule": "cosine"}, "pair.*linear"),
        ({"estimator": "stratified", "schedule": "sqrt"}, "stratified.*linear"),
        ({"estimator": "seed_literal", "schedule": "sqrt"}, "seed_literal.*linear"),
    ],
)
def test_an_impossible_process_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ForwardProcess(**arguments)


def test_which_estimators_predict_every_target():
    paired = [name for name in ESTIMATORS if ForwardProcess(name).paired]
    assert paired == ["pair", "stratified", "whole_blocks", "seed_literal"]


@pytest.mark.parametrize("estimator", ["pair", "stratified", "single", "uniform"])
def test_each_block_has_a_rate_of_its_own_and_they_are_spread(estimator):
    """As if every block were a response: 4 blocks of 8 and one of 3, rates a fifth apart."""
    noise = ForwardProcess(estimator, seed=1).draw(7, 35, block_length=8)
    assert [len(array) for array in noise] == [35] * 3
    rates = []
    for start in range(0, 35, 8):
        masked, rate, weights = (array[start : start + 8] for array in noise)
        p = rate[0] if masked[0] else 1 - rate[0]
        np.testing.assert_allclose(rate, np.where(masked, p, 1 - p))
        rates.append(p)
        if estimator == "stratified":
            count, rest = masked.sum(), (~masked).sum()
            assert p == count / len(masked)
            half = (len(masked) + 1) / 2
            np.testing.assert_allclose(weights, np.where(masked, half / max(count, 1), half / max(rest, 1)))
        elif estimator == "pair":
            np.testing.assert_allclose(weights, np.where(masked, 0.5 / p, 0.5 / (1 - p)))
    if estimator != "stratified":  # whose rates are whole counts
        np.testing.assert_allclose(np.diff(sorted(rates)), 0.2 * (1 - 2 * EPS), rtol=2e-3)


def test_half_of_the_blocks_are_masked_whole_and_the_others_are_those_of_the_stratified_pair(draw_with):
    uniforms = [0.3, 0.9, 0.1, 0.7]
    whole = draw_with(ForwardProcess("whole_blocks"), 0.49, uniforms)
    assert whole.masked.all() and whole.weights.tolist() == whole.rates.tolist() == [1] * 4
    for u in (0.5, 0.7, 0.99):
        plain = draw_with(ForwardProcess("stratified"), 2 * u - 1, uniforms)
        assert same(draw_with(ForwardProcess("whole_blocks"), u, uniforms), plain)
    drawn = [ForwardProcess("whole_blocks").draw(position, 32, block_length=8).masked for position in range(200)]
    share = np.mean([masked.reshape(4, 8).all(axis=1).mean() for masked in drawn])
    assert share == pytest.approx(0.5 + 0.5 / 9, abs=0.02)


def test_the_seeds_own_form_has_one_rate_for_all_blocks():
    forward = ForwardProcess("seed_literal", seed=1)
    assert same(forward.draw(7, 32, block_length=8), forward.draw(7, 32))
    assert not same(
        ForwardProcess("pair", seed=1).draw(7, 32, block_length=8), ForwardProcess("pair", seed=1).draw(7, 32)
    )


def test_every_block_is_masked_equally_often_at_every_count():
    counts = np.zeros((3, 5))
    for position in range(600):
        masked = ForwardProcess("stratified", seed=2).draw(position, 12, block_length=4).masked
        for block in range(3):
            counts[block, masked[4 * block : 4 * block + 4].sum()] += 1
    assert np.all(abs(counts - 120) <= 2)


def test_validation_noise_is_fixed_and_lies_at_midpoints():
    levels = []
    for position in range(4):
        noise = Quadrature(points=4).draw(position, 1000)
        assert same(noise, Quadrature(points=4).draw(position, 1000))
        levels += [noise.masked.mean(), 1 - noise.masked.mean()]
    np.testing.assert_allclose(sorted(levels), (np.arange(8) + 0.5) / 8, atol=1e-3)
    first, later = (Quadrature(points=4).draw(position, 1000) for position in (0, 4))
    assert first.masked.sum() == later.masked.sum() and not same(first, later)
