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
    """Cross-entropy whose backward pass writes the gradient over the logits, so that they exist once.

    Autograd sees the change and refuses a second backward pass.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        normaliser = torch.cat([block.to(dtype).logsumexp(-1) for block in logits.split(_block_rows(logits))])
        ctx.save_for_backward(logits, ids, normaliser)
        return normaliser - logits.gather(1, ids[:, None])[:, 0].to(dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        logits, ids, normaliser = ctx.saved_tensors
        blocks = (tensor.split(_block_rows(logits)) for tensor in (logits, ids, normaliser, gradient))
        for block, wanted, norm, scale in zip(*blocks, strict=True):
            exact = block.to(norm.dtype)  # the block itself if its type is that
            exact.sub_(norm[:, None]).exp_()  # probabilities
            exact.scatter_add_(1, wanted[:, None], -torch.ones_like(exact[:, :1]))
            exact.mul_(scale[:, None])
            if exact is not block:
                block.copy_(exact)
        return logits, None


def _block_rows(logits: Tensor) -> int:
    return BLOCK_ROWS.get(logits.device.type, BLOCK_ROWS_OF_OTHERS)
