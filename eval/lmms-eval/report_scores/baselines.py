"""Three baselines that a model which looks at the images must beat.

The constant report: one training report for every image. The shuffled images: every text stays and gets the images
of another study, so what the score keeps is what the model writes without looking. The nearest image: the report
of the training image that looks most alike, pixel by pixel, which needs no model.
"""

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image

from dllm.data.parallel import map_parallel
from llava.data.images import load_image
from report_scores.metrics.rouge import rouge_l_of_tokens
from report_scores.metrics.tokens import tokens

HELD_OUT = 500  # training reports that stand in for a missing validation list, at most
SIDE = 32  # pixels of the images that are compared
CHUNK = 4096  # training images that are compared at a time


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


def nearest_images(images: Sequence[Path], train_images: Sequence[Path]) -> np.ndarray:
    """For each image the index in `train_images` of the one with the most similar grey values, int [images].

    Films are shrunk to SIDE x SIDE grey pixels and compared by correlation; of equals the first counts. Reads on all
    cores. Raises ValueError with one line that names an image which cannot be read.
    """
    rows = _standardised(list(map_parallel(_thumbnail, images, "reading test images", "image")))
    best = np.full(len(images), -np.inf, dtype=np.float32)
    nearest = np.zeros(len(images), dtype=int)
    thumbnails = map_parallel(_thumbnail, train_images, "reading training images", "image")
    for start in range(0, len(train_images), CHUNK):
        similarity = rows @ _standardised(list(islice(thumbnails, CHUNK))).T  # [images, at most CHUNK]
        value = similarity.max(axis=1)
        nearest = np.where(value > best, start + similarity.argmax(axis=1), nearest)
        best = np.maximum(best, value)
    return nearest


def _thumbnail(image: Path) -> np.ndarray:
    """The image as SIDE x SIDE grey values in one row, uint8."""
    return np.asarray(load_image(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def _standardised(thumbnails: list[np.ndarray]) -> np.ndarray:
    """Rows of mean 0 and length 1, so that their product is a correlation; an even image is all 0 and like none."""
    rows = np.stack(thumbnails).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
