"""LLaDA-V's sampling loop as it stands (`generate_with_embeds`, You et al. 2025): what the benchmark compares with.

One prompt at a time. Every step finds the masked places again by comparing embeddings, runs prompt and canvas through
the trunk without a cache and without an attention mask, puts all rows through the head and a float64 softmax, and looks
for stop sequences in Python. Left out is what is off by default there: guidance, temperature, random remasking, suffix;
and autocast, so the model computes in its own dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Report:
    """What was written, and what it took.

    ids      [n] tokens before the first stop sequence, or all of the canvas
    steps    denoising steps, one forward pass each
    seconds  of all steps: in the trunk, in the head, in argmax and softmax
    """

    ids: Tensor
    steps: int
    seconds: dict[str, float]


@torch.no_grad()
def generate(
    model,
    prompt: Tensor,
    gen_length: int,
    block_length: int,
    steps: int,
    forbidden: list[int],
    stop_sequences: list[list[int]] = (),
    clock: Callable[[], float] = lambda: 0.0,
) -> Report:
    """The report for one embedded prompt [1, P, D]. `forbidden` ids are never written; `clock` gives the time."""
    P, num_blocks = prompt.shape[1], gen_length // block_length
    assert gen_length % block_length == 0 and steps % num_blocks == 0
    mask_token = torch.tensor([[model.diffusion.mask_token_id]], device=prompt.device)
    mask_embed = model.embed(mask_token)  # [1, 1, D]
    embeds = torch.cat([prompt, mask_embed.expand(-1, gen_length, -1)], dim=1)  # [1, L, D]
    ids = mask_token.repeat(1, P + gen_length)  # [1, L]; the prompt is known by its embeddings alone
    report, stop = Report(ids, 0, {"trunk": 0.0, "head": 0.0, "softmax": 0.0}), None
    for start in range(P, P + gen_length, block_length):
        end = start + block_length
        if stop is not None and stop <= start:
            break
        for count in transfer_counts(equals(embeds[:, start:end], mask_embed), steps // num_blocks):
            masked = equals(embeds, mask_embed)  # [1, L]
            if not masked[0, start:end].any() or (stop is not None and not masked[0, P:stop].any()):
                break
            tokens, confidence = predict(model, embeds, masked, forbidden, report.seconds, clock)  # [1, L] each
            confidence[:, end if stop is None else stop :] = float("-inf")
            confidence.masked_fill_(~masked, float("-inf"))
            chosen = confidence[0].topk(count).indices
            embeds[:, chosen], ids[:, chosen] = model.embed(tokens[:, chosen]), tokens[:, chosen]
            found = first_stop(ids[0, P:].tolist(), stop_sequences)
            stop = stop if found is None else P + found
            report.steps += 1
    report.ids = ids[0, P:stop]
    return report


def equals(embeds: Tensor, mask_embed: Tensor) -> Tensor:
    """Which embeddings [1, n, D] are those of the mask token, [1, n]."""
    return ((embeds - mask_embed).abs() < 1e-5).all(dim=-1)


def transfer_counts(masked: Tensor, steps: int) -> list[int]:
    """Tokens to commit at each step of a block [1, block_length], the larger shares first."""
    each, more = divmod(int(masked.sum()), steps)
    return [each + (step < more) for step in range(steps)]


def predict(model, embeds: Tensor, masked: Tensor, forbidden: list[int], seconds: dict, clock) -> tuple[Tensor, Tensor]:
    """The best token of every place, prompt included, and its probability in float64: [1, L] each."""
    times = [clock()]
    position = torch.arange(embeds.shape[1], device=embeds.device)[None]
    hidden = model.trunk(embeds, None, position)
    times.append(clock())
    logits = model.lm_head(hidden)  # [1, L, V]
    times.append(clock())
    for token in forbidden:
        logits[..., token].masked_fill_(masked, float("-inf"))
    tokens = logits.argmax(dim=-1)
    confidence = logits.softmax(dim=-1, dtype=torch.float64).gather(-1, tokens[..., None])[..., 0]
    times.append(clock())
    for name, begun, ended in zip(("trunk", "head", "softmax"), times, times[1:], strict=False):
        seconds[name] += ended - begun
    return tokens, confidence


def first_stop(ids: list[int], stop_sequences: list[list[int]]) -> int | None:
    """Where the earliest stop sequence begins."""
    places = range(len(ids))
    return next((i for i in places if any(ids[i : i + len(stop)] == stop for stop in stop_sequences)), None)
