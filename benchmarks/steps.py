"""The training steps that the benchmark compares, all on the same weights and samples. A step is forward and backward.

- `reference`: the seed's step as it stands (`oracles.literal_step`), on its own noise and without a tail
- `reference indexed`: the same, but only the masked rows of the logits reach the cross-entropy, as in LLaDA-V
- ours: both views of a complementary pair in an attention pattern, `block` for example, or one view, `block single`
"""

from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.presets import Preset, build_model, language_model
from dllm.core.head import num_chunks
from dllm.core.losses import IGNORE_INDEX, reduce_losses
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import PATTERNS
from dllm.core.prompt import Prompt
from dllm.data.collator import ResponseCollator
from dllm.training import flops
from dllm.training.arguments import MDLMConfig
from dllm.training.metrics import batch_counts
from dllm.training.order import PositionSampler
from llava.constants import IMAGE_TOKEN_INDEX
from oracles.literal_step import Sequences, literal_loss

REFERENCE, INDEXED = "reference", "reference indexed"
EQUAL, RANDOM, BUCKETS = "", "ragged", "ragged, buckets"
RAGGED_BATCHES = 8


@dataclass(frozen=True)
class Mode:
    """One of our steps: the attention pattern, and whether both views of a pair are in it."""

    pattern: str
    paired: bool = True

    @property
    def forward_process(self) -> ForwardProcess:
        return ForwardProcess("pair" if self.paired else "single")


MODES = {pattern: Mode(pattern) for pattern in PATTERNS}
MODES |= {f"{pattern} single": Mode(pattern, paired=False) for pattern in PATTERNS}
NAMES = [REFERENCE, INDEXED, *MODES]


@dataclass(frozen=True)
class Case:
    """One thing to measure: a mode on one batch of full length, or on ragged samples in random batches or buckets."""

    mode: str
    batches: str = EQUAL

    def __str__(self) -> str:
        return f"{self.mode} {self.batches}".strip()


class Bench:
    """A preset's model on a device, and samples for it."""

    def __init__(self, preset: Preset, device: str, batch_size: int):
        self.preset, self.device, self.batch_size = preset, device, batch_size
        self.model = build_model(preset, device).train()

    def step(self, case: Case) -> Callable[[], list[Tensor]]:
        """The call that takes a step on every batch of a case, from gradients of None, and returns their losses."""
        batches = self.batches(case)

        def call() -> list[Tensor]:
            losses = []
            for batch in batches:
                self.model.zero_grad()
                loss = self.loss(case, batch)
                loss.backward()
                losses.append(loss.detach())
            return losses

        return call

    def loss(self, case: Case, batch: dict[str, Tensor]) -> Tensor:
        if case.mode not in MODES:
            return literal_loss(language_model(self.model), self._sequences(batch), indexed=case.mode == INDEXED)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "masked")}
        if self.preset.vision:
            inputs["images"] = batch["images"]
        mode, chunks = MODES[case.mode], num_chunks(batch["labels"].numel())
        self.model.diffusion.attention_pattern = mode.pattern
        losses = self.model(**inputs, paired=mode.paired, head_chunks=chunks).losses
        return reduce_losses(losses, batch["weights"], batch["labels"] != IGNORE_INDEX, "sequence")

    def batches(self, case: Case) -> list[dict[str, Tensor]]:
        """What the collator makes of a case's samples. The seed pads to nothing but the longest and has no tail."""
        settings = copy(self.model.diffusion)
        settings.tail_token_id = 0  # the preset's own can never be written
        if case.mode not in MODES:
            settings.attention_pattern, settings.block_length = "block", 1
            collate = ResponseCollator(settings, ForwardProcess("seed_literal"))
        else:
            mode = MODES[case.mode]
            settings.attention_pattern = mode.pattern
            collate = ResponseCollator(settings, mode.forward_process, MDLMConfig.pad_to_multiple_of)
        return [self._on_device(collate(samples)) for samples in self.samples(case)]

    def samples(self, case: Case) -> list[list[dict]]:
        """The samples of a case batch by batch, as the trainer orders them."""
        if case.batches == EQUAL:
            P, R = self.preset.prompt_length, self.preset.gen_length
            return [[self._sample(P, R, position) for position in range(self.batch_size)]]
        pool = [self._sample(P, R, n) for n, (P, R) in enumerate(self.ragged_lengths)]
        lengths = [P + R for P, R in self.ragged_lengths] if case.batches == BUCKETS else None
        order = PositionSampler(len(pool), 0, self.batch_size, lengths)
        ordered = [pool[n] | {"position": position} for position, n in order]
        return [ordered[start : start + self.batch_size] for start in range(0, len(ordered), self.batch_size)]

    @cached_property
    def ragged_lengths(self) -> list[tuple[int, int]]:
        """Prompt and report lengths in the manner of radiology reports. The report is log-normal around half of the
        canvas, sigma 0.5. Most of its prompt is fixed, image and question; the rest is log-normal too, sigma 0.7.
        """
        generator = torch.Generator().manual_seed(0)
        P, R = self.preset.prompt_length, self.preset.gen_length
        normal = torch.randn(RAGGED_BATCHES * self.batch_size, 2, generator=generator)
        prompts = P - P // 8 + (P / 32 * (0.7 * normal[:, 0]).exp()).round().clamp(max=P // 8)
        reports = (R / 2 * (0.5 * normal[:, 1]).exp()).round().clamp(min=1, max=R)
        return list(zip(prompts.int().tolist(), reports.int().tolist(), strict=True))

    def _sample(self, P: int, R: int, position: int) -> dict:
        generator = torch.Generator().manual_seed(position)
        ids = torch.randint(0, self.preset.mask_token_id, (P + R,), generator=generator)
        if vision := self.preset.vision:
            ids[: vision.queries] = IMAGE_TOKEN_INDEX
        return {"prompt_ids": ids[:P].tolist(), "response_ids": ids[P:].tolist(), "position": position}

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if vision := self.preset.vision:
            shape = (len(batch["labels"]), 3, vision.image_size, vision.image_size)
            batch["images"] = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.preset.dtype)
        return {name: value.to(self.device) for name, value in batch.items()}

    def _prompt(self, batch: dict[str, Tensor]) -> Prompt:
        if self.preset.vision:
            return self.model.prepare_prompt(batch["input_ids"], batch["attention_mask"], batch["images"])
        return self.model.prepare_prompt(batch["input_ids"], batch["attention_mask"])

    def _sequences(self, batch: dict[str, Tensor]) -> Sequences:
        """The seed's sequences of a collated batch, its padding taken out. Images are encoded once, as in the seed."""
        prompt, labels, masked, rates = self._prompt(batch), batch["labels"], batch["masked"], batch["rates"]
        p = torch.where(masked, rates, 1 - rates)
        rows = range(len(labels))
        targets = [labels[row] != IGNORE_INDEX for row in rows]
        return Sequences.of(
            language_model(self.model),
            [prompt.embeds[row][prompt.valid[row]] for row in rows],
            *([each[row][targets[row]] for row in rows] for each in (labels, masked, p)),
        )

    def sizes(self, case: Case) -> dict[str, int]:
        """What the batches of a case hold, as in `dllm.training.metrics.batch_counts`."""
        counts = Counter()
        for batch in self.batches(case):
            if case.mode in MODES:
                mode, settings = MODES[case.mode], copy(self.model.diffusion)
                settings.attention_pattern = mode.pattern
                held = batch_counts(settings, mode.paired, batch)
            else:
                held = literal_counts(batch)
            counts.update({name: int(count) for name, count in held.items()})
        return dict(counts) | {"inputs": counts["samples"] if self.preset.vision else 0}

    @cached_property
    def cost(self) -> flops.Cost:
        """Operations of a step of any size."""
        return flops.step_costs(self.model, self.model.dtype)[0]

    def operations(self, case: Case) -> int:
        """Floating-point operations that the steps of a case cannot do without (`dllm.training.flops`): padding does
        not count, nor the rows that the seed puts through the head and does not predict.
        """
        sizes = self.sizes(case)
        return self.cost(sizes["trunk_tokens"], sizes["attention_pairs"], sizes["targets"], sizes["inputs"])


def literal_counts(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch holds as the seed trains on it: every sequence twice, padded to the longest; see `batch_counts`."""
    responses = (batch["labels"] != IGNORE_INDEX).sum(-1)
    lengths = batch["attention_mask"].sum(-1) + responses
    return {
        "samples": len(lengths),
        "trunk_tokens": 2 * lengths.sum(),
        "padded_tokens": 2 * len(lengths) * lengths.max(),
        "attention_pairs": 2 * (lengths**2).sum(),
        "targets": responses.sum(),
    }
