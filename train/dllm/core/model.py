"""What the core asks of a model, and the settings that every masked-diffusion language model carries in its config."""

from dataclasses import dataclass
from typing import Protocol

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import Cache

from dllm.core.attention import LayerMasks
from dllm.core.decoding import Decoding
from dllm.core.patterns import PATTERNS


class MaskedDiffusionModel(Protocol):
    """The three calls of the core. `diffusion` is the config that holds the settings checked below."""

    diffusion: object

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., D] of ids [...]."""

    def trunk(self, embeds: Tensor, mask: LayerMasks, position: Tensor, cache: Cache | None = None, **extras) -> Tensor:
        """Hidden states [B, n, D] of embeddings [B, n, D] at `position` [..., B, n].

        `mask` [B, 1, n, keys] is True where a token may attend, None if it may everywhere; a BlockMask tells the same
        to FlexAttention. A model with windows is given a dict of them, by the type of layer. The keys are the tokens
        themselves, or what `cache.update` returns for them.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]; -inf on ids that must never be written."""


@strict
@dataclass(kw_only=True)
class DiffusionSettings:
    """The settings that masked diffusion adds to the config of a transformers language model.

    mask_token_id           what stands for a token that is yet to be written
    num_tokens              ids of the tokenizer, the mask included: the rows of the embedding beyond it are padding
    stop_token_ids          each of them ends a response
    tail_token_id           fills what follows the stop token
    unwritable_token_ids    further ids that no response holds, such as marks of what a prompt is given beside text
    decoding_defaults       arguments of `dllm.core.decoding.Decoding` in use where none are given: {"threshold": 0.7}
    """

    attention_pattern: str = "bidirectional"
    block_length: int = 32
    gen_length: int = 256
    mask_token_id: int | None = None
    num_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    tail_token_id: int | None = None
    unwritable_token_ids: list[int] | None = None
    decoding_defaults: dict | None = None


def check_diffusion_settings(config) -> None:
    """Raises ValueError, naming the setting, if a config cannot drive masked diffusion (`DiffusionSettings`)."""
    if config.attention_pattern not in PATTERNS:
        raise ValueError(f"attention_pattern {config.attention_pattern!r} is unknown; known: {', '.join(PATTERNS)}")
    for name in ("block_length", "gen_length"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    special = {"mask_token_id": config.mask_token_id, "tail_token_id": config.tail_token_id}
    special |= {f"stop_token_ids[{i}]": token for i, token in enumerate(config.stop_token_ids or [None])}
    for name, token in special.items():
        if token is None or not 0 <= token < config.vocab_size:
            raise ValueError(f"{name} {token} is outside the vocabulary of {config.vocab_size}; set it in the config")
    if not max(special.values()) < (config.num_tokens or 0) <= config.vocab_size:
        raise ValueError(
            f"num_tokens {config.num_tokens} must lie above the special tokens (up to {max(special.values())}) "
            f"and within the vocabulary of {config.vocab_size}; set it in the config"
        )
    for token in config.unwritable_token_ids or ():
        if not 0 <= token < config.num_tokens or token in (*config.stop_token_ids, config.tail_token_id):
            raise ValueError(f"unwritable_token_ids: {token} must be a token, and none that ends a response")
    if config.decoding_defaults:
        try:
            Decoding.of(config)
        except ValueError as error:
            raise ValueError(f"decoding_defaults of the config: {error}") from None


def exclude_unwritable(logits: Tensor, config) -> Tensor:
    """Sets logits [..., V] to -inf, in place, on the mask token, unwritable ids, and those the tokenizer does not have.

    Autograd is not told, which would cost it a copy of the gradient: whatever has probability 0 gets none.
    """
    with torch.no_grad():
        for token in (config.mask_token_id, *(config.unwritable_token_ids or ())):
            logits[..., token] = float("-inf")
        logits[..., config.num_tokens :] = float("-inf")
    return logits
