"""How likely a text model finds given responses, and whether it would write them."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from dllm.bar import Bar
from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.losses import IGNORE_INDEX, response_nats
from dllm.core.noise import ForwardProcess
from dllm.data.collator import ResponseCollator, canvas_length
from dllm.inference.writer import rectangle


class Pair(NamedTuple):
    """Ids of a prompt, which may be empty, and of a response to it."""

    prompt: list[int]
    response: list[int]


@torch.no_grad()
def log_likelihoods(
    model: MaskedDiffusionLM,
    pairs: Sequence[Pair],
    noise: ForwardProcess,
    draws: int,
    batch_size: int,
    with_tail: bool = False,
) -> list[float]:
    """A lower bound of log p(response | prompt) of each pair in nats: the mean over the noise at positions 0 .. `draws`
    - 1, the same for every pair, so that neighbours change nothing and a question's answers compare.

    `noise` is a paired process, `Quadrature(points=draws)` for instance; every draw of a pair is a row of a batch.
    `with_tail`: the canvas is filled as in training, and what its tail costs counts; without, a response is what has
    to be written and nothing follows it.
    """
    collator = ResponseCollator(model.diffusion, noise, with_tail=with_tail)
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index].prompt) + len(pairs[index].response))
    rows = [(index, draw) for index in order if pairs[index].response for draw in range(draws)]
    nats = torch.zeros(len(pairs), dtype=torch.float64)
    for start in Bar(range(0, len(rows), batch_size), desc="likelihoods", unit="batch", disable=not rows):
        part = rows[start : start + batch_size]
        samples = [_sample(pairs[index], draw) for index, draw in part]
        batch = {name: value.to(model.device) for name, value in collator(samples).items()}
        weights, targets = batch["weights"], batch["labels"] != IGNORE_INDEX
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "masked")}
        of_rows = response_nats(model(**inputs).losses, weights, targets)  # [B]
        nats.index_add_(0, torch.tensor([index for index, _ in part]), of_rows.double().cpu())
    return (-nats / draws).tolist()


def are_greedy(
    model: MaskedDiffusionLM, pairs: Sequence[Pair], batch_size: int, with_tail: bool = False, **arguments
) -> list[bool]:
    """Whether the model, asked greedily, would write just this response to each prompt, on a canvas of its length
    (`with_tail`: of training). `arguments` as in `dllm.core.decoding.Decoding`.
    """

    def canvas(index: int) -> int:
        length = len(pairs[index].response)
        return canvas_length(model.diffusion, length) if with_tail else length

    greedy = [True] * len(pairs)  # of an empty response
    for length, group in groupby(sorted(range(len(pairs)), key=canvas), key=canvas):
        group = list(group) if length else []
        for start in range(0, len(group), batch_size):
            part = group[start : start + batch_size]
            prompts = [pairs[index].prompt for index in part]
            ids, valid = (rectangle(rows, 0, left=True) for rows in (prompts, [[1] * len(row) for row in prompts]))
            written = model.generate(ids.to(model.device), valid.to(model.device), gen_length=length, **arguments).ids
            for index, row in zip(part, written.tolist(), strict=True):
                greedy[index] = row[: len(pairs[index].response)] == pairs[index].response
    return greedy


def _sample(pair: Pair, position: int) -> dict[str, np.ndarray | int]:
    prompt, response = (np.array(ids, np.int64) for ids in pair)
    return {"prompt_ids": prompt, "response_ids": response, "position": position}
