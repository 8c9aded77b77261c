"""What the caches compute, and how little: approximations against their oracle, rows fed to the trunk, fixed shapes."""

import copy
from dataclasses import replace

import pytest
import torch

from dllm.core.decoding import CACHES, Decoding
from dllm.core.graphs import Recorder
from dllm.core.patterns import BLOCKWISE, PATTERNS
from dllm.core.sampler import denoise, generate, without_finished
from oracles.batches import random_samples, spy
from oracles.models import MASK, STOP, TAIL, bias_head, left_padded, tiny_model
from oracles.stale_keys import sample_with_stale_keys

APPROXIMATE = ["fastdllm_prefix", "fastdllm_dual", "dllmcache"]


def endless_model(pattern: str, **settings):
    """A model that never stops."""
    model = tiny_model(pattern, **settings)
    bias_head(model, {STOP: -100.0, TAIL: -100.0})
    return model


def prompts_of(model, lengths: list[int]) -> list[torch.Tensor]:
    return [each.prompt for each in random_samples(model, lengths, [1] * len(lengths), seed=9)]


def rows_fed(calls: list[tuple]) -> list[int]:
    """How many tokens each call of the trunk was given."""
    return [embeds.shape[1] for embeds, *_ in calls]


@pytest.mark.parametrize("lengths", [[5], [3, 8, 6]])
@pytest.mark.parametrize("cache", APPROXIMATE)
def test_an_approximate_cache_does_what_its_paper_says(cache, lengths):
    model = endless_model("bidirectional")
    prompts = prompts_of(model, lengths)
    decoding = Decoding(24, 12, cache=cache, prompt_interval=6, response_interval=4)
    written = generate(model, left_padded(prompts), decoding)
    exact = generate(model, left_padded(prompts), Decoding(24, 12))
    assert not torch.equal(written.ids, exact.ids), "the case is real: it is an approximation"
    for row, prompt in enumerate(prompts):
        expected, num_stale = sample_with_stale_keys(model, prompt, 24, 12, cache, (6, 4))
        assert num_stale >= 18
        assert written.ids[row].tolist() == expected


def test_what_each_cache_computes_anew():
    """Tokens given to the trunk, step by step: prompt 5, two blocks of 4."""
    expected = {
        ("bidirectional", "none"): [13] * 8,
        ("prefix", "none"): [13] * 8,
        ("block", "none"): [9] * 4 + [13] * 4,
        ("causal_block", "none"): [9] * 4 + [13] * 4,
        ("prefix", "exact"): [13] + [8] * 7,
        ("block", "exact"): [9, 4, 4, 4, 8, 4, 4, 4],
        ("causal_block", "exact"): [9, 4, 4, 4, 8, 4, 4, 4],
        ("bidirectional", "fastdllm_prefix"): [13, 8, 8, 8, 13, 4, 4, 4],
        ("bidirectional", "fastdllm_dual"): [13, 4, 4, 4, 13, 4, 4, 4],
        ("bidirectional", "dllmcache"): [13, 4, 8, 13, 13, 4, 8, 13],
    }
    assert set(expected) == {(pattern, cache) for cache, patterns in CACHES.items() for pattern in patterns}
    for (pattern, cache), fed in expected.items():
        model = endless_model(pattern)
        calls = spy(model, "trunk")
        prompt = left_padded(prompts_of(model, [5, 2]))
        generate(model, prompt, Decoding(8, 4, cache=cache, prompt_interval=3, response_interval=2))
        assert rows_fed(calls) == fed, (pattern, cache)


@pytest.mark.parametrize("cache, fed", [("none", [5, 6, 7, 8]), ("exact", [5, 1, 1, 1])])
def test_in_causal_blocks_of_one_a_step_feeds_what_has_been_written_and_no_mask(cache, fed):
    model = endless_model("causal_block")
    calls = spy(model, "trunk")
    generate(model, left_padded(prompts_of(model, [5, 2])), Decoding(4, 1, cache=cache))
    assert rows_fed(calls) == fed


@pytest.mark.parametrize("pattern", BLOCKWISE)
def test_blocks_that_an_initial_canvas_fills_are_committed_with_the_next_one(pattern):
    model = endless_model(pattern)
    prompts = prompts_of(model, [5])
    initial = torch.tensor([[7, 8, 9, 10, 11, 12, 13, 14, MASK, 15]])
    calls = spy(model, "trunk")
    written = generate(model, left_padded(prompts), Decoding(12, 4), initial_canvas=initial)
    assert rows_fed(calls) == [5 + 12, 4, 4], "both full blocks and the prompt, in the forward of the first open one"
    uncached = generate(model, left_padded(prompts), Decoding(12, 4, cache="none"), initial_canvas=initial)
    assert torch.equal(written.ids, uncached.ids)
    given = initial != MASK
    assert torch.equal(written.ids[:, :10][given], initial[given])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_head_sees_only_places_that_are_open(pattern):
    """One token a step: 4 rows of the block, 3, 2, 1, for each of the prompts."""
    model = endless_model(pattern)
    calls = spy(model, "logits")
    generate(model, left_padded(prompts_of(model, [3, 5])), Decoding(8, 4))
    assert [len(hidden) for (hidden,) in calls] == [8, 6, 4, 2] * 2


@pytest.mark.parametrize("pattern", BLOCKWISE)
def test_a_finished_row_takes_its_keys_along(pattern):
    """Rows that stop early leave; those that stay go on with their own keys, guided and not."""
    model = tiny_model(pattern)
    bias_head(model, {STOP: 0.5})
    prompts = prompts_of(model, [3, 5, 2, 7, 4, 6, 1, 8])
    decoding = Decoding(24, 4, cfg_scale=0.5, temperature=1.5)
    calls = spy(model, "trunk")
    together = generate(model, left_padded(prompts), decoding)
    sizes = [len(embeds) for embeds, *_ in calls]
    assert len(set(sizes)) > 2, "the case is real: the batch shrinks more than once"
    for row, prompt in enumerate(prompts):
        alone = generate(model, left_padded([prompt]), decoding, seeds=[row])
        assert alone.ids[0].tolist() == together.ids[row].tolist()


CASES = [(pattern, cache, 8) for cache, patterns in CACHES.items() for pattern in patterns]
CASES += [("causal_block", "exact", 1)]
RULES = [{"gen_steps": 12}, {"threshold": 0.3}, {"cfg_scale": 1.5}, {"temperature": 0.8, "factor": 1.0}]


def num_recordings(model) -> int:
    return sum(len(each.recordings) for each in model._recorders)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("pattern, cache, block_length", CASES)
def test_recorded_steps_write_the_same_tokens_and_are_recorded_once(pattern, cache, block_length, rule):
    """Prompts of several lengths in a batch that shrinks; others of those lengths find what the first ones left."""
    model = tiny_model(pattern)
    bias_head(model, {STOP: 1.0})
    prompts = [left_padded(prompts_of(model, lengths)) for lengths in ([3, 7, 5, 2], [7, 2, 3, 6])]
    recordings = []
    for prompt in [*prompts, prompts[0]]:
        decoding = Decoding(24, block_length, cache=cache, prompt_interval=5, response_interval=2, **rule)
        expected = generate(model, prompt, decoding)
        written = generate(model, prompt, replace(decoding, compile=True))
        assert torch.equal(written.ids, expected.ids) and torch.equal(written.steps, expected.steps)
        recordings.append(num_recordings(model))
    assert recordings[2] == recordings[1] and len(model._recorders) == (2 if "cfg_scale" in rule else 1)


def test_a_recorded_quota_goes_through_the_head_once_for_each_place_that_can_be_open():
    model = endless_model("block")
    calls = spy(model, "logits")
    decoding = Decoding(16, 8, gen_steps=6, compile=True)
    for num_calls in (2 * 6, 6):  # recorded and done, then done
        calls.clear()
        generate(model, left_padded(prompts_of(model, [3, 5])), decoding)
        assert sorted({len(hidden) for (hidden,) in calls}) == [4, 10, 16] and len(calls) <= num_calls


def test_generations_that_take_turns_have_memory_of_their_own():
    model, decoding = endless_model("block"), Decoding(16, 4, gen_steps=8, compile=True)
    prompts = [left_padded(prompts_of(model, lengths)) for lengths in ([3, 6], [5, 4])]
    alone = [generate(model, prompt, decoding).ids for prompt in prompts]
    turns = [denoise(model, prompt, decoding) for prompt in prompts]
    canvases = [[step.canvas for step in pair] for pair in zip(*turns, strict=True)][-1]
    assert all(map(torch.equal, canvases, alone)) and not torch.equal(*alone)
    del turns
    generate(model, prompts[0], decoding)
    assert len(model._recorders) == 2, "memory that is free again is used"


def test_what_was_recorded_in_memory_that_has_become_too_small_is_forgotten():
    model, decoding = endless_model("block"), Decoding(8, 4)
    for lengths in ([3], [3, 6, 5], [4]):
        prompt = left_padded(prompts_of(model, lengths))
        written = generate(model, prompt, replace(decoding, compile=True)).ids
        assert torch.equal(written, generate(model, prompt, decoding).ids)


def test_what_was_recorded_is_forgotten_when_weights_move_and_does_not_go_along_with_copies():
    model, decoding = endless_model("block"), Decoding(8, 4, compile=True)
    prompt = left_padded(prompts_of(model, [3, 6]))
    expected = generate(model, prompt, decoding).ids
    other = copy.deepcopy(model)
    assert other._recorders == []
    (before,) = model._recorders
    for weight in model.parameters():
        weight.data = weight.data.clone()
    assert torch.equal(generate(model, prompt, decoding).ids, expected)
    assert before not in model._recorders and len(model._recorders) == 1


def test_what_a_recording_returned_stays_when_it_runs_again():
    recorder, double = Recorder([]), lambda values: {"twice": values * 2}
    first = recorder.run("double", double, torch.tensor([1.0, 2.0]))
    second = recorder.run("double", double, torch.tensor([3.0, 4.0]))
    assert first["twice"].tolist() == [2, 4] and second["twice"].tolist() == [6, 8]
    assert len(recorder.recordings) == 1
    assert recorder.run("double", double, torch.ones(3))["twice"].tolist() == [2, 2, 2], "another shape, another graph"


@pytest.mark.parametrize("alive, size", [(8, 8), (5, 8), (4, 4), (3, 4), (2, 2), (1, 1), (0, 0)])
def test_a_compiled_batch_shrinks_by_halves(alive, size):
    todo = torch.zeros(8, 4, dtype=torch.bool)
    todo[torch.tensor([1, 6, 3, 0, 7, 2, 4, 5])[:alive], -1] = True
    kept = without_finished(torch.arange(8), todo, [], Decoding(4, 4, compile=True))
    assert len(kept) == size and set(todo.any(1).nonzero()[:, 0].tolist()) <= set(kept.tolist())
    eager = without_finished(torch.arange(8), todo, [], Decoding(4, 4))
    assert sorted(eager.tolist()) == todo.any(1).nonzero()[:, 0].tolist()
