"""Denoising the long way: one row at a time, everything recomputed at every step, one place after another."""

import numpy as np
import torch
from torch import Tensor

from oracles.attention import one_sequence
from oracles.training import hidden_states, writable, writable_logits


def steps_of_a_block(gen_length: int, block_length: int, gen_steps: int | None) -> list[int]:
    """How many tokens each step of a block commits: its length shared out, the larger shares first."""
    blocks = (gen_length + block_length - 1) // block_length
    steps = block_length if gen_steps is None else min((gen_steps + blocks - 1) // blocks, block_length)
    shares = [0] * steps
    for token in range(block_length):
        shares[token % steps] += 1
    return shares


def block_hidden(model, prompt: Tensor, canvas: list[int], block: int, block_length: int) -> Tensor:
    """Hidden states [block_length, D] of a block, from a full pass over all that it may see."""
    pattern = model.config.attention_pattern
    start, stop = block * block_length, (block + 1) * block_length
    seen = canvas[:stop] if pattern == "block" else canvas
    sees = one_sequence(pattern, len(prompt), len(seen), block_length)
    hidden = hidden_states(model, torch.cat([prompt, model.embed(torch.tensor(seen))]), sees)
    return hidden[len(prompt) + start : len(prompt) + stop]


@torch.no_grad()
def sample(
    model,
    prompt: Tensor,
    gen_length: int,
    block_length: int,
    gen_steps: int | None = None,
    threshold: float | None = None,
    remasking: str = "low_confidence",
    cfg_scale: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[int]:
    """The response to one embedded prompt [P, D]."""
    config = model.config
    blocks = (gen_length + block_length - 1) // block_length
    canvas = [config.mask_token_id] * (blocks * block_length)
    no_prompt = model.embed(torch.full((len(prompt),), config.mask_token_id))
    quotas = steps_of_a_block(gen_length, block_length, gen_steps) if threshold is None else [1] * block_length
    for block in range(blocks):
        todo = list(range(block * block_length, (block + 1) * block_length))
        for step, quota in enumerate(quotas):
            if not todo:
                break
            rng = np.random.default_rng([seed, block, step])
            if temperature > 0:
                gumbel = rng.gumbel(size=(block_length, config.vocab_size))
            if remasking == "random":
                lots = rng.random(block_length)
            hidden = block_hidden(model, prompt, canvas, block, block_length)
            if cfg_scale:
                hidden_without = block_hidden(model, no_prompt, canvas, block, block_length)
            candidates = []
            for place in todo:
                i = place - block * block_length
                logits = writable_logits(model, hidden[i]).double()
                if cfg_scale:
                    ids = writable(config)
                    without = writable_logits(model, hidden_without[i]).double()
                    logits[ids] = without[ids] + (cfg_scale + 1) * (logits[ids] - without[ids])
                scores = logits
                if temperature > 0:
                    scores = logits / temperature + torch.from_numpy(gumbel[i])
                token = int(scores.argmax())
                confidence = lots[i] if remasking == "random" else float(logits.softmax(-1)[token])
                candidates.append((confidence, place, token))
            candidates.sort(key=lambda candidate: (-candidate[0], candidate[1]))
            for rank, (confidence, place, token) in enumerate(candidates):
                if rank < quota or (threshold is not None and confidence >= threshold):
                    canvas[place] = token
                    todo.remove(place)
        assert not todo
        if any(token in config.stop_token_ids for token in canvas[block * block_length : (block + 1) * block_length]):
            break
    for place, token in enumerate(canvas):
        if token in config.stop_token_ids:
            canvas[place + 1 :] = [config.tail_token_id] * (len(canvas) - place - 1)
            break
    return canvas[:gen_length]
