"""Two floors that a model which looks at the films must beat.

The constant report: one training report for every film. The shuffled films: every text keeps its place and gets the
films of another study, so what the score keeps is what the model writes without looking.
"""

import random
from statistics import fmean

from report_metrics import rouge_l_of_tokens, tokens

HELD_OUT = 500  # training reports that stand in for a missing validation list, at most


def constant_report(train_reports: list[str], val_reports: list[str], candidates: int = 150, seed: int = 0) -> str:
    """Return the best of `candidates` training reports (all if there are fewer) by mean ROUGE_L on the validation ones.

    Without validation reports up to HELD_OUT training reports are held out of the candidates, but at most half of
    them. Raises ValueError when there are too few reports to choose from.
    """
    shuffled = random.Random(seed).sample(train_reports, len(train_reports))
    if not val_reports:
        held_out = min(HELD_OUT, len(shuffled) // 2)
        val_reports, shuffled = shuffled[:held_out], shuffled[held_out:]
    if not shuffled or not val_reports:
        raise ValueError(f"{len(train_reports)} training reports are too few for a constant report: give 2 or more")
    references = [tokens(report) for report in val_reports]

    def mean_rouge_l(report: str) -> float:
        words = tokens(report)
        return fmean(rouge_l_of_tokens(words, reference) for reference in references)

    return max(shuffled[:candidates], key=mean_rouge_l)


def derangement(n: int, seed: int = 0) -> list[int]:
    """Return one fixed permutation of 0..n-1 that leaves nothing in its place (Sattolo 1986: a single cycle).

    Raises ValueError when n is under 2.
    """
    if n < 2:
        raise ValueError(f"films can only be shuffled between at least 2 studies, but there are {n}")
    order = list(range(n))
    generator = random.Random(seed)
    for last in range(n - 1, 0, -1):
        other = generator.randrange(last)
        order[last], order[other] = order[other], order[last]
    return order
