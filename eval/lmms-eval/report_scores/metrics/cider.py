"""CIDEr-D (Vedantam et al. 2015) by pycocoevalcap, which calls it CIDEr, with one reference a document.

An n-gram counts by how rare it is among the references of all documents. The score of a document is 0-10; that of the
corpus is the mean.
"""

import numpy as np

from report_scores.metrics.tokens import tokens


def cider_scores(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """CIDEr-D of each document, [documents]; how rare an n-gram is, `references` say."""
    from pycocoevalcap.cider.cider import Cider  # an optional package

    parts = [{index: [" ".join(tokens(text))] for index, text in enumerate(part)} for part in (references, hypotheses)]
    return Cider().compute_score(*parts)[1]
