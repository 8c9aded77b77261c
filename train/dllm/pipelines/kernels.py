"""The attention kernel by the kind of mask: FlexAttention for block masks, SDPA for boolean ones and for none.

SDPA cannot cap scores (Gemma 2: s -> c tanh(s / c)); there they are computed as they stand.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

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
    if isinstance(attention_mask, BlockMask):
        kernel = flex_attention_forward
    else:
        kernel = sdpa_attention_forward if kwargs.get("softcap") is None else capped_attention_forward
    return kernel(module, query, key, value, attention_mask, **kwargs)


def capped_attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention whose scores lie within -softcap and softcap; the softmax is in fp32 or better."""
    key, value = (repeat_kv(each, module.num_key_value_groups) for each in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap  # [B, heads, L, keys]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
    weights = torch.nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(BY_MASK, attention_by_mask)
