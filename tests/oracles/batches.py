"""Batches of ragged samples for the training pass, and what the model was called with."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dllm.core.attention import Layout
from oracles.models import HIDDEN, TAIL, left_padded, random_ids


@dataclass
class Sample:
    """One embedded prompt [P, D], the response after it and the set of its places that the first view masks."""

    prompt: Tensor
    response: list[int]
    masked: set[int]


def with_prompts(pattern: str, lengths: list[int]) -> list[int]:
    """Lengths of prompts, one token in place of none where a pattern predicts a token from the one before it."""
    return [max(length, 1) for length in lengths] if pattern == "causal_block" else lengths


def random_samples(model, prompts: list[int], responses: list[int], seed: int = 0) -> list[Sample]:
    """Samples of these lengths. Every third place of a prompt holds a vector that no token has, as an image would."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for P, R in zip(prompts, responses, strict=True):
        embeds = model.embed(torch.tensor(random_ids(P, generator), dtype=torch.long)).detach().clone()
        embeds[::3] = torch.randn(len(embeds[::3]), HIDDEN, generator=generator).to(embeds)
        masked = {i for i in range(R) if torch.rand((), generator=generator) < 0.5}
        samples.append(Sample(embeds, random_ids(R, generator), masked))
    return samples


def pack(samples: list[Sample]) -> tuple:
    """(prompt, response, targets, masked) as `target_losses` takes them; the mask is True on padding, to be ignored."""
    R = max(len(sample.response) for sample in samples)
    response = torch.tensor([sample.response + [TAIL] * (R - len(sample.response)) for sample in samples])
    targets = torch.tensor([[i < len(sample.response) for i in range(R)] for sample in samples])
    masked = torch.tensor([[i in sample.masked or i >= len(sample.response) for i in range(R)] for sample in samples])
    return left_padded([sample.prompt for sample in samples]), response, targets, masked


def spy(model, name: str) -> list[tuple]:
    """The arguments of every call of a model's method, from now on."""
    calls, method = [], getattr(model, name)

    def record(*args, **kwargs):
        calls.append(args)
        return method(*args, **kwargs)

    setattr(model, name, record)
    return calls


def layouts_of(action) -> list[Layout]:
    """The layouts whose masks are asked for while `action()` runs, in order."""
    layouts, mask = [], Layout.mask

    def record(layout, *args, **kwargs):
        layouts.append(layout)
        return mask(layout, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "mask", record)
        action()
    return layouts
