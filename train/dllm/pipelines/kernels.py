"""The attention kernel by the kind of mask: FlexAttention for block masks, SDPA for boolean ones and for none."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BY_MASK = "by_mask"  # the name under which transformers' attention modules find it


def attention_by_mask(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """Attention with transformers' interface: query, key, value [B, heads, L, d] to [B, L, heads, d]."""
    kernel = flex_attention_forward if isinstance(attention_mask, BlockMask) else sdpa_attention_forward
    return kernel(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(BY_MASK, attention_by_mask)
