"""The forward process: which tokens of a response are masked, and how much each prediction counts.

Noise is a function of (seed, position in the run's order of samples). One process, N ranks, gradient accumulation
and a resumed run therefore draw the same noise. Consecutive samples have well-spread mask rates (a golden-ratio
sequence).

Estimators of the masked-diffusion likelihood bound, per sample with R target tokens and per-token losses l_i:

| name           | loss of a sample                                                                             |
|----------------|----------------------------------------------------------------------------------------------|
| `pair`         | 1/2 [ sum_M l/(p R) + sum_rest l/((1-p) R) ], p uniform on [eps, 1 - eps], two passes          |
| `stratified`   | (R+1)/(2R) [ mean_M l + mean_rest l ], |M| uniform on 0..R: exactly unbiased, bounded weights  |
| `single`       | sum_M w(t) l / R with p(t) and w(t) of the schedule, one pass                                  |
| `uniform`      | as `single` with weight 1: not a bound, a choice of dLLM                                       |
| `seed_literal` | as `pair` with p on [eps, 1): the variance of its second half diverges; kept for comparison    |
"""

from dataclasses import dataclass

import numpy as np

from dllm.core.schedules import get_schedule

ESTIMATORS = ("pair", "stratified", "single", "uniform", "seed_literal")
PAIRED = ("pair", "stratified", "seed_literal")
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class Forward:
    """The forward process of a run: estimator, schedule (single views only), clip `eps` of the mask rate, and seed."""

    estimator: str = "pair"
    schedule: str = "linear"
    eps: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"unknown noise estimator {self.estimator!r}; known: {', '.join(ESTIMATORS)}")
        if not 0 < self.eps < 0.5:
            raise ValueError(f"noise eps must be in (0, 0.5), not {self.eps}")
        get_schedule(self.schedule)
        if self.paired and self.schedule != "linear":
            raise ValueError(
                f"the {self.estimator} estimator needs the linear schedule: with {self.schedule} it is biased"
            )

    @property
    def paired(self) -> bool:
        """Whether the complement of the mask is a second view, so that every target is predicted exactly once."""
        return self.estimator in PAIRED

    def key(self, position: int, number: int) -> int:
        """A random number for the `number`-th other choice that belongs to the sample at `position`."""
        return int(np.random.default_rng([self.seed, 2, position, number]).integers(2**62))

    def draw(self, position: int, num_targets: int) -> "Noise":
        """Noise for the sample at `position` in the run's order, with `num_targets` tokens to predict."""
        u = (np.random.default_rng([self.seed, 0]).random() + GOLDEN_RATIO * position) % 1.0
        rng = np.random.default_rng([self.seed, 1, position])
        if self.estimator == "stratified":
            count = int(u * (num_targets + 1))
            masked = rng.permutation(num_targets) < count
            scale = (num_targets + 1) / 2
            return Noise(masked, scale / max(count, 1), scale / max(num_targets - count, 1))
        uniforms = rng.random(num_targets)
        if self.paired:
            high = 1.0 if self.estimator == "seed_literal" else 1 - self.eps
            p = self.eps + (high - self.eps) * u
            return Noise(uniforms < p, 0.5 / p, 0.5 / (1 - p))
        t = self.eps + (1 - self.eps) * u
        schedule = get_schedule(self.schedule)
        weight = schedule.weight(t) if self.estimator == "single" else 1.0
        return Noise(uniforms < schedule.mask_probability(t), weight, 0.0)


@dataclass
class Noise:
    """`masked` [R] bool; the loss weights of tokens in the mask and of the rest (0 for a single view)."""

    masked: np.ndarray
    weight_masked: float
    weight_rest: float

    def weights(self) -> np.ndarray:
        """Loss weight of every target [R], float64."""
        return np.where(self.masked, self.weight_masked, self.weight_rest)
