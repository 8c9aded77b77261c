"""The attention kernel by the kind of mask: FlexAttention for block masks, SDPA for all others and for none.

SDPA cannot cap scores (Gemma 2: s -> c tanh(s / c)); there they are computed as they stand.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

BY_MASK = "by_mask"  # the name under which transformers' attention modules find it


def attention_by_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | BlockMask | None, **kwargs
) -> tuple[Tensor, Tensor | None]:
    """Attention with transformers' interface: query, key, value [B, heads, L, d] to [B, L, heads, d]."""
    if isinstance(attention_mask, BlockMask):
        kernel = flex_attention_forward
    elif attention_mask is not None and attention_mask.is_floating_point():
        kernel = shared_attention_forward
    else:
        kernel = sdpa_attention_forward if kwargs.get("softcap") is None else capped_attention_forward
    return kernel(module, query, key, value, attention_mask, **kwargs)


def shared_mask(mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """A boolean mask [B, 1, n, keys] as `shared_attention_forward` takes it, [B, 1, groups * n, keys]: once for all
    layers, where SDPA would make it anew in each.
    """
    added = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    return added.repeat(1, 1, groups, 1)


def shared_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **kwargs
) -> tuple[Tensor, None]:
    """Attention without a copy of the keys for each of the heads that share them: those heads are more queries."""
    B, heads, n, width = query.shape
    query = query.reshape(B, key.shape[1], -1, width)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.view(B, heads, n, width).transpose(1, 2).contiguous(), None


def capped_attention_forward(
    module: nn.Module,
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
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(BY_MASK, attention_by_mask)
