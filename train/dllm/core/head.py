"""The head and its cross-entropy on the target rows alone, in chunks, so that no [B, L, V] logits ever exist."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dllm.core.model import MaskedDiffusionModel

CHUNK_ROWS = 4096  # 1.2 GB of bf16 logits with Qwen3's vocabulary
BLOCK_ROWS = {"cpu": 8}  # rows that are exponentiated at a time: what a cache holds
BLOCK_ROWS_OF_OTHERS = 1024


def num_chunks(rows: int) -> int:
    """Chunks for so many rows of the head."""
    return max(-(-rows // CHUNK_ROWS), 1)


def head_losses(model: MaskedDiffusionModel, hidden: Tensor, ids: Tensor, chunks: int = 1) -> Tensor:
    """Cross-entropy [n], in fp32 or better, of `ids` [n] under the head's logits of `hidden` [n, D].

    With several chunks the logits of one exist at a time, and the backward pass computes them again: one more product
    with the head. A chunk may be empty.
    """
    parts = list(zip(hidden.tensor_split(chunks), ids.tensor_split(chunks), strict=True))
    if chunks == 1 or not torch.is_grad_enabled():
        return torch.cat([_losses(model, *part) for part in parts])
    return torch.cat([checkpoint(_losses, model, *part, use_reentrant=False) for part in parts])


def _losses(model: MaskedDiffusionModel, hidden: Tensor, ids: Tensor) -> Tensor:
    return _CrossEntropy.apply(model.logits(hidden), ids)


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy that writes exponentials over the logits, and its backward pass the gradient over those: both exist
    once, and every row is exponentiated once.

    What is stored is rounded to the logits' type; the losses and the gradient at the wanted ids are not taken from it.
    Autograd sees the change and refuses a second backward pass.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        wanted = logits.gather(1, ids[:, None]).to(dtype)  # [n, 1]
        blocks = logits.split(BLOCK_ROWS.get(logits.device.type, BLOCK_ROWS_OF_OTHERS))
        sums, normalisers = zip(*(_exponentiate(block, dtype) for block in blocks), strict=True)
        losses = torch.cat(normalisers) - wanted  # [n, 1]
        ctx.save_for_backward(logits, ids, torch.cat(sums), losses)
        return losses[:, 0]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        exponentials, ids, sums, losses = ctx.saved_tensors
        scale = gradient[:, None]  # [n, 1]
        logits_gradient = exponentials.mul_(scale / sums)
        of_wanted = scale * torch.expm1(-losses)  # probability - 1
        return logits_gradient.scatter_(1, ids[:, None], of_wanted.to(exponentials.dtype)), None


def _exponentiate(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Writes exp(logits - maximum) over logits [n, V]. Returns its sum and the logits' log-sum-exp, [n, 1] each."""
    exact = logits.to(dtype)  # the same tensor if its type is that
    maximum = exact.amax(-1, keepdim=True)
    exact.sub_(maximum).exp_()
    if exact is not logits:
        logits.copy_(exact)
    total = exact.sum(-1, keepdim=True)
    return total, total.log() + maximum
