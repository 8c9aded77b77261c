"""One denoising step's choice: a token for every open position of the block, and which of them to commit.

All of it runs on the device. Shapes: B rows, b positions of the block, m masked positions of the batch, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm.core.decoding import Decoding

SLICE = 1 << 22  # logits worked on at once: a temporary that stays in the CPU's cache costs far less than a large one


def apply_cfg(logits: list[Tensor], scale: float) -> Tensor:
    """Logits in fp32 or better, guided by the unconditional ones if there are any."""
    logits = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in logits]
    if len(logits) == 1:
        return logits[0]
    conditional, unconditional = logits
    guided = unconditional + (scale + 1) * (conditional - unconditional)
    return guided.masked_fill(conditional.isneginf(), float("-inf"))


def sample_candidates(logits: Tensor, decoding: Decoding, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """A token for each of the masked positions, [m], and its confidence, [m], from logits [m, V].

    Confidence is the token's probability. `drawn` [m] uniform numbers choose the token at a temperature.
    """
    if decoding.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        tokens = _by_slices(lambda part, u: _sample(part / decoding.temperature, u), logits, drawn)
    return tokens, _by_slices(lambda part, token: -F.cross_entropy(part, token, reduction="none"), logits, tokens).exp()


def select_tokens(confidence: Tensor, masked: Tensor, quota: Tensor, decoding: Decoding) -> Tensor:
    """Which positions [B, b] to commit, the most confident: `quota` [B] of them, or what threshold or factor allow.

    Under `random` remasking lots stand in for the confidence.
    """
    confidence = confidence.masked_fill(~masked, float("-inf"))
    order = confidence.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    if decoding.threshold is not None:
        quota = (confidence >= decoding.threshold).sum(dim=-1).clamp(min=1)
    elif decoding.factor is not None:
        n = torch.arange(1, confidence.shape[1] + 1, device=confidence.device)
        allowed = (n + 1) * (1 - confidence.gather(-1, order)) < decoding.factor  # [B, b]
        quota = (allowed * n).amax(dim=-1).clamp(min=1)
    return (rank < quota[:, None]) & masked


def step_quota(num_masked: Tensor, max_steps: int, step: int) -> Tensor:
    """Tokens that each row [B] commits at this step: its masked positions shared out over the steps of the block."""
    steps = num_masked.clamp(min=1, max=max_steps)
    return num_masked // steps + (step < num_masked % steps).long()


def is_any(ids: Tensor, tokens: list[int]) -> Tensor:
    """True where an id [...] is one of these tokens."""
    return torch.stack([ids == token for token in tokens]).any(dim=0)


def fill_after_stop(canvas: Tensor, is_masked: Tensor, config) -> tuple[Tensor, Tensor]:
    """What follows a written stop token is the tail: fills it in and closes these positions ([B, R] each)."""
    is_stop = is_any(canvas, config.stop_token_ids) & ~is_masked
    after = is_stop.long().cumsum(dim=1) - is_stop.long() > 0
    return canvas.masked_fill(after, config.tail_token_id), is_masked & ~after


def _sample(logits: Tensor, u: Tensor) -> Tensor:
    """One token per row of logits [m, V], where the cumulative probability passes u [m]."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)[:, 0]


def _by_slices(function, logits: Tensor, other: Tensor) -> Tensor:
    """function(logits [m, V], other [m]) -> [m], a few rows at a time."""
    if logits.is_cuda:
        return function(logits, other)
    rows = max(1, SLICE // logits.shape[-1])
    return torch.cat([function(a, b) for a, b in zip(logits.split(rows), other.split(rows), strict=True)])
