"""The denoising loop: a response starts as mask tokens after its prompt and is filled block by block; every step
commits the most confident candidates of the block (Nie et al. 2025, LLaDA; Wu et al. 2025, Fast-dLLM: `threshold`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from dllm.core.attention import CLEAN, NOISY, Layout
from dllm.core.model import MaskedDiffusionModel
from dllm.core.prompt import Prompt

REMASKING = ("low_confidence", "random")


@dataclass(frozen=True)
class Decoding:
    """How a response is written.

    gen_length     tokens of the canvas; rounded up to whole blocks while writing, then cut
    block_length   tokens that are filled before the next ones begin
    gen_steps      denoising steps over the whole canvas, shared equally by the blocks (default: one token a step)
    threshold      commit every candidate at least this confident, and always the best one; replaces gen_steps
    remasking      which candidates count as best: `low_confidence` keeps the most probable, `random` any
    cfg_scale      classifier-free guidance: logits = u + (cfg_scale + 1) (c - u), off at 0
    temperature    0 takes the most probable token, otherwise samples from softmax(logits / temperature)
    """

    gen_length: int
    block_length: int
    gen_steps: int | None = None
    threshold: float | None = None
    remasking: str = "low_confidence"
    cfg_scale: float = 0.0
    temperature: float = 0.0

    def __post_init__(self):
        for name in ("gen_length", "block_length", "gen_steps"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and not (name == "gen_steps" and value is None):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("cfg_scale", "temperature"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        if self.threshold is not None and not (isinstance(self.threshold, (int, float)) and 0 < self.threshold <= 1):
            raise ValueError(f"threshold must be in (0, 1], not {self.threshold!r}")
        if self.remasking not in REMASKING:
            raise ValueError(f"unknown remasking {self.remasking!r}; known: {', '.join(REMASKING)}")

    @classmethod
    def of(cls, config, **arguments) -> "Decoding":
        """Decoding arguments over the defaults of a model's config. Raises ValueError on an unknown argument."""
        known = [field.name for field in fields(cls)]
        if unknown := set(arguments) - set(known):
            raise ValueError(f"unknown generation argument {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        return cls(**{"gen_length": config.gen_length, "block_length": config.block_length} | arguments)

    @property
    def num_blocks(self) -> int:
        return -(-self.gen_length // self.block_length)

    def quotas(self) -> list[int]:
        """Tokens to commit at each step of a block. With a threshold, at least one a step."""
        if self.threshold is not None:
            return [1] * self.block_length
        total = self.gen_steps or self.num_blocks * self.block_length
        steps = min(-(-total // self.num_blocks), self.block_length)
        base, extra = divmod(self.block_length, steps)
        return [base + (step < extra) for step in range(steps)]


class FullRecompute:
    """The context of a block, recomputed at every step: the form against which caches have to be exact."""

    def __init__(self, model: MaskedDiffusionModel, prompt: Prompt, block_length: int):
        self.model, self.prompt, self.block_length = model, prompt, block_length

    def block_hidden(self, canvas: Tensor, start: int, stop: int) -> Tensor:
        """Hidden states [B, stop - start, D] of the current block of `canvas` [B, R], given all that it may see."""
        if self.model.diffusion.attention_pattern == "block":
            clean, noisy = start, stop  # later blocks are out of sight
        else:
            clean, noisy = 0, canvas.shape[1]
        ids = canvas[:, :noisy]
        position = self.prompt.response_positions(noisy)
        everywhere = torch.ones_like(ids, dtype=torch.bool)
        response = Layout.of_response(NOISY, 0, everywhere, position, self.block_length)
        response.role[:, :clean] = CLEAN
        layout = Layout.cat([self.prompt.layout(), response])
        embeds = torch.cat([self.prompt.embeds, self.model.embed(ids)], dim=1)  # [B, P + noisy, D]
        P = self.prompt.valid.shape[1]
        return self.model.trunk(embeds, layout, **self.prompt.extras)[:, P + start : P + stop]


@torch.no_grad()
def generate(
    model: MaskedDiffusionModel,
    prompt: Prompt,
    decoding: Decoding,
    seeds: list[int] | None = None,
    unconditional: Prompt | None = None,
    on_step: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Writes one response per prompt; returns ids [B, gen_length], the tail token after each row's stop token.

    Rows are independent: `seeds` [B] key each row's randomness (default: the row's number), and a row that has stopped
    is left alone. `unconditional` is the second prompt of guidance (default: mask embeddings). `on_step` is called
    after every step with the canvas [B, R] and the mask of what is still to be written.
    """
    config = model.diffusion
    B, block_length = prompt.valid.shape[0], decoding.block_length
    seeds = list(range(B)) if seeds is None else seeds
    if len(seeds) != B:
        raise ValueError(f"{len(seeds)} seeds for {B} prompts: give one each")
    device = prompt.valid.device
    canvas = torch.full((B, decoding.num_blocks * block_length), config.mask_token_id, device=device)
    todo = torch.ones_like(canvas, dtype=torch.bool)
    stop_ids = torch.tensor(config.stop_token_ids, device=device)
    contexts = [FullRecompute(model, prompt, block_length)]
    if decoding.cfg_scale:
        mask_embed = model.embed(torch.tensor(config.mask_token_id, device=device))
        contexts.append(FullRecompute(model, unconditional or prompt.masked(mask_embed), block_length))

    finished = torch.zeros(B, dtype=torch.bool, device=device)
    for block in range(decoding.num_blocks):
        start, stop = block * block_length, (block + 1) * block_length
        for step, quota in enumerate(decoding.quotas()):
            open_rows = todo[:, start:stop] & ~finished[:, None]  # [B, block]
            if not open_rows.any():
                break
            hidden = [context.block_hidden(canvas, start, stop)[open_rows] for context in contexts]  # each [n, D]
            logits = _guided([model.logits(h) for h in hidden], decoding.cfg_scale)  # [n, V]
            rngs = [np.random.default_rng([seed, block, step]) for seed in seeds]
            tokens, confidence = _candidates(logits, open_rows, decoding, rngs)  # [n], [B, block]
            commit = _best(confidence, open_rows, quota, decoding.threshold)
            proposal = canvas[:, start:stop].masked_scatter(open_rows, tokens)
            canvas[:, start:stop] = torch.where(commit, proposal, canvas[:, start:stop])
            todo[:, start:stop] &= ~commit
            if on_step:
                on_step(canvas, todo)
        finished |= torch.isin(canvas[:, start:stop], stop_ids).any(dim=1)
    return _fill_tail(canvas, stop_ids, config.tail_token_id)[:, : decoding.gen_length]


def _guided(logits: list[Tensor], scale: float) -> Tensor:
    """Logits in fp32 or better, guided by the unconditional ones if there are any."""
    logits = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in logits]
    if len(logits) == 1:
        return logits[0]
    conditional, unconditional = logits
    guided = unconditional + (scale + 1) * (conditional - unconditional)
    return guided.masked_fill(conditional.isneginf(), float("-inf"))


def _candidates(
    logits: Tensor, open_rows: Tensor, decoding: Decoding, rngs: list[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """The token proposed for each open row, [n], and its confidence in its place, [B, block], -inf elsewhere."""
    scores = logits
    if decoding.temperature > 0:
        gumbel = torch.cat(
            [
                torch.from_numpy(rng.gumbel(size=(len(row), logits.shape[-1])))[row.cpu()]
                for row, rng in zip(open_rows, rngs, strict=True)
            ]
        )  # [n, V]: a whole block is drawn for every row, so that a draw belongs to its place
        scores = logits / decoding.temperature + gumbel.to(logits)
    tokens = scores.argmax(dim=-1)
    confidence = torch.full(open_rows.shape, float("-inf"), dtype=logits.dtype, device=logits.device)
    if decoding.remasking == "random":
        drawn = torch.from_numpy(np.stack([rng.random(open_rows.shape[1]) for rng in rngs])).to(confidence)
        return tokens, torch.where(open_rows, drawn, confidence)
    chosen = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return tokens, confidence.masked_scatter(open_rows, chosen.exp())


def _best(confidence: Tensor, open_rows: Tensor, quota: int, threshold: float | None) -> Tensor:
    """The candidates [B, block] to commit: the `quota` most confident, and all above the threshold."""
    rank = confidence.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    best = rank < quota
    if threshold is not None:
        best |= confidence >= threshold
    return best & open_rows


def _fill_tail(canvas: Tensor, stop_ids: Tensor, tail_token_id: int) -> Tensor:
    """Puts the tail token after the first stop token of each row, over whatever is there."""
    is_stop = torch.isin(canvas, stop_ids)
    after_stop = is_stop.long().cumsum(dim=1) - is_stop.long() > 0
    return canvas.masked_fill(after_stop, tail_token_id)
