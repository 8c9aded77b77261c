"""The figures of a run: what its batches held, added up on the device, and over the ranks when they are logged."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EvalPrediction

from dllm.core.losses import IGNORE_INDEX
from dllm.core.patterns import SHIFTED

NOISE_LEVELS = ("0-25", "25-50", "50-75", "75-100")  # per cent of the tokens masked


def trunk_sizes(config, paired: bool, prompts: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that the trunk is fed for samples of `prompts` and `responses` tokens [B], and the pairs of a token and
    one that it may attend to; both are [B] and contain no padding.
    """
    views = 1 + paired
    if config.attention_pattern == "bidirectional":
        return views * (prompts + responses), views * (prompts + responses) ** 2
    if config.attention_pattern == "prefix":
        copies, pairs = views, views * responses**2
    else:
        size = config.block_length
        blocks, rest = responses // size, responses % size
        clean = noisy = size**2 * blocks * (blocks + 1) // 2 + rest * responses
        if config.attention_pattern == SHIFTED:
            clean, views = responses * (responses + 1) // 2, views * (size > 1)
        copies, pairs = 1 + views, clean + views * noisy
    return prompts + copies * responses, prompts**2 + copies * prompts * responses + pairs


def predicts_all(config, paired: bool) -> bool:
    """Whether every target of a batch is predicted, by a noisy view or by the clean copy."""
    return paired or config.attention_pattern == SHIFTED


def batch_counts(config, paired: bool, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a batch of `dllm.data.collator.ResponseCollator` holds.

    batches          1
    samples
    tokens           of prompts, whatever they embed, and of responses with their stop token: once, unpadded
    trunk_tokens     in the trunk, every copy of a response, without padding (`trunk_sizes`)
    padded_tokens    the same with padding
    attention_pairs  of a token and one that it may attend to, without padding
    targets          rows of the head
    inputs           what the model is given beside text
    """
    is_target, prompts = batch["labels"] != IGNORE_INDEX, batch["attention_mask"].sum(-1)
    B, P, R = *batch["attention_mask"].shape, batch["labels"].shape[1]
    fed, pairs = trunk_sizes(config, paired, prompts, is_target.sum(-1))
    # Filled on the device: a copy to it would wait for the step.
    places, _ = trunk_sizes(config, paired, prompts.new_full((), P), prompts.new_full((), R))
    return {
        "batches": prompts.new_full((), 1),
        "samples": prompts.new_full((), B),
        "tokens": prompts.sum() + (is_target & ~batch["tail"]).sum(),
        "trunk_tokens": fed.sum(),
        "padded_tokens": places * B,
        "attention_pairs": pairs.sum(),
        "targets": (is_target if predicts_all(config, paired) else is_target & batch["masked"]).sum(),
        "inputs": batch["num_inputs"],
    }


def noise_counts(batch: dict[str, Tensor], losses: Tensor) -> dict[str, Tensor]:
    """Sum of the losses [B, R] of the responses' own tokens, and their number, by the rate at which they were masked;
    both have the shape of `NOISE_LEVELS`.
    """
    counted = (batch["labels"] != IGNORE_INDEX) & ~batch["tail"] & (batch["weights"] > 0)
    level = (batch["rates"] * len(NOISE_LEVELS)).long().clamp(max=len(NOISE_LEVELS) - 1)  # [B, R]
    at_level = F.one_hot(level, len(NOISE_LEVELS)) * counted[..., None]  # [B, R, levels]
    return {"noise_losses": (losses[..., None] * at_level).sum((0, 1)), "noise_tokens": at_level.sum((0, 1))}


class Meter:
    """Counts since the last reading, and the seconds that they took without pauses; `total` since the start."""

    def __init__(self):
        self.counts: dict[str, Tensor] = {}
        self.total = {"samples": 0.0, "tokens": 0.0}
        self.since: float | None = None

    def start(self) -> None:
        """Starts the clock, if it does not run."""
        self.since = time.perf_counter() if self.since is None else self.since

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time."""
        start = time.perf_counter()
        yield
        if self.since is not None:
            self.since += time.perf_counter() - start

    def add(self, **counts: Tensor) -> None:
        """Adds the counts of a batch; nothing leaves the device."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count.detach().double()

    def read(self, over_ranks: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], float]:
        """Counts and seconds since the last reading; `over_ranks` adds a tensor up over all ranks."""
        now = time.perf_counter()
        seconds, self.since = now - self.since, now
        counts, self.counts = self.counts, {}
        summed = over_ranks(torch.cat([count.flatten() for count in counts.values()])).cpu()
        parts = summed.split([count.numel() for count in counts.values()])
        counts = {name: part.view(count.shape) for (name, count), part in zip(counts.items(), parts, strict=True)}
        for name in ("samples", "tokens"):
            self.total[name] += counts[name].item()
        return counts, seconds


def figures(counts: dict[str, Tensor], seconds: float, input_unit: str | None) -> dict[str, float]:
    """What is logged of counts over all ranks: rates, the share of padding in what the trunk was fed, and the mean loss
    of the responses' tokens by noise level. A level that no token had is left out.
    """
    rates = {"samples": "samples", "tokens": "tokens"} | ({input_unit: "inputs"} if input_unit else {})
    result = {f"{unit}_per_second": counts[name].item() / seconds for unit, name in rates.items()}
    result["padding"] = 1 - (counts["trunk_tokens"] / counts["padded_tokens"]).item()
    levels = zip(NOISE_LEVELS, counts["noise_losses"].tolist(), counts["noise_tokens"].tolist(), strict=True)
    return result | {f"loss_noise/{level}": loss / tokens for level, loss, tokens in levels if tokens}


def perplexity(prediction: EvalPrediction) -> dict[str, float]:
    """Of responses with their stop tokens, from the nats of each (`dllm.core.losses.response_nats`) and its tokens: the
    mean nats of a token, and the exponential of that. Both are upper bounds; what the padding tail costs is in them.
    """
    nll = float(prediction.predictions.sum() / prediction.label_ids.sum())
    return {"nll": nll, "perplexity": float(np.exp(nll))}


def peak_memory(device: torch.device) -> float:
    """Most memory so far in GB: of CUDA's allocator, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
