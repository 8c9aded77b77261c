"""The denoising loop against its oracle, and what must hold whatever the model says."""

import numpy as np
import pytest
import torch

from dllm.core.attention import PATTERNS
from dllm.core.sampler import Decoding, generate
from oracles.batches import random_samples
from oracles.models import MASK, NUM_TOKENS, STOP, TAIL, bias_head, left_padded, tiny_model
from oracles.sampling import sample, steps_of_a_block

NUM_CASES = 72


def random_case(case: int) -> tuple[str, list[int], float, list[int], dict]:
    """(pattern, lengths of the prompts, bias of the stop token, seeds, arguments of Decoding)."""
    rng = np.random.default_rng([7, case])

    def either(*choices):
        return choices[rng.integers(len(choices))]

    prompts = rng.integers(1, 9, size=rng.integers(1, 6)).tolist()
    seeds = rng.integers(0, 1000, size=len(prompts)).tolist()
    gen_length = int(rng.integers(1, 25))
    arguments = {
        "gen_length": gen_length,
        "block_length": int(rng.integers(4, 17)),
        "gen_steps": either(None, int(rng.integers(1, gen_length + 5))),
        "threshold": either(None, None, float(rng.uniform(0.05, 0.9))),
        "remasking": either("low_confidence", "random"),
        "temperature": either(0.0, 0.7, 1.5),
        "cfg_scale": either(0.0, 1.5),
    }
    if arguments["remasking"] == "random":  # with nothing to see but masks, all places are equally confident: a tie
        prompts[0] = either(0, prompts[0])
    return PATTERNS[case % 3], prompts, either(0.0, 2.0, 5.0), seeds, arguments


def biased_model(pattern: str, stop_bias: float):
    model = tiny_model(pattern)
    bias_head(model, {STOP: stop_bias, MASK: 50.0, NUM_TOKENS + 3: 60.0})
    return model


def prompts_of(model, lengths: list[int]) -> list[torch.Tensor]:
    return [each.prompt for each in random_samples(model, lengths, [1] * len(lengths), seed=9)]


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_a_batch_of_ragged_prompts_gives_the_tokens_of_the_oracle(case):
    pattern, lengths, stop_bias, seeds, arguments = random_case(case)
    model = biased_model(pattern, stop_bias)
    prompts = prompts_of(model, lengths)
    written = generate(model, left_padded(prompts), Decoding(**arguments), seeds)
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        assert written[row].tolist() == sample(model, prompt, seed=seed, **arguments), (row, arguments)


def test_the_cases_cover_what_they_should():
    """Every option in some case, in each pattern; early stops, and rows that never stop."""
    cases = [random_case(case) for case in range(NUM_CASES)]
    for pattern in PATTERNS:
        arguments = [case[-1] for case in cases if case[0] == pattern]
        assert {each["remasking"] for each in arguments} == {"low_confidence", "random"}
        assert {each["temperature"] for each in arguments} == {0.0, 0.7, 1.5}
        assert {each["cfg_scale"] for each in arguments} == {0.0, 1.5}
        assert any(each["threshold"] for each in arguments) and any(each["threshold"] is None for each in arguments)
        assert any(each["gen_steps"] for each in arguments)
        assert sum(each["gen_length"] > each["block_length"] for each in arguments) > 5
        assert any(each["gen_length"] % each["block_length"] for each in arguments)
    assert {len(case[1]) for case in cases} == {1, 2, 3, 4, 5}
    assert any(0 in case[1] for case in cases)
    stopped = []
    for pattern, lengths, stop_bias, seeds, arguments in cases[:24]:
        model = biased_model(pattern, stop_bias)
        written = generate(model, left_padded(prompts_of(model, lengths)), Decoding(**arguments), seeds)
        stopped += torch.isin(written[:, :-1], torch.tensor([STOP, TAIL])).any(1).tolist()
    assert 0.2 < np.mean(stopped) < 0.8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_row_does_not_depend_on_its_neighbours(pattern, temperature):
    model = biased_model(pattern, 1.0)
    prompts = prompts_of(model, [2, 7, 4, 1])
    decoding = Decoding(14, 4, gen_steps=7, temperature=temperature, cfg_scale=0.5)
    together = generate(model, left_padded(prompts), decoding, [5, 6, 7, 8])
    for row, prompt in enumerate(prompts):
        alone = generate(model, left_padded([prompt]), decoding, [5 + row])
        assert torch.equal(alone[0], together[row])
    backwards = generate(model, left_padded(prompts[::-1]), decoding, [8, 7, 6, 5])
    assert torch.equal(backwards.flip(0), together)


def test_randomness_comes_from_the_seed_of_the_row_alone():
    model = tiny_model("block")
    prompts = prompts_of(model, [4] * 3)
    same = left_padded([prompts[0]] * 3)
    decoding = Decoding(16, 8, temperature=1.0, remasking="random")
    torch.manual_seed(0)
    written = generate(model, same, decoding, [3, 4, 3])
    torch.manual_seed(99)
    assert torch.equal(written, generate(model, same, decoding, [3, 4, 3]))
    assert torch.equal(written[0], written[2]) and not torch.equal(written[0], written[1])
    assert torch.equal(generate(model, same, decoding), generate(model, same, decoding, [0, 1, 2]))


def test_sampling_follows_the_probabilities_of_the_temperature():
    """One place, many seeds: the frequencies are those of softmax(logits / temperature)."""
    model, temperature = tiny_model("block"), 0.8
    prompt = prompts_of(model, [5])[0]
    seen = []
    original = model.logits
    model.logits = lambda hidden: seen.append(original(hidden)) or seen[-1]
    written = generate(model, left_padded([prompt] * 1500), Decoding(1, 1, temperature=temperature), list(range(1500)))
    expected = (seen[0][0] / temperature).softmax(-1)
    frequency = torch.bincount(written[:, 0], minlength=len(expected)) / 1500
    assert (frequency - expected).abs().max() < 0.03
    assert expected.max() > 0.15


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
@pytest.mark.parametrize("temperature", [0.0, 5.0])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_mask_token_and_padding_rows_never_come_out(pattern, temperature, remasking):
    """Of an untrained model with a tied head, whose best guess for a mask is the mask itself."""
    model = tiny_model(pattern, tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.model.embed_tokens.weight.data[NUM_TOKENS:] *= 5
    prompt = left_padded(prompts_of(model, [3, 6]))
    hidden = model.trunk(model.embed(torch.full((1, 8), MASK)), left_padded(prompts_of(model, [8])).layout())
    assert (model.lm_head(hidden).argmax(-1) >= MASK).any(), "the case is real: left alone, such a token would win"
    for arguments in ({}, {"cfg_scale": 3.0}, {"threshold": 0.3}, {"gen_steps": 2}):
        decoding = Decoding(16, 8, temperature=temperature, remasking=remasking, **arguments)
        written = generate(model, prompt, decoding)
        assert written.shape == (2, 16)
        assert (written != MASK).all() and (written < NUM_TOKENS).all() and (written >= 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_only_tail_tokens_follow_the_stop_token(pattern):
    model = biased_model(pattern, 3.0)
    decoding = Decoding(20, 8, temperature=1.0)
    written = generate(model, left_padded(prompts_of(model, [4] * 12)), decoding).tolist()
    stopped = [row for row in written if STOP in row[:-1] or TAIL in row[:-1]]
    assert len(stopped) >= 4
    for row in stopped:
        first = min(place for place, token in enumerate(row) if token in (STOP, TAIL))
        assert row[first + 1 :] == [TAIL] * (len(row) - first - 1)


def test_nothing_is_written_into_a_stopped_row_while_the_others_go_on():
    model = biased_model("block", 2.0)
    canvases, decoding = [], Decoding(24, 4, temperature=1.0)
    prompt = left_padded(prompts_of(model, [3, 5, 2, 7, 4, 6]))
    generate(model, prompt, decoding, on_step=lambda canvas, todo: canvases.append(canvas.clone()))
    blocks_written = []
    for row in canvases[-1].unflatten(1, (6, 4)).tolist():
        stops = [number for number, block in enumerate(row) if STOP in block or TAIL in block]
        blocks_written.append(stops[0] + 1 if stops else 6)
        assert all(block == [MASK] * 4 for block in row[blocks_written[-1] :])
    assert min(blocks_written) < max(blocks_written), "the case is real: some rows stop before others"


@pytest.mark.parametrize("token", [STOP, TAIL])
def test_the_loop_ends_with_the_last_row(token):
    model = tiny_model("block")
    bias_head(model, {token: 100.0})  # a token that stops at once, everywhere
    steps = []
    prompt = left_padded(prompts_of(model, [3, 5]))
    written = generate(model, prompt, Decoding(64, 4), on_step=lambda canvas, todo: steps.append(todo.clone()))
    assert len(steps) == 4 and steps[-1][:, 4:].all()
    assert (written[:, 0] == token).all() and (written[:, 1:] == TAIL).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("arguments", [{}, {"gen_steps": 6}, {"threshold": 0.2}, {"temperature": 1.0}])
def test_on_step_sees_every_token_written_once_and_for_good(pattern, arguments):
    model = biased_model(pattern, 2.0)
    steps = []

    def on_step(canvas, todo):
        steps.append((canvas.clone(), todo.clone()))

    written = generate(model, left_padded(prompts_of(model, [4, 0, 6])), Decoding(18, 8, **arguments), on_step=on_step)
    assert steps[0][0].shape == (3, 24)
    for canvas, todo in steps:
        assert torch.equal(canvas == MASK, todo)
    for (canvas, todo), (later_canvas, later_todo) in zip(steps, steps[1:], strict=False):
        assert not (later_todo & ~todo).any(), "what is written stays written"
        assert torch.equal(canvas[~todo], later_canvas[~todo])
        assert (todo & ~later_todo).any(), "every step writes something"
    is_stop = torch.isin(written, torch.tensor([STOP, TAIL])).long()
    before_stop = is_stop.cumsum(1) - is_stop == 0
    assert torch.equal(steps[-1][0][:, :18][before_stop], written[before_stop])


@pytest.mark.parametrize(
    "gen_length, block_length, gen_steps, expected",
    [
        (8, 4, None, [1, 1, 1, 1]),
        (8, 4, 4, [2, 2]),
        (8, 4, 5, [2, 1, 1]),  # 5 steps over 2 blocks: 3 each
        (8, 4, 1, [4]),
        (10, 8, 8, [2, 2, 2, 2]),  # two blocks
        (8, 4, 1000, [1, 1, 1, 1]),
        (5, 10, 3, [4, 3, 3]),
    ],
)
def test_steps_are_shared_out(gen_length, block_length, gen_steps, expected):
    assert Decoding(gen_length, block_length, gen_steps).quotas() == expected
    assert steps_of_a_block(gen_length, block_length, gen_steps) == expected


def test_a_threshold_commits_at_least_one_and_at_most_all():
    model = tiny_model("block")
    prompt = left_padded(prompts_of(model, [5]))
    for threshold, expected in [(1.0, 16), (1e-9, 2)]:
        steps = []
        generate(model, prompt, Decoding(16, 8, threshold=threshold), on_step=lambda *step, to=steps: to.append(step))
        assert len(steps) == expected


def test_guidance_takes_a_second_prompt():
    """Its default is mask embeddings in every place of the prompt; with the prompt itself it changes nothing."""
    model = tiny_model("prefix")
    prompt = left_padded(prompts_of(model, [5, 3]))
    plain = generate(model, prompt, Decoding(12, 4))
    guided = Decoding(12, 4, cfg_scale=2.0)
    assert torch.equal(generate(model, prompt, guided, unconditional=prompt), plain)
    masked = prompt.masked(model.embed(torch.tensor(MASK)))
    assert torch.equal(generate(model, prompt, guided, unconditional=masked), generate(model, prompt, guided))
    assert not torch.equal(generate(model, prompt, guided), plain)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"block_length": 0}, "block_length.*0"),
        ({"gen_length": 0}, "gen_length.*0"),
        ({"gen_steps": 0}, "gen_steps.*0"),
        ({"gen_steps": -3}, "gen_steps.*-3"),
        ({"gen_length": 2.5}, "gen_length.*2.5"),
        ({"gen_length": True}, "gen_length.*True"),
        ({"remasking": "entropy"}, "'entropy'.*low_confidence, random"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": 1.5}, "threshold.*1.5"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"temperature": -0.1}, "temperature"),
        ({"cfg": 1.5}, "'cfg'.*cfg_scale"),
        ({"steps": 8}, "'steps'.*gen_steps"),
    ],
)
def test_impossible_or_unknown_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Decoding.of(tiny_model().config, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"gen_length": "16"},
        {"gen_steps": "fast"},
        {"threshold": "high"},
        {"temperature": "warm"},
        {"cfg_scale": None},
        {"gen_length": None},
        {"temperature": float("nan")},
        {"gen_length": float("inf")},
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(arguments):
    """They come from a command line."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Decoding.of(tiny_model().config, **arguments)


def test_defaults_come_from_the_config():
    decoding = Decoding.of(tiny_model(block_length=8, gen_length=24).config, temperature=0.5)
    assert (decoding.gen_length, decoding.block_length, decoding.temperature) == (24, 8, 0.5)
    assert decoding == Decoding(24, 8, temperature=0.5)


def test_as_many_seeds_as_prompts():
    model = tiny_model()
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        generate(model, left_padded(prompts_of(model, [2, 3])), Decoding(8, 4), [0])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_agree_in_fp32_to_1e_5(pattern):
    """Logits of a ragged batch and of each row alone, after the same canvas."""
    model = tiny_model(pattern, torch.float32)
    prompts = prompts_of(model, [2, 7, 4])
    rows = []
    for batch in (prompts, *([prompt] for prompt in prompts)):
        seen, original = [], model.logits
        model.logits = lambda hidden, seen=seen, original=original: seen.append(original(hidden)) or seen[-1]
        generate(model, left_padded(batch), Decoding(8, 8, gen_steps=1))
        model.logits = original
        rows.append(seen[0].reshape(len(batch), 8, -1)[..., :MASK])
    for row in range(3):
        torch.testing.assert_close(rows[0][row], rows[1 + row][0], rtol=0, atol=1e-5)
