"""The packed training pass against doubled batches: the seed's own step, and its like under every pattern."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dllm.core.losses import reduce_losses
from dllm.core.noise import ForwardProcess, Noise
from dllm.core.objective import target_losses
from dllm.core.patterns import PATTERNS
from dllm.core.prompt import Prompt
from oracles.attention import may_see, packed_tokens
from oracles.batches import Sample, random_samples
from oracles.literal_step import IGNORE_INDEX, Sequences, literal_loss
from oracles.models import HIDDEN, TAIL, VOCAB_SIZE, tiny_model
from oracles.training import writable

# Lengths of prompts and of responses; a block has 4 tokens. The longest sequence is neither the one with the longest
# prompt nor the one with the longest response.
RAGGED = ([3, 10, 1, 8], [12, 2, 5, 9])


@pytest.fixture
def drawn():
    """draw(pattern): a model, ragged samples with prompts that take gradients, and their noise as (masked, p) [R]."""

    def draw(pattern: str):
        model = tiny_model(pattern)
        samples = random_samples(model, *RAGGED)
        for sample in samples:
            sample.prompt.requires_grad_()
        forward = ForwardProcess("seed_literal", seed=5)
        return model, samples, [forward.draw(n, len(sample.response)) for n, sample in enumerate(samples)]

    return draw


def first_view(noise: Noise) -> tuple[Tensor, Tensor]:
    """The mask of the first view and the rate p of every place, [R] each."""
    p = np.where(noise.masked, noise.rates, 1 - noise.rates)
    return torch.from_numpy(noise.masked), torch.from_numpy(p)


def ours(model, samples: list[Sample], noise: list[Noise]) -> Tensor:
    """The loss as training computes it: left-padded prompts, right-padded responses."""
    B, P, R = len(samples), max(len(s.prompt) for s in samples), max(len(s.response) for s in samples)
    embeds = torch.stack([torch.cat([s.prompt.new_zeros(P - len(s.prompt), HIDDEN), s.prompt]) for s in samples])
    valid = torch.tensor([[False] * (P - len(s.prompt)) + [True] * len(s.prompt) for s in samples])
    response = torch.full((B, R), TAIL)
    targets, masked = torch.zeros(B, R, dtype=torch.bool), torch.zeros(B, R, dtype=torch.bool)
    weights = torch.zeros(B, R, dtype=torch.float64)
    for row, (sample, drawn) in enumerate(zip(samples, noise, strict=True)):
        n = len(sample.response)
        response[row, :n], targets[row, :n] = torch.tensor(sample.response), True
        masked[row, :n], weights[row, :n] = torch.from_numpy(drawn.masked), torch.from_numpy(drawn.weights)
    losses = target_losses(model, Prompt.left_padded(embeds, valid), response, targets, masked, True)
    return reduce_losses(losses, weights, targets, "sequence")


def seed_sequences(model, samples: list[Sample], noise: list[Noise]) -> Sequences:
    masks, rates = zip(*map(first_view, noise), strict=True)
    responses = [torch.tensor(sample.response) for sample in samples]
    return Sequences.of(model, [sample.prompt for sample in samples], responses, masks, rates)


def doubled_sequences(model, samples: list[Sample], noise: list[Noise]) -> Sequences:
    """One view after its prompt, and block-wise after a clean copy too, as a sequence of its own: right-padded, and
    with the mask that the pattern asks for, pair of tokens by pair of tokens.
    """
    config, rows = model.config, []
    for sample, drawn in zip(samples, noise, strict=True):
        mask, p = first_view(drawn)
        P, n = len(sample.prompt), len(sample.response)
        tokens = packed_tokens(config.attention_pattern, [True] * P, [True] * n, config.block_length, views=1)
        before = len(tokens) - n  # of the noisy copy
        copies = model.embed(torch.tensor(sample.response)).repeat((len(tokens) - P) // n, 1)
        place = list(range(len(tokens)))
        if config.attention_pattern == "causal_block":  # after the clean token, at the start of a block
            place[before:] = [(before if i % config.block_length else P) + i - 1 for i in range(n)]
        rows.append(
            {
                "embeds": torch.cat([sample.prompt, copies]),
                "labels": torch.tensor([IGNORE_INDEX] * before + sample.response),
                "masked": torch.cat([torch.zeros(before, dtype=torch.bool), mask]),
                "p": torch.cat([torch.full((before,), 0.5), p]),
                "sees": torch.tensor([[may_see(config.attention_pattern, q, k) for k in tokens] for q in tokens]),
                "position": torch.tensor([*range(P), *list(range(P, P + n)) * (len(copies) // n)]),
                "place": torch.tensor(place),
            }
        )
    L = max(len(row["labels"]) for row in rows)
    padding = {
        "embeds": 0.0,
        "labels": IGNORE_INDEX,
        "masked": False,
        "p": 0.5,
        "sees": False,
        "position": 0,
        "place": 0,
    }
    batch = {name: torch.stack([padded(row[name], L, name, padding[name]) for row in rows]) for name in padding}
    batch["sees"] |= torch.eye(L, dtype=torch.bool)  # no softmax over nothing
    return Sequences(**batch)


def padded(row: Tensor, L: int, name: str, value: float) -> Tensor:
    """A row [n, ...] filled up to L on the right; of who sees whom both axes."""
    extra = L - len(row)
    sides = {"embeds": (0, 0, 0, extra), "sees": (0, extra, 0, extra)}.get(name, (0, extra))
    return torch.nn.functional.pad(row, sides, value=value)


def gradients(model, samples: list[Sample], loss: Tensor) -> dict[str, Tensor]:
    """Of every weight, and of every embedded prompt, which is what reaches projector and encoder."""
    leaves = dict(model.named_parameters()) | {f"prompt {n}": sample.prompt for n, sample in enumerate(samples)}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


FORMS = [("bidirectional", seed_sequences), *((pattern, doubled_sequences) for pattern in PATTERNS)]


@pytest.mark.parametrize("indexed", [False, True], ids=["all_rows", "masked_rows"])
@pytest.mark.parametrize(("pattern", "sequences"), FORMS, ids=["the_seed", *PATTERNS])
def test_loss_and_gradients_are_those_of_the_doubled_batch(drawn, pattern, sequences, indexed):
    model, samples, noise = drawn(pattern)
    unwritable = tuple(set(range(VOCAB_SIZE)) - set(writable(model.config)))
    packed = ours(model, samples, noise)
    literal = literal_loss(model, sequences(model, samples, noise), indexed, unwritable)
    assert packed.dtype == torch.float64
    torch.testing.assert_close(packed, literal, rtol=0, atol=1e-10)
    assert packed > 1
    expected = gradients(model, samples, literal)
    for name, gradient in gradients(model, samples, packed).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)
        assert gradient.abs().max() > 1e-6, name


def test_the_seeds_loss_is_its_formula(drawn):
    """Uniform logits: every token costs ln V, so the loss is ln V times the weights, over 2B and each length."""
    model, samples, noise = drawn("bidirectional")
    torch.nn.init.zeros_(model.lm_head.weight)
    losses = [literal_loss(model, seed_sequences(model, samples, noise), indexed).item() for indexed in (False, True)]
    expected = 0.0
    for mask, p in map(first_view, noise):
        expected += sum((1 / p[i] if mask[i] else 1 / (1 - p[i])).item() / len(p) for i in range(len(p)))
    assert losses == pytest.approx([np.log(VOCAB_SIZE) * expected / (2 * len(samples))] * 2, rel=1e-12)


def test_the_seeds_sequences_are_padded_on_the_right(drawn):
    """Every sample's prompt and response begin its row, to the longest of the batch, and nobody sees the padding."""
    model, samples, noise = drawn("bidirectional")
    batch = seed_sequences(model, samples, noise)
    lengths = [P + R for P, R in zip(*RAGGED, strict=True)]
    assert batch.labels.shape == (4, max(lengths)) and max(lengths) == 17
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        P = len(sample.prompt)
        assert batch.labels[row].tolist() == [IGNORE_INDEX] * P + sample.response + [IGNORE_INDEX] * (17 - length)
        assert torch.equal(batch.embeds[row, :P], sample.prompt)
        assert batch.sees[row, 0].tolist() == [True] * length + [False] * (17 - length)
        assert torch.equal(batch.masked[row, P:length], torch.from_numpy(noise[row].masked))


def test_the_inputs_stay_as_they_are(drawn):
    """The seed overwrites the caller's labels; this form of it may not."""
    model, samples, noise = drawn("bidirectional")
    batch = seed_sequences(model, samples, noise)
    before = {name: value.clone() for name, value in vars(batch).items() if value is not None}
    first = literal_loss(model, batch)
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())
    assert torch.equal(first, literal_loss(model, batch))
