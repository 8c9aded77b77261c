"""The training losses the long way: every view is a sequence of its own, one sample at a time, nothing padded."""

import torch
from torch import Tensor

from oracles.attention import BLOCKWISE, one_sequence, place_of_prediction


def hidden_states(model, embeds: Tensor, sees: list[list[bool]]) -> Tensor:
    """Hidden states [L, D] of one sequence of embeddings [L, D] whose tokens see each other as `sees` says, in layers
    with a window only if they are near each other.
    """
    config, masks = model.config, torch.tensor(sees)[None, None]
    if hasattr(config, "layer_types"):
        window = config.sliding_window or len(sees)  # asked once: configs of transformers answer slowly
        near = [[abs(q - k) < window for k in range(len(sees))] for q in range(len(sees))]
        kinds = {"full_attention": masks, "sliding_attention": masks & torch.tensor(near)}
        masks = {kind: kinds[kind] for kind in config.layer_types}
    position = torch.arange(len(embeds))[None]
    output = model.model(inputs_embeds=embeds[None], attention_mask=masks, position_ids=position, use_cache=False)
    return output.last_hidden_state[0]


def writable(config) -> list[int]:
    """The ids that may be written: those of the tokenizer, without the mask token and what the config rules out."""
    excluded = {config.mask_token_id, *(config.unwritable_token_ids or [])}
    return [token for token in range(config.num_tokens) if token not in excluded]


def writable_logits(model, hidden: Tensor) -> Tensor:
    """Logits [V] of one hidden state [D], -inf on ids that must not be written."""
    logits = model.lm_head(hidden)
    if cap := getattr(model.config, "final_logit_softcapping", None):
        logits = cap * (logits / cap).tanh()
    out = torch.full_like(logits, float("-inf"))
    out[writable(model.config)] = logits[writable(model.config)]
    return out


def view_losses(model, prompt: Tensor, response: list[int], view: set[int]) -> dict[int, Tensor]:
    """The loss of every token of `view`, the places of one response that are masked, after a prompt [P, D]."""
    config = model.config
    P, R = len(prompt), len(response)
    noisy = [config.mask_token_id if i in view else token for i, token in enumerate(response)]
    if config.attention_pattern in BLOCKWISE:  # one sequence per block: prompt, clean earlier blocks, the noisy block
        starts = range(0, R, config.block_length)
        sequences = [response[:start] + noisy[start : start + config.block_length] for start in starts]
    else:
        starts, sequences = [0], [noisy]
    losses = {}
    for start, ids in zip(starts, sequences, strict=True):
        sees = one_sequence(config.attention_pattern, P, len(ids), config.block_length)
        hidden = hidden_states(model, torch.cat([prompt, model.embed(torch.tensor(ids))]), sees)
        for i in range(start, len(ids)):
            if i in view:
                logits = writable_logits(model, hidden[place_of_prediction(config.attention_pattern, P + i)])
                losses[i] = logits.logsumexp(dim=-1) - logits[response[i]]
    return losses


def training_losses(model, prompt: Tensor, response: list[int], masked: set[int], paired: bool) -> dict[int, Tensor]:
    """The loss of every predicted token of one sample: of M, and of the rest in a second view with `paired`, without it
    under `causal_block` as the next token after a clean text.
    """
    losses = view_losses(model, prompt, response, masked)
    rest = set(range(len(response))) - masked
    if paired:
        losses |= view_losses(model, prompt, response, rest)
    elif model.config.attention_pattern == "causal_block" and rest:
        losses |= next_token_losses(model, prompt, response, rest)
    return losses


def next_token_losses(model, prompt: Tensor, response: list[int], places: set[int]) -> dict[int, Tensor]:
    """The loss of the tokens at these places of a response, each given the prompt [P, D] and those before it."""
    P, R = len(prompt), len(response)
    sees = [[k < P or k <= q for k in range(P + R)] for q in range(P + R)]
    hidden = hidden_states(model, torch.cat([prompt, model.embed(torch.tensor(response))]), sees)
    for_places = {i: writable_logits(model, hidden[P + i - 1]) for i in places}
    return {i: logits.logsumexp(dim=-1) - logits[response[i]] for i, logits in for_places.items()}
