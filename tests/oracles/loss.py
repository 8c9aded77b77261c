"""The losses of masked diffusion as plain formulas over Python numbers, one sample at a time."""

import math
from itertools import combinations


def pair_loss(losses: list[float], masked: set[int], p: float) -> float:
    """1/2 [ sum over M of l/(p R) + sum over the rest of l/((1-p) R) ]: two complementary views."""
    R = len(losses)
    total = 0.0
    for i, loss in enumerate(losses):
        total += 0.5 * loss / (p * R) if i in masked else 0.5 * loss / ((1 - p) * R)
    return total


def single_loss(losses: list[float], masked: set[int], weight: float) -> float:
    """One view: sum over M of weight l / R."""
    return sum(weight * losses[i] for i in masked) / len(losses)


def stratified_loss(losses: list[float], masked: set[int]) -> float:
    """(R+1)/(2R) [ mean over M of l + mean over the rest of l ], the mean of nothing being 0."""
    R = len(losses)
    halves = [[losses[i] for i in range(R) if i in masked], [losses[i] for i in range(R) if i not in masked]]
    return (R + 1) / (2 * R) * sum(sum(half) / len(half) for half in halves if half)


def likelihood_bound(loss_of, R: int) -> float:
    """Loss per token of the masked-diffusion bound, by enumeration; loss_of(i, masked) is that of i with M masked.

    The average over the number k = 1..R of masked tokens, over all M of that size, and over the i of M.
    """
    bound = 0.0
    for k in range(1, R + 1):
        sets = [set(places) for places in combinations(range(R), k)]
        bound += sum(sum(loss_of(i, M) for i in M) / k for M in sets) / len(sets)
    return bound / R


def subsets(R: int):
    """All sets of places of a response of R tokens."""
    for k in range(R + 1):
        yield from (set(places) for places in combinations(range(R), k))


def probability(masked: set[int], R: int, p: float) -> float:
    """Chance that exactly these tokens are masked when each is masked with p."""
    return math.prod(p if i in masked else 1 - p for i in range(R))
