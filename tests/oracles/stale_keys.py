"""Fast-dLLM's and dLLM-Cache's approximations the long way: one row, one token a step, and transformers' own growing
cache, put together anew at every step from the keys and values that were kept.
"""

import torch
from torch import Tensor
from transformers import DynamicCache

from oracles.training import writable_logits


def forward(model, embeds: Tensor, places: list[int], kept: list[tuple], outside: list[int]) -> tuple[Tensor, list]:
    """Hidden states [n, D] of the tokens at `places`, which see the kept keys at `outside` and themselves; and their
    own keys and values, per layer.
    """
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(kept):
        if outside:
            cache.update(keys[:, :, outside], values[:, :, outside], layer)
    masks = dict.fromkeys(model.config.layer_types, torch.ones(1, 1, len(places), len(outside) + len(places)).bool())
    output = model.model(
        inputs_embeds=embeds[None], attention_mask=masks, position_ids=torch.tensor([places]), past_key_values=cache
    )
    own = slice(len(outside), None)
    return output.last_hidden_state[0], [(layer.keys[:, :, own], layer.values[:, :, own]) for layer in cache.layers]


def refreshed(cache: str, step: int, P: int, length: int, block: range, intervals: tuple[int, int]) -> list[int]:
    """The places, prompt included, that are computed anew at a step of a block."""
    everything, response = list(range(P + length)), list(range(P, P + length))
    here = [P + place for place in block]
    if step == 0:
        return everything
    if cache == "fastdllm_prefix":
        return list(range(P + block.start, P + length))
    if cache == "fastdllm_dual":
        return here
    if step % intervals[0] == 0:
        return everything
    return response if step % intervals[1] == 0 else here


@torch.no_grad()
def sample_with_stale_keys(model, prompt: Tensor, length: int, block_length: int, cache: str, intervals=(25, 7)):
    """The canvas of `length` tokens after one embedded prompt [P, D], and how many steps reused stale keys."""
    config, P = model.config, len(prompt)
    canvas = [config.mask_token_id] * length
    kept = [(torch.zeros(0),) * 2] * config.num_hidden_layers
    num_stale = 0
    for start in range(0, length, block_length):
        block = range(start, start + block_length)
        for step in range(block_length):
            embeds = torch.cat([prompt, model.embed(torch.tensor(canvas))])
            places = refreshed(cache, step, P, length, block, intervals)
            outside = [place for place in range(P + length) if place not in places]
            num_stale += len(outside) > 0
            hidden, fresh = forward(model, embeds[places], places, kept, outside)
            if outside:
                for (keys, values), (new_keys, new_values) in zip(kept, fresh, strict=True):
                    keys[:, :, places], values[:, :, places] = new_keys, new_values
            else:
                kept = fresh
            best = None
            for place in block:
                if canvas[place] != config.mask_token_id:
                    continue
                logits = writable_logits(model, hidden[places.index(P + place)]).double()
                confidence, token = logits.softmax(-1).max(-1)
                if best is None or confidence > best[0]:
                    best = (confidence, place, int(token))
            canvas[best[1]] = best[2]
    return canvas, num_stale
