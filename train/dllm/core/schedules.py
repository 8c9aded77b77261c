"""Noise schedules. alpha(t) is the probability that a token is kept at time t in [0, 1] (Sahoo et al. 2024, MDLM)."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Schedule(NamedTuple):
    """alpha(t), falling from 1 at t = 0 to 0 at t = 1, and its derivative."""

    alpha: Callable[[float], float]
    alpha_derivative: Callable[[float], float]

    def mask_probability(self, t: float) -> float:
        """p(t) = 1 - alpha(t)."""
        return 1.0 - self.alpha(t)

    def weight(self, t: float) -> float:
        """Weight of a masked token in the likelihood bound: -alpha'(t) / (1 - alpha(t)); 1/t for linear."""
        return -self.alpha_derivative(t) / self.mask_probability(t)


SCHEDULES = {
    "linear": Schedule(lambda t: 1 - t, lambda t: -1.0),
    "cosine": Schedule(
        lambda t: 1 - math.cos(math.pi / 2 * (1 - t)), lambda t: -math.pi / 2 * math.sin(math.pi / 2 * (1 - t))
    ),
    "sqrt": Schedule(lambda t: 1 - math.sqrt(t), lambda t: -0.5 / math.sqrt(t)),
}
