"""All scores of reports: each is a row of statistics per document, and a function of the sum of the rows.

A `Scorer` turns hypotheses and references into one matrix of statistics [documents, k], and sums of its rows into
scores. So the score of the corpus, its bootstrap interval and the comparison of two systems come from one matrix, and
are exact under any sharding of the documents. One reference a document. Scores are 0-1, CIDEr 0-10.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llava.radiology.findings import parse_report
from llava.radiology.labels import NO_FINDING, labels
from report_scores.metrics.bleu import bleu, bleu_statistics
from report_scores.metrics.cider import cider_scores
from report_scores.metrics.meteor import meteor, meteor_statistics
from report_scores.metrics.rouge import rouge_l_scores, rouge_score_l_scores


class Metric(NamedTuple):
    """One score, or several that share their statistics.

    name        of the metric
    columns     number of statistics of a document
    statistics  hypotheses, references -> [documents, columns]
    scores      by name: sums of statistics [..., columns] -> scores [...]
    """

    name: str
    columns: int
    statistics: Callable[[list[str], list[str]], np.ndarray]
    scores: dict[str, Callable[[np.ndarray], np.ndarray]]


def mean(name: str, score_each: Callable[[list[str], list[str]], np.ndarray]) -> Metric:
    """The mean over documents of a score that each of them has: its statistics are the score and 1."""

    def statistics(hypotheses: list[str], references: list[str]) -> np.ndarray:
        values = score_each(hypotheses, references)
        return np.stack([values, np.ones(len(values))], axis=1)

    return Metric(name, 2, statistics, {name: lambda sums: sums[..., 0] / sums[..., 1]})


def micro_f1(name: str, read: Callable[[str], Iterable]) -> Metric:
    """Micro-F1 over what `read` finds in a text; 1 where nothing is there and nothing is found."""

    def statistics(hypotheses: list[str], references: list[str]) -> np.ndarray:
        pairs = [(set(read(text)), set(read(truth))) for text, truth in zip(hypotheses, references, strict=True)]
        return np.array([(len(found & true), len(found) + len(true)) for found, true in pairs], dtype=float)

    def f1(sums: np.ndarray) -> np.ndarray:
        hits, total = sums[..., 0], sums[..., 1]
        return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)

    return Metric(name, 2, statistics, {name: f1})


BLEU = Metric("BLEU", 10, bleu_statistics, {f"BLEU_{n}": lambda sums, n=n: bleu(sums, n) for n in (1, 2, 3, 4)})
METEOR = Metric("METEOR", 23, meteor_statistics, {"METEOR": meteor})
ROUGE_L = mean("ROUGE_L", rouge_l_scores)
ROUGE_SCORE_L = mean("rouge_score_L", rouge_score_l_scores)
CIDER = mean("CIDEr", cider_scores)
LABEL_F1 = micro_f1("label_F1", labels)
ABNORMAL_F1 = micro_f1("abnormal_F1", lambda text: labels(text) - {NO_FINDING})  # a normal report always scores 0
FINDING_F1 = micro_f1("finding_F1", parse_report)  # of phantom images
METRICS = (BLEU, METEOR, ROUGE_L, ROUGE_SCORE_L, CIDER, LABEL_F1, ABNORMAL_F1)


class Scorer:
    """The scores of some metrics.

    names  of the scores, in the order of the table
    """

    def __init__(self, metrics: Iterable[Metric] = METRICS):
        self.metrics = tuple(metrics)
        self.names = tuple(name for metric in self.metrics for name in metric.scores)

    def statistics(
        self, hypotheses: list[str], references: list[str], known: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """The statistics of the documents, [documents, k]. Those of a metric that `known` has by name come from there.

        Raises ValueError when the lists differ in length or are empty, and without Java.
        """
        if len(hypotheses) != len(references) or not hypotheses:
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references: give as many, at least 1")
        known = known or {}
        parts = [
            known[metric.name] if metric.name in known else metric.statistics(hypotheses, references)
            for metric in self.metrics
        ]
        return np.concatenate(parts, axis=1)

    def scores(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """The scores [...] by name, from sums over documents [..., k]."""
        ends = np.cumsum([metric.columns for metric in self.metrics])[:-1]
        parts = zip(self.metrics, np.split(sums, ends, axis=-1), strict=True)
        return {name: score(part) for metric, part in parts for name, score in metric.scores.items()}


def _of_corpus(metric: Metric, name: str) -> Callable[[Sequence[Sequence[float]]], float]:
    """The function of lmms_eval that turns the statistics of all documents into a score."""
    return lambda rows: float(metric.scores[name](np.sum(rows, axis=0)))


corpus_bleu_1, corpus_bleu_4 = _of_corpus(BLEU, "BLEU_1"), _of_corpus(BLEU, "BLEU_4")
corpus_meteor = _of_corpus(METEOR, "METEOR")
