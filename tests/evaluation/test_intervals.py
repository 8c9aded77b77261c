"""Bootstrap intervals and comparisons against theory: known standard errors, coverage, and the p of a known effect."""

import math

import numpy as np
import pytest

from report_scores.intervals import CHUNK, compare, estimate, resampled_sums


def mean_of(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def as_statistics(values: np.ndarray) -> np.ndarray:
    """[..., documents, 2]: a value and 1."""
    return np.stack([values, np.ones_like(values)], axis=-1)


def interval(values: np.ndarray, **options):
    statistics = as_statistics(values)
    return estimate(mean_of(statistics.sum(axis=-2)), mean_of(resampled_sums(statistics, **options)))


def difference(values: np.ndarray, others: np.ndarray, **options):
    statistics = as_statistics(np.stack([values, others]))
    (value, other), (resampled, other_resampled) = (
        mean_of(sums) for sums in (statistics.sum(axis=-2), resampled_sums(statistics, **options))
    )
    return compare(value, other, resampled, other_resampled)


def test_resamples_draw_as_many_documents_as_there_are():
    draws = resampled_sums(np.eye(7), resamples=CHUNK + 30)  # how often each document was drawn
    assert draws.shape == (CHUNK + 30, 7) and (draws.sum(axis=1) == 7).all()
    assert draws.mean(axis=0) == pytest.approx(np.ones(7), abs=0.25)
    assert draws.var(axis=0).mean() == pytest.approx(6 / 7, rel=0.1)  # binomial of 7 draws at 1/7
    assert len({tuple(draw) for draw in draws}) > CHUNK / 2


def test_rows_share_their_resamples_and_the_seed_fixes_them():
    values = np.random.default_rng(0).normal(size=(2, 20, 3))
    together = resampled_sums(values, resamples=50)
    assert together.shape == (2, 50, 3)
    assert together[1] == pytest.approx(resampled_sums(values[1], resamples=50))
    assert abs(together - resampled_sums(values, resamples=50, seed=1)).max() > 0.1


def test_interval_of_a_mean_is_the_one_of_theory():
    values = np.random.default_rng(1).normal(3, 2, size=400)
    found = interval(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.08 * half)


def test_intervals_hold_the_truth_in_95_of_100_cases():
    generator = np.random.default_rng(2)
    cases = [interval(generator.exponential(size=100), resamples=400) for _ in range(400)]
    share = np.mean([case.low <= 1 <= case.high for case in cases])
    assert 0.90 <= share <= 0.97  # 95 % but for 100 skewed values and 400 cases


def test_a_difference_of_pairs_is_surer_than_one_of_strangers():
    generator = np.random.default_rng(3)
    hard = generator.normal(0, 5, size=300)  # what is difficult is so for both
    better, worse = hard + 0.3 + generator.normal(0, 1, 300), hard + generator.normal(0, 1, 300)
    pairs, strangers = difference(better, worse), difference(better, generator.permutation(worse))
    assert (pairs.value, strangers.value) == pytest.approx([(better - worse).mean()] * 2)
    half = 1.96 * (better - worse).std() / math.sqrt(300)
    assert (pairs.high - pairs.low) / 2 == pytest.approx(half, rel=0.08)
    assert pairs.excludes_0 and pairs.p < 0.01
    assert not strangers.excludes_0 and strangers.p > 0.05
    assert (strangers.high - strangers.low) > 3 * (pairs.high - pairs.low)


def test_p_is_that_of_a_normal_test_and_both_directions_are_alike():
    differences = np.random.default_rng(4).normal(0, 1, size=500)
    differences += 2 / math.sqrt(500) * differences.std() - differences.mean()  # two standard errors: p = .0455
    found, reverse = (difference(*pair) for pair in ((differences, 0 * differences), (0 * differences, differences)))
    assert found.p == pytest.approx(0.0455, abs=0.012)
    assert reverse.p == found.p and (reverse.low, reverse.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("shift", [0, 1])
def test_where_nothing_varies_there_is_no_interval(shift):
    values = np.random.default_rng(5).normal(size=50)
    found = difference(values + shift, values)
    assert (found.value, found.excludes_0) == (pytest.approx(shift), False)
    assert (found.low, found.high, found.p) == (None, None, None)
    found = interval(np.full(50, 0.3))
    assert (found.value, found.low, found.high) == (pytest.approx(0.3), None, None)


def test_p_is_never_0():
    found = difference(np.linspace(1, 2, 30), np.zeros(30), resamples=99)
    assert found.p == pytest.approx(2 / 100) and found.excludes_0


def test_p_of_equal_systems_is_even():
    generator = np.random.default_rng(6)
    cases = [difference(*generator.normal(size=(2, 80)), resamples=200).p for _ in range(300)]
    assert np.mean(np.array(cases) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(np.array(cases) < 0.5) == pytest.approx(0.5, abs=0.1)
