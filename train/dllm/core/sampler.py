"""The denoising loop: a response starts as mask tokens after its prompt and is filled block by block; every step
commits the most confident candidates of the block (Nie et al. 2025, LLaDA; Wu et al. 2025, Fast-dLLM).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dllm.core.cache import CachedTrunk
from dllm.core.decoding import Decoding
from dllm.core.model import MaskedDiffusionModel
from dllm.core.patterns import NO_PROMPT, SHIFTED
from dllm.core.prompt import Prompt
from dllm.core.selection import apply_cfg, fill_after_stop, is_any, sample_candidates, select_tokens, step_quota

AT_WORK = 0.75  # rows of a block go on without those that have filled it, if they are at most such a share of both


@dataclass
class Generation:
    """What was written, and what it took.

    ids      [B, gen_length], the tail token after each row's stop token
    lengths  [B] tokens up to and including the stop token
    steps    [B] denoising steps in which a position of the row was open
    passes   forward passes of a step: 2 with guidance, else 1
    """

    ids: Tensor
    lengths: Tensor
    steps: Tensor
    passes: int

    @property
    def nfe(self) -> Tensor:
        """Forward passes that wrote each row, [B]."""
        return self.steps * self.passes


@dataclass
class Step:
    """The canvas after a denoising step; its tensors are the sampler's own, and the next step changes them.

    canvas      ids, [B, R]
    masked      what is still to be written, [B, R]
    confidence  the probability that each written token was committed with, in fp32 or better; 0 if it was given, [B, R]
    """

    canvas: Tensor
    masked: Tensor
    confidence: Tensor


def generate(
    model: MaskedDiffusionModel,
    prompt: Prompt,
    decoding: Decoding,
    seeds: list[int] | None = None,
    unconditional: Prompt | None = None,
    initial_canvas: Tensor | None = None,
    on_step: Callable[[Tensor, Tensor], None] | None = None,
) -> Generation:
    """Writes one response per prompt: `denoise`, run to its end.

    `on_step` is called after every step with the canvas [B, R] and the mask of what is still to be written.
    """
    return finish(denoise(model, prompt, decoding, seeds, unconditional, initial_canvas), on_step)


def finish(steps: Generator[Step, None, Any], on_step: Callable[[Tensor, Tensor], None] | None = None) -> Any:
    """Runs steps to their end, whose value it returns; `on_step` as in `generate`."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if on_step:
            on_step(step.canvas, step.masked)


@torch.no_grad()
def denoise(
    model: MaskedDiffusionModel,
    prompt: Prompt,
    decoding: Decoding,
    seeds: list[int] | None = None,
    unconditional: Prompt | None = None,
    initial_canvas: Tensor | None = None,
) -> Generator[Step, None, Generation]:
    """Writes one response per prompt, and yields after every step.

    Rows are independent: `seeds` [B] key each row's randomness (default: the row's number), and rows that have stopped
    leave the batch at the end of a block. `unconditional` is the second prompt of guidance (default: mask embeddings).
    `initial_canvas` [B, n] holds tokens that stay where they are, and mask tokens where the model is to write.
    Raises ValueError, at the first step and before any work, if the arguments do not fit each other.
    """
    config = model.diffusion
    B, device = len(prompt.valid), prompt.valid.device
    seeds = list(range(B)) if seeds is None else seeds
    if len(seeds) != B:
        raise ValueError(f"{len(seeds)} seeds for {B} prompts: give one each")
    canvas, is_masked, may_stop = start(model, prompt, decoding, initial_canvas)  # [B, R] each
    prompts = [prompt]
    if decoding.cfg_scale:
        if unconditional is None and decoding.cfg_against == "blank_inputs":
            raise ValueError("cfg_against 'blank_inputs' is for models that are given more than text; leave it out")
        mask_embed = model.embed(torch.tensor(config.mask_token_id, device=device))
        prompts.append(unconditional or prompt.masked(mask_embed))
    contexts = [CachedTrunk(model, each, decoding) for each in prompts]
    confidence = torch.zeros(canvas.shape, dtype=torch.promote_types(prompt.embeds.dtype, torch.float32), device=device)
    state = canvas, is_masked, confidence, torch.zeros(B, dtype=torch.long, device=device)
    rows = torch.arange(B, device=device)  # those that are still being written
    for block in range(decoding.num_blocks):
        drawn = _draw(decoding, [seeds[row] for row in rows.tolist()], block).to(device)  # [steps, 2, b, block_length]
        state = yield from _write_block(model, decoding, contexts, state, rows, may_stop, drawn, block)
        rows = without_finished(rows, state[1], contexts, decoding)
        if len(rows) == 0:
            break
    canvas, *_, steps = state
    return ended(canvas, steps, len(contexts), decoding, config)


def ended(canvas: Tensor, steps: Tensor, passes: int, decoding: Decoding, config) -> Generation:
    """What was written to a canvas [B, R] in `steps` [B] of so many passes."""
    ids = canvas[:, : decoding.gen_length]
    before_stop = is_any(ids, config.stop_token_ids).long().cumsum(dim=1) == 0
    lengths = (before_stop.sum(dim=1) + 1).clamp(max=decoding.gen_length)
    return Generation(ids, lengths, steps, passes)


def _write_block(
    model: MaskedDiffusionModel,
    decoding: Decoding,
    contexts: list[CachedTrunk],
    state: tuple[Tensor, ...],
    rows: Tensor,
    may_stop: Tensor,
    drawn: Tensor,
    block: int,
) -> Generator[Step, None, tuple[Tensor, ...]]:
    """The steps of a block for `rows` [b], given numbers `drawn` [steps, 2, b, block_length]; returns the state of all
    rows. Those whose block is full rest until the next one, once they are enough to pay for copies of the others' keys.
    """
    B, device = len(state[0]), rows.device
    part = torch.arange(block * decoding.block_length, (block + 1) * decoding.block_length, device=device)
    at_start = state[1][rows][:, part].sum(dim=1)  # [b]
    numbers = torch.arange(decoding.steps_per_block, device=device)
    quotas = step_quota(at_start, decoding.steps_per_block, numbers[:, None])  # [steps, b]
    for step in range(decoding.steps_per_block):
        masked = state[1][rows][:, part]  # [b, block_length]
        if decoding.compile:
            count = _most_to_predict(masked, decoding, step)
        else:
            counts = masked.sum(dim=1).tolist()
            count, at_work = sum(counts), [row for row, number in enumerate(counts) if number]
            if 0 < len(at_work) <= AT_WORK * len(rows):
                kept = torch.tensor(at_work, device=device)
                rows, contexts = rows[kept], [context.only(kept) for context in contexts]
                quotas, drawn = quotas[:, kept], drawn[:, :, kept]
        if count == 0:
            break
        written = state if len(rows) == B else tuple(each[rows] for each in state)
        hidden = [context.block_hidden(written[0], block, step) for context in contexts]  # [b, block_length, D]
        if step == 0:  # once a block: it waits for the device
            check_finite(hidden)
        written = contexts[0].run(
            (decoding, count), partial(_commit, model, decoding, count),
            hidden, written, may_stop[rows], quotas[step], drawn[step], part,
        )  # fmt: skip
        if len(rows) < B:
            written = tuple(each.index_put((rows,), new) for each, new in zip(state, written, strict=True))
        state = written
        yield Step(*state[:3])
    return state


def check_finite(hidden: list[Tensor]) -> None:
    """Raises ValueError if the model has no opinion: an argmax over NaN would be taken for one."""
    if not all(each.isfinite().all() for each in hidden):
        raise ValueError(
            "the model's hidden states hold NaN or infinite numbers: its weights or inputs are damaged, or too large "
            "for this dtype; try float32"
        )


def check_initial_canvas(config, decoding: Decoding, num_prompts: int, initial: Tensor | None) -> None:
    """Raises ValueError if an initial canvas [B, n] cannot be the start of `num_prompts` responses."""
    if initial is None:
        return
    if initial.dim() != 2 or len(initial) != num_prompts:
        raise ValueError(
            f"an initial canvas of {len(initial)} rows for {num_prompts} prompts: give a row of ids to each"
        )
    if initial.shape[1] > decoding.gen_length:
        raise ValueError(
            f"an initial canvas of {initial.shape[1]} tokens is longer than gen_length {decoding.gen_length}"
        )
    if initial.numel() and not 0 <= int(initial.min()) <= int(initial.max()) < config.num_tokens:
        raise ValueError(f"an initial canvas holds ids beyond the tokenizer's {config.num_tokens} tokens")
    given = initial != config.mask_token_id
    filled, _ = fill_after_stop(initial, ~given, config)
    if (filled != initial)[given].any():
        raise ValueError("an initial canvas has text after a stop token, where nothing is read: leave one of them out")


def start(
    model: MaskedDiffusionModel, prompt: Prompt, decoding: Decoding, initial: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The canvas [B, R] before the first step, what of it is to be written, and where a stop token may be written.

    Raises ValueError if `initial` cannot be its start, or the pattern needs a prompt and there is none.
    """
    config, (B, _), device = model.diffusion, prompt.valid.shape, prompt.valid.device
    check_initial_canvas(config, decoding, B, initial)
    if config.attention_pattern == SHIFTED and not prompt.valid.any(dim=1).all():
        raise ValueError(NO_PROMPT)
    canvas = torch.full((B, decoding.num_blocks * decoding.block_length), config.mask_token_id, device=device)
    if initial is None:
        everywhere = torch.ones_like(canvas, dtype=torch.bool)
        return canvas, everywhere, everywhere.clone()
    canvas[:, : initial.shape[1]] = initial
    is_masked = canvas == config.mask_token_id
    positions = torch.arange(canvas.shape[1], device=device)
    last_given = positions.where(~is_masked, -1).amax(dim=1, keepdim=True)  # [B, 1]
    return *fill_after_stop(canvas, is_masked, config), positions > last_given


def _most_to_predict(masked: Tensor, decoding: Decoding, step: int) -> int:
    """How many of a block's positions `masked` [b, block_length] a recorded step puts through the head, 0 at the end of
    the block: as many as there can be, for which a quota does not wait for the GPU.
    """
    if decoding.by_confidence:
        return masked.numel() if masked.any() else 0
    each, more = divmod(decoding.block_length, decoding.steps_per_block)
    return masked.numel() - len(masked) * (step * each + min(step, more))


def _commit(
    model: MaskedDiffusionModel,
    decoding: Decoding,
    count: int,
    hidden: list[Tensor],
    state: tuple[Tensor, ...],
    may_stop: Tensor,
    quota: Tensor,
    drawn: Tensor,
    part: Tensor,
) -> tuple[Tensor, ...]:
    """A step after the trunk: canvas, masked positions, confidence [b, R] and steps [b], with what it commits to the
    positions `part` [block_length].
    """
    canvas, is_masked, confidence, steps = state
    ids, masked = canvas[:, part], is_masked[:, part]  # [b, block_length] each
    places = masked.flatten().to(torch.uint8).argsort(descending=True, stable=True)[:count]  # [m], masked ones first
    must_go_on = ~may_stop[:, part].flatten()[places]  # [m]
    of_places = [each.flatten(0, 1)[places] for each in hidden]  # [m, D]
    tokens, found = candidates(model, of_places, must_go_on, decoding, drawn[0].flatten()[places])  # [m]
    proposal = ids.flatten().scatter(0, places, tokens).view_as(ids)
    found = torch.zeros_like(ids, dtype=found.dtype).flatten().scatter(0, places, found).view_as(ids)
    commit = select_tokens(drawn[1] if decoding.remasking == "random" else found, masked, quota, decoding)
    canvas = canvas.index_copy(1, part, torch.where(commit, proposal, ids))
    is_masked = is_masked.index_copy(1, part, masked & ~commit)
    confidence = confidence.index_copy(1, part, found.where(masked, confidence[:, part]))
    return *fill_after_stop(canvas, is_masked, model.diffusion), confidence, steps + masked.any(dim=1)


def candidates(
    model: MaskedDiffusionModel,
    hidden: list[Tensor],
    must_go_on: Tensor,
    decoding: Decoding,
    drawn: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A token for each of the hidden states [m, D], no stop token where `must_go_on` [m], and its confidence, [m] each;
    `drawn` as in `sample_candidates`.
    """
    logits = apply_cfg([model.logits(each) for each in hidden], decoding.cfg_scale)  # [m, V]
    for token in model.diffusion.stop_token_ids:
        logits[:, token].masked_fill_(must_go_on, float("-inf"))
    return sample_candidates(logits, decoding, drawn)


def _draw(decoding: Decoding, seeds: list[int], block: int) -> Tensor:
    """Uniform numbers [steps, 2, b, block_length] of a block: to choose tokens, and the lots of `random` remasking."""
    shape = (decoding.steps_per_block, 2, decoding.block_length)
    if decoding.temperature == 0 and decoding.remasking != "random":
        return torch.zeros(decoding.steps_per_block, 2, len(seeds), decoding.block_length)
    drawn = [np.random.default_rng([seed, block]).random(shape) for seed in seeds]
    return torch.from_numpy(np.stack(drawn, axis=2))


def without_finished(rows: Tensor, is_masked: Tensor, contexts: list[CachedTrunk], decoding: Decoding) -> Tensor:
    """The rows that have something to write, and in a compiled run as many others as keep the batch at a known size."""
    finished = ~is_masked[rows].any(dim=1)
    size = len(rows) - int(finished.sum())
    if decoding.compile and size > 0:  # every whole half of the batch is a known size
        unfinished, size = size, len(rows)
        while size % 2 == 0 and size // 2 >= unfinished:
            size //= 2
    if size == len(rows):
        return rows
    kept = finished.to(torch.uint8).argsort(stable=True)[:size]
    for context in contexts:
        context.keep(kept)
    return rows[kept]
