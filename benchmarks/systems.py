"""The systems that the generation benchmark compares, all on the same weights, and how each writes its reports.

- `reference`: the loop that published diffusion models decode with (`oracles.reference_loop`), one prompt at a time
- `autoregressive`: a causal Qwen3 of the same size through transformers' `generate` with its cache, greedy
- ours: every attention pattern with every cache that fits it, `block exact` for example
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from benchmarks.measure import clock
from benchmarks.presets import Inputs, Preset, autoregressive_twin, build_model, embedded, language_model
from dllm.core import sampler
from dllm.core.cache import CachedTrunk
from dllm.core.decoding import CACHES, Decoding
from dllm.core.prompt import Prompt
from dllm.core.selection import step_quota
from oracles import reference_loop

REFERENCE, AUTOREGRESSIVE, UNCACHED = "reference", "autoregressive", "bidirectional none"


@dataclass(frozen=True)
class Mode:
    """One of our ways to decode: the pattern that the weights are taken to be trained with, and how they sample."""

    pattern: str
    cache: str
    compile: bool = False

    @property
    def exact(self) -> bool:
        return self.cache in ("none", "exact")


MODES = {f"{pattern} {cache}": Mode(pattern, cache) for cache, patterns in CACHES.items() for pattern in patterns}
COMPILED = {f"{name} compile": replace(MODES[name], compile=True) for name in ("block exact", "prefix exact")}
MODES |= COMPILED
NAMES = [REFERENCE, AUTOREGRESSIVE, *MODES]


@dataclass(frozen=True)
class Case:
    """One thing to measure; the autoregressive model takes a step per token."""

    mode: str
    batch: int
    steps: int
    prompt_length: int

    def __str__(self) -> str:
        return f"{self.mode}, batch {self.batch}, {self.steps} steps, prompt {self.prompt_length}"


class Bench:
    """A preset's model and its autoregressive twin on a device, and what they wrote."""

    def __init__(self, preset: Preset, device: str):
        self.preset, self.device = preset, device
        self.model = build_model(preset, device)
        self.twin = autoregressive_twin(preset, self.model)
        self.inputs = cache(lambda batch, prompt_length: Inputs.random(preset, batch, prompt_length, device))
        self.written: dict[Case, tuple[Tensor, int]] = {}  # ids [B, steps or gen_length] and forward passes

    def writer(self, case: Case) -> Callable[[], None]:
        """The call that writes the reports of a case, its inputs made beforehand."""
        write = {REFERENCE: self._reference, AUTOREGRESSIVE: self._autoregressive}.get(case.mode, self._ours)
        inputs = self.inputs(case.batch, case.prompt_length)

        def call() -> None:
            self.written[case] = write(case, embedded(self.model, inputs))

        return call

    def floor(self, case: Case) -> Callable[[], None]:
        """The call that does what no denoising with this cache can do without: prompt and trunk on the rows that each
        step must feed, the head on those places of the block that are still masked, and nothing else.
        """
        inputs = self.inputs(case.batch, case.prompt_length)
        head = language_model(self.model).head

        @torch.no_grad()
        def call() -> None:
            decoding = self._decoding(case)
            context = CachedTrunk(self.model, embedded(self.model, inputs), decoding)
            canvas = torch.full((case.batch, self.preset.gen_length), self.preset.mask_token_id, device=self.device)
            length = torch.tensor(self.preset.block_length)
            for block in range(decoding.num_blocks):
                masked = self.preset.block_length
                for step in range(decoding.steps_per_block):
                    hidden = context.block_hidden(canvas, block, step)  # [B, block_length, D]
                    head(hidden[:, :masked].flatten(0, 1))
                    masked -= int(step_quota(length, decoding.steps_per_block, step))

        return call

    def reference_split(self, steps: int) -> dict[str, float]:
        """Seconds that the reference loop spends in trunk, head and softmax."""
        inputs = self.inputs(1, self.preset.prompt_length)
        return self._reference_report(embedded(self.model, inputs), steps, clock).seconds

    def agreement(self, case: Case) -> float:
        """The share of tokens that a case writes as the same model does without a cache in as many steps."""
        uncached = replace(case, mode=UNCACHED)
        if uncached not in self.written:
            self.writer(uncached)()
        return (self.written[case][0] == self.written[uncached][0]).float().mean().item()

    def _decoding(self, case: Case) -> Decoding:
        mode = MODES[case.mode]
        self.model.diffusion.attention_pattern = mode.pattern
        return Decoding.of(self.model.diffusion, gen_steps=case.steps, cache=mode.cache, compile=mode.compile)

    def _ours(self, case: Case, prompt: Prompt) -> tuple[Tensor, int]:
        generation = sampler.generate(self.model, prompt, self._decoding(case))
        assert (generation.lengths == self.preset.gen_length).all()
        return generation.ids, int(generation.nfe.max())

    def _reference(self, case: Case, prompt: Prompt) -> tuple[Tensor, int]:
        report = self._reference_report(prompt, case.steps)
        assert len(report.ids) == self.preset.gen_length
        return report.ids[None], report.steps

    def _reference_report(self, prompt: Prompt, steps: int, *timer) -> reference_loop.Report:
        preset, model = self.preset, language_model(self.model)
        forbidden, stops = [preset.mask_token_id, preset.stop_token_id], [[preset.stop_token_id]]
        return reference_loop.generate(
            model, prompt.embeds, preset.gen_length, preset.block_length, steps, forbidden, stops, *timer
        )

    def _autoregressive(self, case: Case, prompt: Prompt) -> tuple[Tensor, int]:
        ids = self.twin.generate(
            inputs_embeds=prompt.embeds,
            attention_mask=prompt.valid.long(),
            do_sample=False,
            min_new_tokens=case.steps,
            max_new_tokens=case.steps,
        )
        assert ids.shape == (case.batch, case.steps)
        return ids, case.steps
