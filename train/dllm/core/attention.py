"""Attention patterns: who every token of a packed sequence is, and which tokens it may see.

A `Layout` gives each token a role, view, block, position and validity; `allowed` decides from these alone. The same
predicate is broadcast to a boolean mask for SDPA and handed to FlexAttention as a `mask_mod`.

| pattern         | prompt sees | a response token sees                                 |
|-----------------|-------------|-------------------------------------------------------|
| `bidirectional` | everything  | the prompt and its view of the response               |
| `prefix`        | the prompt  | the prompt and its view of the response               |
| `block`         | the prompt  | the prompt, the clean earlier blocks, its own block   |
| `causal_block`  | the prompt  | the same; a clean token only the clean ones before it |

Under `causal_block` a token is predicted in the place of the one before it, as autoregressive models do, for the first
token of a block the clean one (Wu et al. 2025, Fast-dLLM v2): in blocks of 1 that is next-token prediction.

The response may be packed several times after one prompt: once clean (block-wise patterns) and once per noisy view.
Views never see each other. In the sliding layers of a decoder two tokens see each other only if their positions are
less than a window apart, on either side.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from dllm.core.patterns import BLOCKWISE, PATTERNS, SHIFTED

PROMPT, CLEAN, NOISY = 0, 1, 2
SLIDING = "sliding_attention"  # transformers' name for the type of layer that has a window

LayerMasks = Tensor | BlockMask | None | dict[str, Tensor | BlockMask | None]  # one for all layers, or by their type


class Layout(NamedTuple):
    """Roles of a packed batch: `role`, `view`, `block`, `valid` are [B, L]; `position` is [..., B, L]."""

    role: Tensor
    view: Tensor
    block: Tensor
    valid: Tensor
    position: Tensor

    @staticmethod
    def of_prompt(valid: Tensor, position: Tensor) -> "Layout":
        """Layout of left-padded prompts: `valid` [B, P], `position` [..., B, P]."""
        zeros = torch.zeros_like(valid, dtype=torch.long)
        return Layout(zeros + PROMPT, zeros, zeros - 1, valid, position)

    @staticmethod
    def of_response(role: int, view: int, valid: Tensor, position: Tensor, block_length: int) -> "Layout":
        """Layout of one copy of the response: `valid` [B, R], `position` [..., B, R]."""
        zeros = torch.zeros_like(valid, dtype=torch.long)
        block = zeros + torch.arange(valid.shape[1], device=valid.device) // block_length
        return Layout(zeros + role, zeros + view, block, valid, position)

    @staticmethod
    def cat(parts: list["Layout"]) -> "Layout":
        """Packs parts one after another along the sequence."""
        return Layout(*(torch.cat(attribute, dim=-1) for attribute in zip(*parts, strict=True)))

    def keep(self, rows: Tensor) -> "Layout":
        """The layout of these rows of the batch."""
        return Layout(*(attribute[rows] for attribute in self[:-1]), self.position[..., rows, :])

    def with_role(self, part: slice, role: int) -> "Layout":
        """The same layout with another role for a part of the sequence."""
        changed = self.role.clone()
        changed[:, part] = role
        return self._replace(role=changed)

    def mask(
        self, pattern: str, queries: slice = slice(None), keys: slice = slice(None), window: int | None = None
    ) -> Tensor:
        """The boolean attention mask [B, 1, queries, keys], True = may attend (SDPA's convention)."""
        index = torch.arange(self.role.shape[1], device=self.role.device)
        q = Layout(*(attribute[..., queries, None] for attribute in self))
        k = Layout(*(attribute[..., None, keys] for attribute in self))
        return allowed(pattern, q, k, index[queries, None] - index[keys], window)[:, None]

    def block_mask(self, pattern: str, window: int | None = None) -> BlockMask:
        """The same mask for FlexAttention, which skips blocks of pairs that may not attend and stores no pair."""
        # Traced, it knows no `...` as an index; positions of several axes are those of models without windows.
        attributes = self if window is not None else self._replace(position=self.role)

        def mask_mod(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return allowed(pattern, token(row, query), token(row, key), query - key, window)

        def token(row: Tensor, index: Tensor) -> Layout:
            return Layout(*(attribute[row, index] for attribute in attributes))

        B, L = self.role.shape
        return create_block_mask(mask_mod, B, None, L, L, device=self.role.device)


def allowed(pattern: str, q: Layout, k: Layout, ahead: Tensor, window: int | None = None) -> Tensor:
    """True where query `q` may attend to key `k` (broadcast of both), in a layer with a window if one is given; `ahead`
    tells by how many places of the packed sequence the query is ahead of the key.
    """
    to_prompt = k.role == PROMPT
    same_copy = (q.role == k.role) & (q.view == k.view)
    if pattern == "bidirectional":
        sees = to_prompt | (q.role == PROMPT) | same_copy
    elif pattern == "prefix":
        sees = to_prompt | same_copy
    elif pattern in BLOCKWISE:
        earlier_clean = (k.role == CLEAN) & (q.role != PROMPT) & (k.block < q.block)
        own_block = same_copy & (k.block == q.block)
        if pattern == SHIFTED:
            own_block = own_block & ((q.role == NOISY) | (ahead >= 0))
        sees = to_prompt | own_block | earlier_clean
    else:
        raise ValueError(f"unknown attention pattern {pattern!r}; known: {', '.join(PATTERNS)}")
    if window is not None:
        sees = sees & ((q.position - k.position).abs() < window)
    # Padding sees itself, so that no softmax runs over an empty row.
    return (sees & k.valid) | (ahead == 0)


def layer_masks(config, length: int, make: Callable[[int | None], Tensor | BlockMask | None]) -> LayerMasks:
    """`make(None)`, the mask of every layer; for a model with sliding layers a dict of masks by the type of layer.

    `length` tokens are packed: a window that none of them can leave is none.
    """
    kinds = getattr(config, "layer_types", None) or ()
    if SLIDING not in kinds:
        return make(None)
    full = make(None)
    sliding = make(config.sliding_window) if config.sliding_window < length else full
    return {kind: sliding if kind == SLIDING else full for kind in sorted(set(kinds))}
