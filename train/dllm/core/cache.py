"""What a denoising step computes anew, and which keys and values it takes from earlier steps.

A row has P + R slots: its prompt, then its response. A step feeds a run of slots, whose keys and values replace those
in the cache, and reads the hidden states of the current block.

| cache             | pattern       | a block's first step feeds    | its later steps feed      | result              |
|-------------------|---------------|-------------------------------|---------------------------|---------------------|
| `none`            | any           | all that the block may see    | the same                  | the reference       |
| `exact`           | `prefix`      | the response (at first, all)  | the response              | equal to `none`     |
| `exact`           | block-wise    | what has become clean, block  | the block                 | equal to `none`     |
| `fastdllm_prefix` | bidirectional | all                           | the block and what follows| an approximation    |
| `fastdllm_dual`   | bidirectional | all                           | the block                 | an approximation    |
| `dllmcache`       | bidirectional | all                           | the block; at intervals   | an approximation    |
|                   |               |                               | the response, or all      |                     |

`exact` follows from the pattern: under `prefix` the prompt sees only itself, and block-wise (`block`, `causal_block`) a
finished block sees nothing that comes later. The approximations keep what the model would compute differently by now:
Fast-dLLM's prefix and dual cache (Wu et al. 2025), and the interval refresh of dLLM-Cache (Liu et al. 2025, without its
partial update of the least similar tokens). Intervals are counted within a block, so that a row does not depend on its
neighbours.
"""

from collections.abc import Callable
from copy import copy
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from dllm.core.attention import CLEAN, NOISY, LayerMasks, Layout, layer_masks
from dllm.core.decoding import Decoding
from dllm.core.graphs import recorder
from dllm.core.model import MaskedDiffusionModel
from dllm.core.patterns import BLOCKWISE, SHIFTED
from dllm.core.prompt import Prompt

STATIC_WIDTH = 64  # recorded steps see prompts of a multiple of so many tokens


class SlotCache(Cache):
    """Keys and values `states` [layers, 2, B, heads, slots, D_head], written to the slots of the step under way."""

    def __init__(self, states: Tensor):
        super().__init__(layers=[])
        self.states = states

    def at(self, slots: Tensor, seen: int) -> "SlotCache":
        """This cache, set to write to `slots` [n] and to show the first `seen` slots."""
        self.slots, self.seen = slots, seen
        return self

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        keys, values = self.states[layer_idx]
        keys.index_copy_(2, self.slots, key_states)
        values.index_copy_(2, self.slots, value_states)
        return keys[:, :, : self.seen], values[:, :, : self.seen]


def _hidden(
    model: MaskedDiffusionModel,
    cache: SlotCache | None,
    seen: int,
    part: slice,
    ids: Tensor,
    masks: LayerMasks,
    position: Tensor,
    slots: Tensor,
    *prompt: Tensor | dict,
) -> Tensor:
    """Hidden states of a part of what is fed: `ids` [B, n], after a prompt's embeddings and extras if there are any."""
    embeds, extras = model.embed(ids), {}
    if prompt:
        embeds, extras = torch.cat([prompt[0], embeds], dim=1), prompt[1]
    return model.trunk(embeds, masks, position, None if cache is None else cache.at(slots, seen), **extras)[:, part]


class CachedTrunk:
    """A batch of prompts and what was computed of them and their responses so far."""

    def __init__(self, model: MaskedDiffusionModel, prompt: Prompt, decoding: Decoding):
        self.model, self.decoding = model, decoding
        self.prompt = prompt.padded(STATIC_WIDTH) if decoding.compile else prompt
        self.recorder = recorder(model, self) if decoding.compile else None
        self.pattern = model.diffusion.attention_pattern
        self.name = decoding.cache_for(self.pattern)
        self.P = self.prompt.valid.shape[1]
        R = decoding.num_blocks * decoding.block_length
        everywhere = prompt.valid.new_ones((len(prompt.valid), R))
        response = Layout.of_response(NOISY, 0, everywhere, self.prompt.response_positions(R), decoding.block_length)
        self.layout = Layout.cat([self.prompt.layout(), response])
        self.cache = None
        if self.name != "none":
            self.cache = self._new_cache(len(prompt.valid))
            self.cache.states.zero_()  # a slot that nobody sees must hold finite numbers
        self.settled = 0  # leading slots whose keys and values are final
        self.before = None  # [B, 1, D], hidden states of the slot before the block
        self.attention_inputs: dict[tuple[int, int], tuple] = {}

    def block_hidden(self, canvas: Tensor, block: int, step: int) -> Tensor:
        """Hidden states [B, block_length, D] of a block of `canvas` [B, R], where its tokens are predicted, given all
        that it may see.
        """
        start = self.P + block * self.decoding.block_length
        first, last = self._fed(start, step, canvas.shape[1])
        *inputs, seen = self._attention_inputs(first, last, start)
        part = slice(start - first, start - first + self.decoding.block_length)
        shifted = self.pattern == SHIFTED
        if shifted:
            part = slice(max(part.start - 1, 0), part.stop - 1)
        ids = canvas[:, max(first - self.P, 0) : last - self.P]
        prompt = (self.prompt.embeds, self.prompt.extras) if first == 0 else ()
        function = partial(_hidden, self.model, self.cache, seen, part)
        hidden = self.run((self.name, seen, part.start, part.stop), function, ids, *inputs, *prompt)
        if self.name == "exact":
            self.settled = start if self.pattern in BLOCKWISE else self.P
        if shifted and first < start:
            self.before = hidden[:, :1]
        elif shifted:
            hidden = torch.cat([self.before, hidden], dim=1)
        return hidden

    def run(self, key: tuple, function: Callable, *inputs):
        """function(*inputs), as a graph if steps are recorded (`dllm.core.graphs.Recorder.run`)."""
        return self.recorder.run(key, function, *inputs) if self.recorder else function(*inputs)

    def only(self, rows: Tensor) -> "CachedTrunk":
        """These rows alone, for the rest of a block: the first step of the next one replaces what this block wrote."""
        found = copy(self)
        found.keep(rows)
        return found

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these."""
        self.prompt, self.layout = self.prompt.keep(rows), self.layout.keep(rows)
        self.before = None if self.before is None else self.before[rows]
        self.attention_inputs = {}
        if self.cache is not None:
            states, self.cache = self.cache.states, self._new_cache(len(rows))
            for layer, kept in zip(states, self.cache.states, strict=True):  # both may lie in the same memory
                kept.copy_(layer[:, rows])

    def _new_cache(self, num_rows: int) -> SlotCache:
        config, like = self.model.diffusion, self.prompt.embeds
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, num_rows, config.num_key_value_heads, self.layout.role.shape[1], width)
        return SlotCache(self.recorder.lend(shape, like) if self.recorder else like.new_empty(shape))

    def _fed(self, start: int, step: int, length: int) -> tuple[int, int]:
        """The first slot that this step feeds, and the one after the last."""
        block_end, end = start + self.decoding.block_length, self.P + length
        last = block_end if self.pattern in BLOCKWISE else end
        if self.pattern == SHIFTED and self.decoding.block_length == 1:  # the mask itself predicts nothing
            last = start
        match self.name:
            case "none":
                return 0, last
            case "exact":
                return self.settled, last
            case _ if step == 0:
                return 0, end
            case "fastdllm_prefix":
                return start, end
            case "fastdllm_dual":
                return start, block_end
            case "dllmcache":
                if step % self.decoding.prompt_interval == 0:
                    return 0, end
                return (self.P, end) if step % self.decoding.response_interval == 0 else (start, block_end)

    def _attention_inputs(self, first: int, last: int, start: int) -> tuple[LayerMasks, Tensor, Tensor, int]:
        """Attention masks and positions of the slots fed, their numbers, and how many slots the cache shows."""
        if (first, last) not in self.attention_inputs:
            layout = self.layout
            if self.pattern in BLOCKWISE:  # the blocks before the current one have become clean
                layout = layout.with_role(slice(self.P, start), CLEAN)
            num_slots = layout.role.shape[1]
            all_shown = self.cache is not None and (self.decoding.compile or self.pattern not in BLOCKWISE)
            seen = num_slots if all_shown else last

            def mask(window: int | None) -> Tensor | None:
                found = layout.mask(self.pattern, slice(first, last), slice(seen), window)
                return None if not self.decoding.compile and found.all() else found

            masks = layer_masks(self.model.diffusion, num_slots, mask)
            slots = torch.arange(first, last, device=layout.role.device)
            self.attention_inputs[first, last] = masks, layout.position[..., first:last], slots, seen
        return self.attention_inputs[first, last]
