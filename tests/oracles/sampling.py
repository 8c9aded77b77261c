"""Denoising the long way: one row at a time, everything recomputed at every step, one place after another."""

import numpy as np
import torch
from torch import Tensor

from oracles.attention import BLOCKWISE, one_sequence, place_of_prediction
from oracles.training import hidden_states, writable, writable_logits


def most_steps(gen_steps: int | None, blocks: int, block_length: int) -> int:
    """Steps that a block may take."""
    return block_length if gen_steps is None else min((gen_steps + blocks - 1) // blocks, block_length)


def steps_of_a_block(num_open: int, gen_steps: int | None, blocks: int, block_length: int) -> list[int]:
    """How many tokens each step of a block commits: its open places shared out, the larger shares first."""
    if num_open == 0:
        return []
    shares = [0] * min(most_steps(gen_steps, blocks, block_length), num_open)
    for token in range(num_open):
        shares[token % len(shares)] += 1
    return shares


def passes(logits: Tensor, u: float) -> int:
    """The token at which the running sum of the probabilities passes u."""
    total = 0.0
    probabilities = logits.softmax(-1).tolist()
    for token, probability in enumerate(probabilities):
        total += probability
        if total > u:
            return token
    return max(token for token, probability in enumerate(probabilities) if probability > 0)


def block_hidden(model, prompt: Tensor, canvas: list[int], block: int, block_length: int) -> Tensor:
    """Hidden states [block_length, D] where a block's tokens are predicted, from a full pass over all it may see."""
    pattern = model.config.attention_pattern
    start, stop = block * block_length, (block + 1) * block_length
    seen = canvas[:stop] if pattern in BLOCKWISE else canvas
    sees = one_sequence(pattern, len(prompt), len(seen), block_length)
    hidden = hidden_states(model, torch.cat([prompt, model.embed(torch.tensor(seen))]), sees)
    return hidden[[place_of_prediction(pattern, len(prompt) + place) for place in range(start, stop)]]


def settle(canvas: list[int], todo: list[int], config) -> None:
    """Once a stop token is written, the rest of the row is the tail."""
    for place, token in enumerate(canvas):
        if place not in todo and token in config.stop_token_ids:
            canvas[place + 1 :] = [config.tail_token_id] * (len(canvas) - place - 1)
            todo[:] = [other for other in todo if other < place]
            return


def number_to_commit(confidences: list[float], share: int, threshold: float | None, factor: float | None) -> int:
    """How many of the candidates, sorted from the most confident one, a step commits."""
    if threshold is not None:
        return max(1, sum(confidence >= threshold for confidence in confidences))
    if factor is not None:
        enough = [n for n, confidence in enumerate(confidences, 1) if (n + 1) * (1 - confidence) < factor]
        return max(enough, default=1)
    return share


@torch.no_grad()
def sample(
    model,
    prompt: Tensor,
    gen_length: int,
    block_length: int,
    gen_steps: int | None = None,
    threshold: float | None = None,
    factor: float | None = None,
    remasking: str = "low_confidence",
    cfg_scale: float = 0.0,
    temperature: float = 0.0,
    seed: int = 0,
    initial_canvas: list[int] = (),
) -> tuple[list[int], int]:
    """The response to one embedded prompt [P, D], and the number of steps that it took."""
    config = model.config
    blocks = (gen_length + block_length - 1) // block_length
    canvas = [config.mask_token_id] * (blocks * block_length)
    canvas[: len(initial_canvas)] = initial_canvas
    todo = [place for place, token in enumerate(canvas) if token == config.mask_token_id]
    last_given = max((place for place in range(len(canvas)) if place not in todo), default=-1)
    settle(canvas, todo, config)
    no_prompt = model.embed(torch.full((len(prompt),), config.mask_token_id))
    num_steps = 0
    for block in range(blocks):
        places = [place for place in todo if place // block_length == block]
        if threshold is None and factor is None:
            shares = steps_of_a_block(len(places), gen_steps, blocks, block_length)
        else:
            shares = [1] * block_length
        uniform = np.random.default_rng([seed, block])
        uniform = uniform.random((most_steps(gen_steps, blocks, block_length), 2, block_length))
        for step, share in enumerate(shares):
            places = [place for place in todo if place // block_length == block]
            if not places:
                break
            num_steps += 1
            hidden = block_hidden(model, prompt, canvas, block, block_length)
            if cfg_scale:
                hidden_without = block_hidden(model, no_prompt, canvas, block, block_length)
            candidates = []
            for place in places:
                i = place - block * block_length
                logits = writable_logits(model, hidden[i]).double()
                if cfg_scale:
                    ids = writable(config)
                    without = writable_logits(model, hidden_without[i]).double()
                    logits[ids] = without[ids] + (cfg_scale + 1) * (logits[ids] - without[ids])
                if place < last_given:
                    logits[config.stop_token_ids] = float("-inf")
                token = int(logits.argmax())
                if temperature > 0:
                    token = passes(logits / temperature, uniform[step, 0, i])
                confidence = uniform[step, 1, i] if remasking == "random" else float(logits.softmax(-1)[token])
                candidates.append((confidence, place, token))
            candidates.sort(key=lambda candidate: (-candidate[0], candidate[1]))
            count = number_to_commit([candidate[0] for candidate in candidates], share, threshold, factor)
            for _, place, token in candidates[:count]:
                canvas[place] = token
                todo.remove(place)
            settle(canvas, todo, config)
        assert not [place for place in todo if place // block_length == block]
    return canvas[:gen_length], num_steps
