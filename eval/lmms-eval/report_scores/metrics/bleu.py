"""Corpus BLEU of order 1 to 4 (Papineni et al. 2002) from counts that add up over documents."""

import numpy as np

from report_scores.metrics.tokens import ngrams, tokens

MAX_ORDER = 4


def bleu_statistics(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """Count what BLEU needs of each document, [documents, 10]: tokens of the hypothesis and of the reference, the
    matching n-grams of order 1 to 4, the hypothesis' n-grams of order 1 to 4.
    """
    return np.array([_counts(*pair) for pair in zip(hypotheses, references, strict=True)], dtype=float)


def bleu(sums: np.ndarray, order: int) -> np.ndarray:
    """Corpus BLEU with n-grams up to `order`, 0-1, from summed statistics [..., 10].

    The geometric mean of the precisions times the brevity penalty. No smoothing: without a match of some order it is 0.
    """
    lengths, reference_lengths = sums[..., 0], sums[..., 1]
    matches = sums[..., 2 : 2 + order]
    totals = sums[..., 2 + MAX_ORDER : 2 + MAX_ORDER + order]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precision = np.log(matches / totals).mean(axis=-1)
        score = np.exp(log_precision + np.minimum(0, 1 - reference_lengths / lengths))
    return np.where(matches.min(axis=-1) > 0, score, 0.0)


def _counts(hypothesis: str, reference: str) -> list[int]:
    hypothesis_tokens, reference_tokens = tokens(hypothesis), tokens(reference)
    matches, totals = [], []
    for order in range(1, MAX_ORDER + 1):
        candidates = ngrams(hypothesis_tokens, order)
        matches.append((candidates & ngrams(reference_tokens, order)).total())
        totals.append(candidates.total())
    return [len(hypothesis_tokens), len(reference_tokens), *matches, *totals]
