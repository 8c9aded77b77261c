"""Noise schedules against their definition: the chance to keep a token, and the weight of a masked one."""

import math

import pytest

from dllm.core.noise import ForwardProcess
from dllm.core.schedules import SCHEDULES

TIMES = [0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999]


@pytest.mark.parametrize("name", SCHEDULES)
def test_everything_is_kept_at_time_0_and_nothing_at_time_1(name):
    schedule = SCHEDULES[name]
    assert schedule.mask_probability(0.0) == pytest.approx(0.0, abs=1e-12)
    assert schedule.mask_probability(1.0) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_chance_to_be_masked_grows_with_time(name):
    chances = [SCHEDULES[name].mask_probability(t) for t in TIMES]
    assert chances == sorted(set(chances))
    assert 0 < chances[0] and chances[-1] < 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_the_derivative_is_that_of_alpha(name, t):
    schedule, h = SCHEDULES[name], 1e-7
    slope = (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h)
    assert schedule.alpha_derivative(t) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "name, chance, weight",
    [
        ("linear", 0.25, 4.0),
        ("cosine", math.cos(math.pi * 3 / 8), math.pi / 2 * math.tan(math.pi * 3 / 8)),
        ("sqrt", 0.5, 2.0),
    ],
)
def test_values_at_a_quarter(name, chance, weight):
    schedule = SCHEDULES[name]
    assert schedule.mask_probability(0.25) == pytest.approx(chance, abs=1e-12)
    assert schedule.weight(0.25) == pytest.approx(weight, abs=1e-12)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'quadratic'.*linear, cosine, sqrt"):
        ForwardProcess(schedule="quadratic")
