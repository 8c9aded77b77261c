"""The loop that the benchmark measures against does what ours does: it is a baseline, not a straw man."""

import pytest
import torch

from dllm.core import sampler
from dllm.core.decoding import Decoding
from dllm.core.prompt import Prompt
from oracles import reference_loop
from oracles.models import MASK, NUM_TOKENS, STOP, VOCAB_SIZE, bias_head, random_ids, tiny_model

UNWRITABLE = [MASK, *range(NUM_TOKENS, VOCAB_SIZE)]


def model_and_prompt(seed: int):
    """A bidirectional model in float64 that can write no stop token of its own, and a prompt [1, 7, D]."""
    model = tiny_model("bidirectional", seed=seed, initializer_range=0.6, stop_token_ids=[VOCAB_SIZE - 1])
    ids = random_ids(7, torch.Generator().manual_seed(seed))
    return model, model.embed(torch.tensor([ids])).detach()


@pytest.mark.parametrize(
    ("gen_length", "block_length", "steps"),
    [(16, 16, 16), (16, 16, 6), (16, 4, 16), (16, 4, 12), (16, 4, 4), (24, 8, 24), (24, 8, 9), (24, 8, 6)],
)
@pytest.mark.parametrize("seed", [2, 5])
def test_it_writes_what_the_uncached_sampler_writes(gen_length, block_length, steps, seed):
    """Greedy and in float64, token for token, while nothing stops early."""
    model, prompt = model_and_prompt(seed)
    report = reference_loop.generate(model, prompt, gen_length, block_length, steps, UNWRITABLE)
    valid = torch.ones(1, prompt.shape[1], dtype=torch.bool)
    decoding = Decoding(gen_length, block_length, steps, cache="none")
    ours = sampler.generate(model, Prompt.left_padded(prompt, valid), decoding)
    assert report.ids.tolist() == ours.ids[0].tolist()
    assert report.steps == ours.steps.item() == steps
    assert len(set(report.ids.tolist())) > 5  # not one token over and over


def test_every_step_runs_prompt_and_canvas_through_trunk_and_head():
    """Nothing is spared, and nothing is done twice."""
    model, prompt = model_and_prompt(2)
    rows = {"trunk": [], "head": []}
    model.model.register_forward_hook(lambda module, args, out: rows["trunk"].append(out.last_hidden_state.shape[1]))
    model.lm_head.register_forward_hook(lambda module, args, out: rows["head"].append(out.shape[1]))
    report = reference_loop.generate(model, prompt, 16, 4, 8, UNWRITABLE)
    assert report.steps == 8
    assert rows == {"trunk": [7 + 16] * 8, "head": [7 + 16] * 8}


def test_a_stop_sequence_ends_the_report():
    """One that begins with a block: until then everything is as without it."""
    model, prompt = model_and_prompt(5)
    whole = reference_loop.generate(model, prompt, 16, 4, 16, UNWRITABLE).ids.tolist()
    stop = whole[8:10]
    assert not any(whole[i : i + 2] == stop for i in range(8))
    report = reference_loop.generate(model, prompt, 16, 4, 16, UNWRITABLE, stop_sequences=[[STOP] * 3, stop])
    assert report.ids.tolist() == whole[:8]
    assert report.steps <= 12  # the last block was never begun


def test_places_before_a_stop_are_still_written_and_those_after_it_are_not():
    model, prompt = model_and_prompt(4)
    bias_head(model, {STOP: 2.0})
    report = reference_loop.generate(model, prompt, 16, 16, 16, UNWRITABLE, stop_sequences=[[STOP]])
    assert 0 < len(report.ids) < report.steps < 16
    assert not torch.isin(report.ids, torch.tensor([STOP, MASK])).any()


def test_the_seconds_of_trunk_head_and_softmax_are_told_apart():
    """A clock that ticks once per call: every step spends one tick in each part."""
    ticks = iter(range(1000))
    model, prompt = model_and_prompt(2)
    report = reference_loop.generate(model, prompt, 16, 4, 8, UNWRITABLE, clock=lambda: next(ticks))
    assert report.seconds == {"trunk": 8, "head": 8, "softmax": 8}
