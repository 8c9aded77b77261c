"""What a score is worth that a model reaches without its inputs: those of other records in their place, or none."""

import random


def derangement(n: int, seed: int = 0) -> list[int]:
    """One fixed permutation of 0..n-1 that leaves nothing where it was (Sattolo 1986: a single cycle).

    Raises ValueError when n is under 2.
    """
    if n < 2:
        raise ValueError(f"inputs can only be shuffled between at least 2 records, but there are {n}")
    order = list(range(n))
    generator = random.Random(seed)
    for last in range(n - 1, 0, -1):
        other = generator.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
