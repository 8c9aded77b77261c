"""Self-speculative decoding under `causal_block`: a block is drafted in one step, and what is committed of it is what
the same weights write token by token (Leviathan et al. 2023; within a diffusion model Wu et al. 2026, Fast-dVLM).

A pass feeds every row two blocks: one as clean tokens, whose hidden states tell what follows each of them, and the one
behind it as noise, which drafts it. Where a draft proves right, the row goes on with the next block; where it does not,
the row takes the right token and drafts the rest of the block anew. So the tokens are those of blocks of 1, a wrong
draft costs a pass, and no row waits for another.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm.core.attention import CLEAN, NOISY, PROMPT, Layout, allowed, layer_masks
from dllm.core.cache import CachedTrunk, SlotCache
from dllm.core.decoding import Decoding
from dllm.core.model import MaskedDiffusionModel
from dllm.core.prompt import Prompt
from dllm.core.sampler import AT_WORK, Generation, Step, candidates, check_finite, ended, start
from dllm.core.selection import fill_after_stop


class RowSlots(SlotCache):
    """Keys and values of which every row has slots [B, n] of its own."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        keys, values = self.states[layer_idx]
        slots = self.slots[:, None, :, None].expand_as(key_states)
        return keys.scatter_(2, slots, key_states), values.scatter_(2, slots, value_states)


class TwoBlocks(CachedTrunk):
    """A trunk that is fed two blocks of each row.

    clean   [b], the first of the two; -1: none, and the second one follows the prompt
    draft   [b, size], tokens for what of it is not committed
    before  [b, 1, D], hidden states of the token before it, for its first token; that of a draft is right by itself
    """

    def __init__(self, model: MaskedDiffusionModel, prompt: Prompt, decoding: Decoding):
        size, device = decoding.block_length, prompt.valid.device
        # The canvas has a block more, for keys that nobody sees.
        super().__init__(model, prompt, replace(decoding, gen_length=(decoding.num_blocks + 1) * size))
        self.clean = torch.zeros(len(prompt.valid), dtype=torch.long, device=device)
        self.places = torch.arange(2 * size, device=device)
        self.slots = torch.arange(self.layout.role.shape[1], device=device)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.clean, self.draft = self.clean[rows], self.draft[rows]

    def hidden(self, ids: Tensor) -> Tensor:
        """Hidden states [b, 2 size, D] where the tokens `ids` [b, 2 size] of both blocks are predicted."""
        size, layout = self.decoding.block_length, self.layout
        block = self.clean[:, None] + self.places // size  # [b, 2 size]
        block = block.where(block >= 0, self.decoding.num_blocks - 1)
        slots = self.P + block * size + self.places % size
        fed = Layout(*(each.gather(-1, slots.expand(*each.shape[:-1], -1)) for each in layout))
        is_clean = self.places < size
        q = fed._replace(role=torch.where(is_clean, CLEAN, NOISY).expand_as(slots))
        role = torch.where(layout.block <= self.clean[:, None], CLEAN, NOISY).where(layout.role != PROMPT, PROMPT)
        q = Layout(*(each[..., None] for each in q))
        k = Layout(*(each[..., None, :] for each in layout._replace(role=role)))
        ahead, pattern, config = slots[..., None] - self.slots, self.pattern, self.model.diffusion
        masks = layer_masks(config, len(self.slots), lambda window: allowed(pattern, q, k, ahead, window)[:, None])
        cache = RowSlots(self.cache.states).at(slots, len(self.slots))
        hidden = self.model.trunk(self.model.embed(ids), masks, fed.position, cache)
        return torch.cat([self.before, hidden[:, :-1]], dim=1)


@torch.no_grad()
def denoise(
    model: MaskedDiffusionModel, prompt: Prompt, decoding: Decoding, initial_canvas: Tensor | None = None
) -> Generator[Step, None, Generation]:
    """Writes one response per prompt, and yields after every pass; arguments and errors as in
    `dllm.core.sampler.denoise`. The passes that fed a row are its steps.
    """
    canvas, masked, may_stop = start(model, prompt, decoding, initial_canvas)  # [B, R] each
    size = decoding.block_length
    part = slice(size, size + canvas.shape[1])
    # A block at both ends that is not written: [B, size + R + size].
    canvas = F.pad(canvas, (size, size), value=model.diffusion.mask_token_id)
    masked, may_stop = F.pad(masked, (size, size)), F.pad(may_stop, (size, size))
    confidence = torch.zeros_like(canvas, dtype=torch.promote_types(prompt.embeds.dtype, torch.float32))
    steps = masked.any(dim=1).long()

    context, first = TwoBlocks(model, prompt, decoding), slice(size, 2 * size)
    hidden = context.block_hidden(canvas[:, part], 0, 0)  # [B, size, D]
    check_finite([hidden])
    context.draft, _ = _tokens(model, decoding, hidden, masked[:, first], may_stop[:, first])
    yield Step(canvas[:, part], masked[:, part], confidence[:, part])
    rows = torch.arange(len(canvas), device=canvas.device)  # those that are fed
    while (at_work := masked[rows].any(dim=1)).any():
        if at_work.sum() <= AT_WORK * len(rows):
            context.keep(kept := at_work.nonzero()[:, 0])
            rows, at_work = rows[kept], at_work[kept]
        places = (context.clean[:, None] + 1) * size + context.places  # [b, 2 size]
        both, block = (rows[:, None], places), (rows[:, None], places[:, :size])
        is_open, ids = masked[both], canvas[both]
        ids[:, :size] = context.draft.where(is_open[:, :size], ids[:, :size])
        hidden = context.hidden(ids)  # [b, 2 size, D]
        tokens, found = _tokens(model, decoding, hidden, is_open, may_stop[both])

        is_right = ((tokens == ids) | ~is_open)[:, :size].cumprod(dim=1).bool()
        commit = is_open[:, :size] & F.pad(is_right[:, :-1], (1, 0), value=True)  # the first wrong one is replaced
        left_open = is_open[:, :size] & ~commit
        canvas[block] = tokens[:, :size].where(commit, canvas[block])
        confidence[block] = found[:, :size].where(commit, confidence[block])
        masked[block] = left_open
        canvas[rows], masked[rows] = fill_after_stop(canvas[rows], masked[rows], model.diffusion)
        steps[rows] += at_work
        yield Step(canvas[:, part], masked[:, part], confidence[:, part])

        # On to the next block; to the one before, if this one is to be drafted anew; or once more with its last token.
        goes_on = is_right[:, -1]
        context.clean = context.clean + goes_on.long() - (~goes_on & left_open.any(dim=1)).long()
        context.clean = context.clean.clamp(max=decoding.num_blocks - 1)  # of rows that are finished
        context.before, context.draft = hidden[:, size, None], tokens[:, size:]
    return ended(canvas[:, part], steps, 1, decoding, model.diffusion)


def _tokens(
    model: MaskedDiffusionModel, decoding: Decoding, hidden: Tensor, is_open: Tensor, may_stop: Tensor
) -> tuple[Tensor, Tensor]:
    """The most probable token of every open place and its probability, [b, n] each; 0 elsewhere. hidden [b, n, D]."""
    tokens, found = candidates(model, [hidden[is_open]], ~may_stop[is_open], decoding)  # [m]
    blank = torch.zeros_like(is_open, dtype=torch.long)
    return blank.masked_scatter(is_open, tokens), blank.to(found.dtype).masked_scatter(is_open, found)
