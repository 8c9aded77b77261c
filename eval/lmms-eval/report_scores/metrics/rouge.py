"""Both scores that are quoted as ROUGE-L. They differ in the tokens, and in how recall is weighed.

`rouge_l` is that of pycocoevalcap on the stated normalisation: the F score of the longest common subsequence with
recall weighed by 1.2. `rouge_score_l` is that of Google's package rouge_score: tokens [a-z0-9]+, no punctuation, no
stemming, and the plain F1.
"""

import numpy as np

from report_scores.metrics.tokens import tokens

BETA = 1.2  # of pycocoevalcap


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L of one document as in pycocoevalcap, 0-1."""
    return rouge_l_of_tokens(tokens(hypothesis), tokens(reference))


def rouge_l_of_tokens(hypothesis: list[str], reference: list[str]) -> float:
    """`rouge_l` on token lists; 0 when either is empty."""
    common = _longest_common_subsequence(hypothesis, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def rouge_l_scores(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """`rouge_l` of each document, [documents]."""
    return np.array([rouge_l(*pair) for pair in zip(hypotheses, references, strict=True)])


def rouge_score_l_scores(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """rougeL F1 of the package rouge_score for each document, [documents], 0-1."""
    from rouge_score.rouge_scorer import RougeScorer  # it loads NLTK: a second that other scores do not need

    scorer = RougeScorer(["rougeL"])
    pairs = zip(references, hypotheses, strict=True)
    return np.array([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs])


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, a whole row of the dynamic programme at a time (Hyyrö 2004).

    A zero bit i of `row` says that the length grows at left[i]; the row is one Python integer.
    """
    where = {}
    for bit, word in enumerate(left):
        where[word] = where.get(word, 0) | 1 << bit
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        hits = row & where.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(left) - row.bit_count()
