"""Tiny models on the GPU against float64 on the CPU: losses and gradients by kernel and type, tokens of every cache.
What rounding alone does is told by float32 on the CPU."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.record import Record, begin
from dllm.core import objective
from dllm.core.decoding import CACHES, Decoding
from dllm.core.losses import IGNORE_INDEX
from dllm.core.patterns import PATTERNS
from dllm.core.sampler import generate
from oracles.families import family_model
from oracles.models import MASK, TAIL, random_ids, tiny_model

TYPES = {"float32": torch.float32, "autocast": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = {"short": ([3, 12, 7], [9, 24, 1]), "long": ([150, 40], [60, 190])}  # lengths of prompts and of responses
WIDE = {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 2}  # the heads of Qwen3
RULES = {
    "quota": {"gen_steps": 12},
    "threshold": {"threshold": 0.3},
    "factor": {"factor": 1.0},
    "guidance": {"gen_steps": 12, "cfg_scale": 1.5},
    "temperature": {"gen_steps": 12, "temperature": 0.8},
}


@contextlib.contextmanager
def kernel(name: str) -> Iterator[None]:
    """Training through FlexAttention, or through SDPA with a boolean mask."""
    flex_from, objective.FLEX_FROM = objective.FLEX_FROM, 0 if name == "flex" else math.inf
    try:
        yield
    finally:
        objective.FLEX_FROM = flex_from


def batch(prompts: list[int], responses: list[int]) -> dict[str, Tensor]:
    """What a model's forward takes: prompts padded on the left, labels on the right."""
    generator = torch.Generator().manual_seed(0)
    P, R = max(prompts), max(responses)
    ids = [[TAIL] * (P - n) + random_ids(n, generator) for n in prompts]
    labels = [random_ids(n, generator) + [IGNORE_INDEX] * (R - n) for n in responses]
    valid = [[0] * (P - n) + [1] * n for n in prompts]
    masked = torch.rand(len(labels), R, generator=generator) < 0.5
    names = ("input_ids", "attention_mask", "labels")
    return dict(zip(names, map(torch.tensor, (ids, valid, labels)), strict=True)) | {"masked": masked}


def step(model, inputs: dict, device: str, type_: str, **arguments) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of a batch, and the gradient of every weight of their mean, in float64 on the CPU."""
    inputs = {name: value.to(device) for name, value in inputs.items()}
    model.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=type_ == "autocast"):
        losses = model(**inputs, **arguments).losses
    losses.mean().backward()
    return losses.detach().double().cpu(), {n: p.grad.double().cpu() for n, p in model.named_parameters()}


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def compare_steps(found: tuple, expected: tuple) -> dict:
    """How far losses and gradients are off, relative to their norm, and which gradient is the worst."""
    gradients = {name: distance(found[1][name], gradient) for name, gradient in expected[1].items()}
    worst = max(gradients, key=gradients.get)
    whole = [torch.cat([g.flatten() for g in each.values()]) for each in (found[1], expected[1])]
    losses = {"losses": distance(found[0], expected[0]), "largest_loss": float((found[0] - expected[0]).abs().max())}
    return losses | {"gradient": distance(*whole), "worst": gradients[worst], "worst_of": worst}


def training(
    record: Record, device: str, shape: str, patterns=PATTERNS, types=TYPES, family: str = "", **settings
) -> None:
    """The training pass of these patterns: a pair and one chunk of the head, or a single view and three."""
    make = functools.partial(family_model, family) if family else tiny_model
    kernels = ("flex", "sdpa") if device == "cuda" else ("sdpa",)  # FlexAttention has no backward pass on a CPU
    for pattern in patterns:
        inputs, wide = batch(*SHAPES[shape]), " wide" * bool(settings) + f" {family}" * bool(family)
        arguments = {"paired": True, "head_chunks": 1} if pattern == "block" else {"paired": False, "head_chunks": 3}
        expected = step(make(pattern, **settings), inputs, "cpu", "float64", **arguments)
        with record.check(f"step {pattern} {shape}{wide}, cpu float32") as found:
            model = make(pattern, torch.float32, **settings)
            found |= compare_steps(step(model, inputs, "cpu", "float32", **arguments), expected)
        for type_, name in itertools.product(types, kernels):
            with record.check(f"step {pattern} {shape}{wide}, {name} {type_}") as found, kernel(name):
                model = make(pattern, TYPES[type_], **settings).to(device)
                found |= compare_steps(step(model, inputs, device, type_, **arguments), expected)


@functools.cache
def model_on(pattern: str, device: str, dtype: torch.dtype):
    return tiny_model(pattern, dtype).to(device)


def written(pattern: str, device: str, dtype: torch.dtype, rows: int = 3, **arguments) -> Tensor:
    """Ids of responses to `rows` ragged prompts."""
    model = model_on(pattern, device, dtype)
    inputs = batch([3, 12, 7, 5][:rows], [1] * rows)
    prompt = model.prepare_prompt(inputs["input_ids"].to(device), inputs["attention_mask"].to(device))
    return generate(model, prompt, Decoding(24, 8, prompt_interval=5, response_interval=2, **arguments)).ids.cpu()


def compare_tokens(found: Tensor, expected: Tensor) -> dict:
    return {"equal": float((found == expected).double().mean()), "masks_left": int((found == MASK).sum())}


def tokens(record: Record, device: str, rules: Iterable[str]) -> None:
    """Every cache with every way to choose, against the same on the CPU in float64."""
    pairs = [(pattern, cache) for cache, patterns in CACHES.items() for pattern in patterns]
    for (pattern, cache), rule in itertools.product(pairs, rules):
        with record.check(f"tokens {pattern} {cache} {rule}") as found:
            arguments = RULES[rule] | {"cache": cache}
            expected = written(pattern, "cpu", torch.float64, **arguments)
            found |= compare_tokens(written(pattern, device, torch.float32, **arguments), expected)
            bf16 = compare_tokens(written(pattern, device, torch.bfloat16, **arguments), expected)
            found["equal_bfloat16"] = bf16["equal"]


def main() -> None:
    record, device = begin(__doc__)
    training(record, device, "short", ["block"])
    if device == "cuda":
        training(record, device, "long", ["block"], ["autocast", "float32"], **WIDE)
    tokens(record, device, RULES if device == "cuda" else ["quota"])
    training(record, device, "short", ["prefix", "bidirectional"], ["float32", "autocast"])
    if device == "cuda":
        training(record, device, "long")


if __name__ == "__main__":
    main()
