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
| `whole_blocks` | half of all wholly masked in the first view, the others as `stratified`: not a bound           |
| `draft`        | sum l / R, one pass; what comes after a cut is masked, all cuts alike: not a bound             |
| `seed_literal` | as `pair` with p on [eps, 1): the variance of its second half diverges; kept for comparison    |

Under block-wise patterns the blocks of a response do not see each other's noise, so each of them is a response of its
own to the estimator: it draws a rate, or a count, of its own, and the rates of one response are spread evenly. A block
that is wholly masked is what decoding meets at its first step; distillation learns more from it
(`dllm.inference.own_responses`). The rest of a block after what is committed of it is what a draft is asked for
(`dllm.core.speculative`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dllm.core.schedules import SCHEDULES

ESTIMATORS = ("pair", "stratified", "single", "uniform", "whole_blocks", "draft", "seed_literal")
PAIRED = ("pair", "stratified", "whole_blocks", "seed_literal")
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class ForwardProcess:
    """The forward process of a run: estimator, schedule (single views only), clip `eps` of the mask rate, and seed."""

    estimator: str = "stratified"
    schedule: str = "linear"
    eps: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"unknown noise estimator {self.estimator!r}; known: {', '.join(ESTIMATORS)}")
        if not 0 < self.eps < 0.5:
            raise ValueError(f"noise eps must be in (0, 0.5), not {self.eps}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown noise schedule {self.schedule!r}; known: {', '.join(SCHEDULES)}")
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

    def rate(self, position: int) -> float:
        """Where in [0, 1) the noise of the sample at `position` lies; consecutive samples are well spread."""
        return (np.random.default_rng([self.seed, 0]).random() + GOLDEN_RATIO * position) % 1.0

    def draw(self, position: int, num_targets: int, block_length: int | None = None) -> "Noise":
        """Noise for the sample at `position` in the run's order, with `num_targets` tokens to predict.

        With `block_length` every block of so many of them has noise of its own; without, the response is one block.
        `seed_literal` always takes the response as one, as the seed does.
        """
        u, rng = self.rate(position), np.random.default_rng([self.seed, 1, position])
        if block_length is None or self.estimator == "seed_literal":
            return self._draw_block(u, rng, num_targets)
        lengths = [min(block_length, num_targets - start) for start in range(0, num_targets, block_length)]
        rates = (u + np.arange(len(lengths)) / len(lengths)) % 1.0
        blocks = [self._draw_block(rate, rng, length) for rate, length in zip(rates, lengths, strict=True)]
        return Noise(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))

    def _draw_block(self, u: float, rng: np.random.Generator, num_targets: int) -> "Noise":
        if self.estimator == "whole_blocks":
            if u < 0.5:
                return Noise.of(np.ones(num_targets, bool), 1.0, 1.0, 1.0)
            u = 2 * u - 1
        if self.estimator == "draft":
            cut = int(u * (num_targets + 1))
            return Noise.of(np.arange(num_targets) >= cut, 1 - cut / num_targets, 1.0, 1.0)
        if self.estimator in ("stratified", "whole_blocks"):
            count = int(u * (num_targets + 1))
            masked = rng.permutation(num_targets) < count
            scale = (num_targets + 1) / 2
            rest = num_targets - count
            return Noise.of(masked, count / num_targets, scale / max(count, 1), scale / max(rest, 1))
        uniforms = rng.random(num_targets)
        if self.paired:
            high = 1.0 if self.estimator == "seed_literal" else 1 - self.eps
            p = self.eps + (high - self.eps) * u
            return Noise.of(uniforms < p, p, 0.5 / p, 0.5 / (1 - p))
        t = self.eps + (1 - self.eps) * u
        schedule = SCHEDULES[self.schedule]
        p = schedule.mask_probability(t)
        weight = schedule.weight(t) if self.estimator == "single" else 1.0
        return Noise.of(uniforms < p, p, weight, 0.0)


@dataclass(frozen=True)
class Quadrature(ForwardProcess):
    """Fixed noise for validation, so that any two checkpoints compare: `points` stratified pairs per sample.

    Position n is that of pair n mod `points` of a sample. The views of a sample lie at the midpoints of 2 `points`
    equal parts of [0, 1], half of them through the complement.
    """

    estimator: str = "stratified"
    points: int = 4

    def rate(self, position: int) -> float:
        return (position % self.points + 0.25) / self.points


class Noise(NamedTuple):
    """Of every target [R]: whether the first view masks it, the rate at which the view that predicts it is masked,
    and the weight of its loss (0 if no view predicts it).
    """

    masked: np.ndarray
    rates: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, masked: np.ndarray, p: float, weight_masked: float, weight_rest: float) -> "Noise":
        """Noise of one rate p; the weights of tokens in the mask and of the rest."""
        return cls(masked, np.where(masked, p, 1 - p), np.where(masked, weight_masked, weight_rest))
