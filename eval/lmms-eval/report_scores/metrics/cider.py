"""CIDEr-D (Vedantam et al. 2015) as pycocoevalcap computes it and calls CIDEr, with one reference a document.

An n-gram counts by how rare it is among the references of all documents. The score of a document is 0-10; that of the
corpus is the mean.
"""

import math
from collections import Counter

import numpy as np

from report_scores.metrics.tokens import ngrams, tokens

MAX_ORDER = 4
SIGMA = 6.0  # width, in n-grams, of the penalty for another length than the reference's


def cider_scores(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """CIDEr-D of each document, [documents]; how rare an n-gram is, `references` say."""
    pairs = [(tokens(text), tokens(reference)) for text, reference in zip(hypotheses, references, strict=True)]
    orders = range(1, MAX_ORDER + 1)
    return np.mean([_order_scores(pairs, order) for order in orders], axis=0) * 10 * _length_penalties(pairs)


def _order_scores(pairs: list[tuple[list[str], list[str]]], order: int) -> list[float]:
    """Cosines of the tf-idf vectors of n-grams of one order; none counts for more than it does in the reference."""
    counts = [(ngrams(words, order), ngrams(reference, order)) for words, reference in pairs]
    found_in = Counter(gram for _, reference in counts for gram in reference)  # documents

    def vector(grams: Counter) -> dict:
        return {gram: number * math.log(len(pairs) / max(1, found_in[gram])) for gram, number in grams.items()}

    return [_clipped_cosine(vector(grams), vector(reference)) for grams, reference in counts]


def _clipped_cosine(left: dict, right: dict) -> float:
    norms = math.hypot(*left.values()) * math.hypot(*right.values())
    if norms == 0:
        return 0.0
    return sum(min(weight, right[gram]) * right[gram] for gram, weight in left.items() if gram in right) / norms


def _length_penalties(pairs: list[tuple[list[str], list[str]]]) -> np.ndarray:
    """[documents]; pycocoevalcap measures a length in bigrams."""
    longer = np.array([max(0, len(words) - 1) - max(0, len(reference) - 1) for words, reference in pairs])
    return np.exp(-(longer**2) / (2 * SIGMA**2))
