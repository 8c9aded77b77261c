"""CheXbert F1, RadGraph F1 and RadCliQ by the package radeval (Xu et al. 2025), for whoever asks: --clinical.

    pip install -e "eval/lmms-eval[clinical]"

in an environment of its own: radeval wants torchvision and, under Python 3.11, an older numpy than training does. The
weights of its models come from huggingface.co when they are first used.
- CheXbert_F1: micro-F1 over CheXbert's 14 labels (Smit et al. 2020), a hedged one counting as stated.
- RadGraph_F1: mean over reports of the F1 of entities with the presence of a relation (radeval's radgraph_partial).
- RadCliQ_v1: mean over reports of an estimated number of errors (Yu et al. 2023): lower is better.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from report_scores.scorer import Metric, mean, micro_f1

VERSION = "2.2.1"


def clinical_metrics() -> tuple[Metric, ...]:
    """Load the models and return their metrics.

    Raises ValueError with one line: radeval is not installed, or the weights of a model cannot be fetched.
    """
    radeval = _import_radeval()
    return (
        _chexbert(),
        _mean_of(radeval, "RadGraph_F1", "radgraph", "radgraph_partial"),
        _mean_of(radeval, "RadCliQ_v1", "radcliq", "radcliq_v1"),
    )


def _import_radeval() -> Any:
    try:
        radeval = importlib.import_module("radeval")
    except ImportError as error:
        reason = f"radeval cannot be imported ({error}): pip install radeval=={VERSION} where the scores are made"
        raise ValueError(f"clinical scores: {reason}") from None
    # Its RadGraph imports the package by a name that exists on case-insensitive file systems only.
    sys.modules.setdefault("RadEval", radeval)
    return radeval


def _load(name: str, build: Callable[[], Any]) -> Any:
    """What `build` returns; whatever it raises becomes one line: the models' loaders raise errors of many types."""
    try:
        return build()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = "its weights come from huggingface.co at first use; load them once where that can be reached"
        raise ValueError(f"{name} cannot be loaded ({reason}); {advice}") from error


def _mean_of(radeval: Any, name: str, metric: str, key: str) -> Metric:
    """The mean over documents of what radeval gives each of them as `key`."""
    evaluator = _load(name, lambda: radeval.RadEval(metrics=[metric], per_sample=True, show_progress=False))
    return mean(name, lambda hyps, refs: np.asarray(evaluator(refs=list(refs), hyps=list(hyps))[key], dtype=float))


def _chexbert() -> Metric:
    """Micro-F1 of the labels themselves: radeval gives a document only its accuracy, and of a sum of those no F1."""

    def build() -> Any:
        import torch

        classes = importlib.import_module("radeval.metrics.f1chexbert")
        return classes.F1CheXbert(device="cuda" if torch.cuda.is_available() else "cpu")

    labeler = _load("CheXbert_F1", build)

    def statistics(hypotheses: list[str], references: list[str]) -> np.ndarray:
        texts = sorted({*hypotheses, *references})
        rows = labeler.get_labels(texts)  # [texts, 14], 1 where the label is stated
        stated = {text: np.flatnonzero(row).tolist() for text, row in zip(texts, rows, strict=True)}
        return micro_f1("", stated.__getitem__).statistics(hypotheses, references)

    return micro_f1("CheXbert_F1", frozenset)._replace(name="CheXbert", statistics=statistics)
