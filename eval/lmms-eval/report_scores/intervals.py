"""Bootstrap over documents (Efron 1979): 95 % intervals of a score, and the comparison of two systems.

A resample draws as many documents as there are, with replacement. A score that is a function of summed statistics needs
of it only how often each document was drawn: the weights times the statistics are the sums. Systems that were scored on
the same documents get the same resamples, so that a difference is one of pairs.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 5000
LEVEL = 0.95
FEWEST = 20  # studies of an interval: fewer tell the bootstrap too little
CHUNK = 250  # resamples at a time
SAME = 1e-9  # resamples that differ by less are equal


@dataclass(frozen=True)
class Estimate:
    """A score or a difference, with the bounds of its interval; None where no resample differs from another."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison(Estimate):
    """A difference of two systems, its interval, whether 0 is outside it, and the two-sided p of "there is none"."""

    p: float | None
    excludes_0: bool


def resampled_sums(statistics: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums over resampled documents, [..., resamples, k], of statistics [..., documents, k].

    The resamples depend on the seed and the number of documents alone.
    """
    documents = statistics.shape[-2]
    generator = np.random.default_rng(seed)
    even = np.full(documents, 1 / documents)
    sizes = [min(CHUNK, resamples - start) for start in range(0, resamples, CHUNK)] or [0]
    return np.concatenate([generator.multinomial(documents, even, size) @ statistics for size in sizes], axis=-2)


def estimate(value: float, resampled: np.ndarray) -> Estimate:
    """A score of all documents with the percentile interval of its resamples [resamples]."""
    return Estimate(float(value), *_interval(resampled))


def compare(value: float, other: float, resampled: np.ndarray, other_resampled: np.ndarray) -> Comparison:
    """The difference of two scores, from their values on the same resamples, [resamples] each.

    p is twice the share of resamples on the rarer side of 0, those at 0 on both, the sample itself counted as one.
    """
    differences = resampled - other_resampled
    low, high = _interval(differences)
    if low is None or high is None:
        return Comparison(float(value - other), None, None, p=None, excludes_0=False)
    tail = min(np.sum(differences <= 0), np.sum(differences >= 0))
    p = min(1.0, 2 * (tail + 1) / (len(differences) + 1))
    return Comparison(float(value - other), low, high, float(p), excludes_0=low > 0 or high < 0)


def _interval(values: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    if values.size == 0 or np.ptp(values) < SAME:
        return None, None
    return tuple(map(float, np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))
