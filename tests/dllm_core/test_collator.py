"""Batches: where prompts, responses, tails, masks and weights lie."""

import numpy as np
import pytest

from dllm.core.losses import IGNORE_INDEX
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import BLOCKWISE, NO_PROMPT
from dllm.data.collator import ResponseCollator, canvas_length
from oracles.models import TAIL, tiny_config

PAD = TAIL
SAMPLES = [
    {"prompt_ids": [1, 2, 3], "response_ids": [11, 12, 13, 14, 15], "position": 4},
    {"prompt_ids": [4], "response_ids": [21, 22], "position": 9},
]


@pytest.mark.parametrize(
    "pattern, num_tokens, expected",
    [("block", 1, 4), ("block", 4, 4), ("block", 5, 8), ("block", 500, 500), ("block", 501, 504)]
    + [("causal_block", 4, 4), ("causal_block", 501, 504)]
    + [(pattern, tokens, 12) for pattern in ("prefix", "bidirectional") for tokens in (1, 10, 12)],
)
def test_the_canvas_ends_with_its_block_or_is_the_whole_one(pattern, num_tokens, expected):
    assert canvas_length(tiny_config(pattern, block_length=4, gen_length=10), num_tokens) == expected


@pytest.mark.parametrize("pattern", ["prefix", "bidirectional"])
def test_a_response_beyond_the_canvas_is_refused(pattern):
    with pytest.raises(ValueError, match=r"13 tokens.*gen_length \(12\)"):
        canvas_length(tiny_config(pattern, block_length=4, gen_length=10), 13)


@pytest.mark.parametrize("pattern", BLOCKWISE)
def test_a_batch(pattern):
    """Block-wise each block has noise of its own."""
    collate = ResponseCollator(tiny_config(pattern, block_length=4), ForwardProcess("pair", seed=2))
    batch = collate(SAMPLES)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [PAD, PAD, 4]]
    assert batch["attention_mask"].tolist() == [[True, True, True], [False, False, True]]
    assert batch["labels"].tolist() == [
        [11, 12, 13, 14, 15, TAIL, TAIL, TAIL],
        [21, 22, TAIL, TAIL] + [IGNORE_INDEX] * 4,
    ]
    assert batch["tail"].tolist() == [[False] * 5 + [True] * 3, [False, False, True, True] + [False] * 4]
    for row, (sample, canvas) in enumerate(zip(SAMPLES, (8, 4), strict=True)):
        noise = ForwardProcess("pair", seed=2).draw(sample["position"], canvas, block_length=4)
        for name in noise._fields:
            np.testing.assert_allclose(batch[name][row, :canvas], getattr(noise, name), rtol=1e-6)
            assert not batch[name][row, canvas:].any()


@pytest.mark.parametrize("pattern", ["prefix", "bidirectional"])
def test_a_canvas_that_is_seen_whole_has_one_noise(pattern):
    collate = ResponseCollator(tiny_config(pattern, block_length=4, gen_length=12), ForwardProcess("stratified"))
    batch = collate(SAMPLES)
    for row, sample in enumerate(SAMPLES):
        noise = ForwardProcess("stratified").draw(sample["position"], 12)
        for name in noise._fields:
            np.testing.assert_allclose(batch[name][row], getattr(noise, name), rtol=1e-6)


def test_prompts_are_padded_to_a_multiple():
    collate = ResponseCollator(tiny_config("block", block_length=4), ForwardProcess("pair"), pad_to_multiple_of=4)
    batch = collate(SAMPLES)
    assert batch["input_ids"].tolist() == [[PAD, 1, 2, 3], [PAD, PAD, PAD, 4]]
    assert batch["attention_mask"].tolist() == [[False, True, True, True], [False, False, False, True]]
    assert batch["labels"].shape == (2, 8)


def test_a_sample_has_the_same_noise_in_every_batch():
    collate = ResponseCollator(tiny_config("block", block_length=4), ForwardProcess("pair"))
    together, alone = collate(SAMPLES), collate(SAMPLES[1:])
    for name in ("masked", "weights", "labels", "tail"):
        assert together[name][1, :4].tolist() == alone[name][0].tolist()


def test_without_prompts():
    collate = ResponseCollator(tiny_config("block"), ForwardProcess("pair"))
    batch = collate([{"prompt_ids": [], "response_ids": [5, 6], "position": 0}])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 0)
    assert batch["labels"].shape == (1, 4)


@pytest.mark.parametrize("before", [[], SAMPLES])
def test_a_sample_without_prompt_is_refused_where_tokens_follow_the_one_before(before):
    collate = ResponseCollator(tiny_config("causal_block"), ForwardProcess("pair"), pad_to_multiple_of=4)
    with pytest.raises(ValueError, match=NO_PROMPT):
        collate([*before, {"prompt_ids": [], "response_ids": [5, 6], "position": 0}])
