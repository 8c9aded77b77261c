"""What the caches compute, and how little: approximations against their oracle, rows fed to the trunk, fixed shapes."""

import pytest
import torch

from dllm.core.attention import PATTERNS
from dllm.core.cache import CachedTrunk
from dllm.core.decoding import CACHES, Decoding
from dllm.core.sampler import generate, without_finished
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
        ("prefix", "exact"): [13] + [8] * 7,
        ("block", "exact"): [9, 4, 4, 4, 8, 4, 4, 4],
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


def test_blocks_that_an_initial_canvas_fills_are_committed_with_the_next_one():
    model = endless_model("block")
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


def test_a_finished_row_takes_its_keys_along():
    """Rows that stop early leave; those that stay go on with their own keys, guided and not."""
    model = tiny_model("block")
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


def test_compiled_steps_write_the_same_tokens_and_are_compiled_once():
    """Through the real compiler; a batch that shrinks, prompts of several lengths, a quota and a threshold."""
    model = tiny_model("block")
    bias_head(model, {STOP: 2.0})
    prompt = left_padded(prompts_of(model, [3, 7, 5, 2]))
    for length, arguments in ((8, {}), (24, {"threshold": 0.3})):
        expected = generate(model, prompt, Decoding(length, 8, **arguments))
        num_graphs = []
        for _ in range(2):
            torch._dynamo.utils.counters.clear()
            written = generate(model, prompt, Decoding(length, 8, compile=True, **arguments))
            assert torch.equal(written.ids, expected.ids) and torch.equal(written.steps, expected.steps)
            num_graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        # the trunk sees prompt and block, the block, two blocks; the last two also at half the batch
        assert 0 < num_graphs[0] <= 8 and num_graphs[1] == 0
    assert expected.steps.min() < expected.steps.max()


@pytest.mark.parametrize("rows", [1, 3])
def test_the_hidden_states_of_a_block_are_a_copy(rows):
    """A CUDA graph's output is overwritten by the next one that runs."""
    model, outputs = tiny_model("block"), []
    trunk = model.trunk
    model.trunk = lambda *args: outputs.append(trunk(*args)) or outputs[-1]
    context = CachedTrunk(model, left_padded(prompts_of(model, [3] * rows)), Decoding(8, 4))
    for step in range(2):
        with torch.no_grad():
            hidden = context.block_hidden(torch.full((rows, 8), MASK), 0, step)
            kept = hidden.clone()
            outputs[-1].zero_()
        assert torch.equal(hidden, kept) and hidden.is_contiguous()


@pytest.mark.parametrize("alive, size", [(8, 8), (5, 8), (4, 4), (3, 4), (2, 2), (1, 1), (0, 0)])
def test_a_compiled_batch_shrinks_by_halves(alive, size):
    todo = torch.zeros(8, 4, dtype=torch.bool)
    todo[torch.tensor([1, 6, 3, 0, 7, 2, 4, 5])[:alive], -1] = True
    kept = without_finished(torch.arange(8), todo, [], Decoding(4, 4, compile=True))
    assert len(kept) == size and set(todo.any(1).nonzero()[:, 0].tolist()) <= set(kept.tolist())
    eager = without_finished(torch.arange(8), todo, [], Decoding(4, 4))
    assert sorted(eager.tolist()) == todo.any(1).nonzero()[:, 0].tolist()
