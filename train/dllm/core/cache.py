"""What a denoising step computes anew, and which keys and values it takes from earlier steps.

A row has P + R slots: its prompt, then its response. A step feeds a run of slots, whose keys and values replace those
in the cache, and reads the hidden states of the current block.

| cache             | pattern       | a block's first step feeds    | its later steps feed      | result              |
|-------------------|---------------|-------------------------------|---------------------------|---------------------|
| `none`            | any           | all that the block may see    | the same                  | the reference       |
| `exact`           | `prefix`      | the response (at first, all)  | the response              | equal to `none`     |
| `exact`           | `block`       | what has become clean, block  | the block                 | equal to `none`     |
| `fastdllm_prefix` | bidirectional | all                           | the block and what follows| an approximation    |
| `fastdllm_dual`   | bidirectional | all                           | the block                 | an approximation    |
| `dllmcache`       | bidirectional | all                           | the block; at intervals   | an approximation    |
|                   |               |                               | the response, or all      |                     |

`exact` follows from the pattern: under `prefix` the prompt sees only itself, and under `block` a finished block sees
nothing that comes later. The approximations keep what the model would compute differently by now: Fast-dLLM's prefix
and dual cache (Wu et al. 2025), and the interval refresh of dLLM-Cache (Liu et al. 2025, without its partial update of
the least similar tokens). Intervals are counted within a block, so that a row does not depend on its neighbours.
"""

import functools

import torch
from torch import Tensor
from transformers.cache_utils import Cache, StaticLayer

from dllm.core.attention import CLEAN, NOISY, LayerMasks, Layout, layer_masks
from dllm.core.decoding import Decoding
from dllm.core.model import MaskedDiffusionModel
from dllm.core.prompt import Prompt

STATIC_WIDTH = 64  # compiled steps see prompts of a multiple of so many tokens


@functools.cache
def compiled(function):
    """The function compiled for each of the few shapes that it meets; on a GPU these are CUDA graphs."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(function, mode="reduce-overhead", dynamic=False, fullgraph=True)


def _trunk(model: MaskedDiffusionModel, embeds: Tensor, mask, position: Tensor, cache, **extras) -> Tensor:
    return model.trunk(embeds, mask, position, cache, **extras)


class SlotCache(Cache):
    """Keys and values [B, heads, slots, D_head] of every layer, written to the slots of the step that is under way."""

    def __init__(self, config, num_rows: int, num_slots: int, like: Tensor):
        super().__init__(layers=[StaticLayer(num_slots) for _ in range(config.num_hidden_layers)])
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.early_initialization(num_rows, config.num_key_value_heads, width, like.dtype, like.device)

    def at(self, slots: Tensor, seen: int) -> "SlotCache":
        """This cache, set to write to `slots` [n] and to show the first `seen` slots."""
        self.slots, self.seen = slots, seen
        return self

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        layer = self.layers[layer_idx]
        layer.keys.index_copy_(2, self.slots, key_states)
        layer.values.index_copy_(2, self.slots, value_states)
        return layer.keys[:, :, : self.seen], layer.values[:, :, : self.seen]

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
            torch._dynamo.mark_static_address(layer.keys)  # a captured graph may write into them
            torch._dynamo.mark_static_address(layer.values)


class CachedTrunk:
    """A batch of prompts and what was computed of them and their responses so far."""

    def __init__(self, model: MaskedDiffusionModel, prompt: Prompt, decoding: Decoding):
        self.model, self.decoding = model, decoding
        self.prompt = prompt.padded(STATIC_WIDTH) if decoding.compile else prompt
        self.trunk = compiled(_trunk) if decoding.compile else _trunk
        self.pattern = model.diffusion.attention_pattern
        self.name = decoding.cache_for(self.pattern)
        self.P = self.prompt.valid.shape[1]
        R = decoding.num_blocks * decoding.block_length
        everywhere = prompt.valid.new_ones((len(prompt.valid), R))
        response = Layout.of_response(NOISY, 0, everywhere, self.prompt.response_positions(R), decoding.block_length)
        self.layout = Layout.cat([self.prompt.layout(), response])
        self.cache = None
        if self.name != "none":
            self.cache = SlotCache(model.diffusion, len(prompt.valid), self.P + R, prompt.embeds)
        self.settled = 0  # leading slots whose keys and values are final
        self.attention_inputs: dict[tuple[int, int], tuple] = {}

    def block_hidden(self, canvas: Tensor, block: int, step: int) -> Tensor:
        """Hidden states [B, block_length, D] of a block of `canvas` [B, R], given all that it may see."""
        start = self.P + block * self.decoding.block_length
        first, last = self._fed(start, step, canvas.shape[1])
        masks, position, slots, seen = self._attention_inputs(first, last, start)
        embeds, extras = self.model.embed(canvas[:, max(first - self.P, 0) : last - self.P]), {}
        if first == 0:
            embeds, extras = torch.cat([self.prompt.embeds, embeds], dim=1), self.prompt.extras  # [B, last, D]
        cache = self.cache and self.cache.at(slots, seen)
        hidden = self.trunk(self.model, embeds, masks, position, cache, **extras)  # [B, last - first, D]
        if self.name == "exact":
            self.settled = start if self.pattern == "block" else self.P
        # A copy: what a CUDA graph returned belongs to it, and the next one to run may write there.
        return hidden[:, start - first : start - first + self.decoding.block_length].clone()

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these."""
        self.prompt, self.layout = self.prompt.keep(rows), self.layout.keep(rows)
        self.attention_inputs = {}
        if self.cache:
            self.cache.keep(rows)

    def _fed(self, start: int, step: int, length: int) -> tuple[int, int]:
        """The first slot that this step feeds, and the one after the last."""
        block_end, end = start + self.decoding.block_length, self.P + length
        match self.name:
            case "none":
                return 0, block_end if self.pattern == "block" else end
            case "exact":
                return self.settled, block_end if self.pattern == "block" else end
        if step == 0:
            return 0, end
        match self.name:
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
            if self.pattern == "block":  # the blocks before the current one have become clean
                layout = layout.with_role(slice(self.P, start), CLEAN)
            num_slots = layout.role.shape[1]
            seen = num_slots if self.decoding.compile or self.pattern != "block" else last

            def mask(window: int | None) -> Tensor | None:
                found = layout.mask(self.pattern, slice(first, last), slice(seen), window)
                return None if not self.decoding.compile and found.all() else found

            masks = layer_masks(self.model.diffusion, num_slots, mask)
            slots = torch.arange(first, last, device=layout.role.device)
            self.attention_inputs[first, last] = masks, layout.position[..., first:last], slots, seen
        return self.attention_inputs[first, last]
