"""The denoising loop against its oracle, and what must hold whatever the model says."""

import numpy as np
import pytest
import torch

from dllm.core.cache import CachedTrunk
from dllm.core.decoding import Decoding
from dllm.core.patterns import NO_PROMPT, PATTERNS
from dllm.core.sampler import denoise, generate
from dllm.core.selection import step_quota
from oracles.batches import random_samples, with_prompts
from oracles.models import HIDDEN, MASK, NUM_TOKENS, STOP, TAIL, bias_head, left_padded, tiny_model
from oracles.sampling import block_hidden, sample, steps_of_a_block
from oracles.training import writable_logits

NUM_CASES = 245
CASE_PATTERNS = ("bidirectional", *2 * ("prefix", "block", "causal_block"))


def random_case(case: int) -> tuple[str, list[int], float, list[int], dict]:
    """(pattern, lengths of the prompts, bias of the stop token, seeds, arguments of Decoding)."""
    rng = np.random.default_rng([7, case])

    def either(*choices):
        return choices[rng.integers(len(choices))]

    prompts = rng.integers(1, 9, size=rng.integers(1, rng.integers(2, 11))).tolist()  # 1 to 9, mostly few
    seeds = rng.integers(0, 1000, size=len(prompts)).tolist()
    block_length = int(rng.integers(4, 33))
    gen_length = int(rng.integers(1, max(20, block_length + 8)))
    rules = [{}, {"gen_steps": int(rng.integers(1, gen_length + 5))}]
    rules += [{"threshold": float(rng.uniform(0.05, 0.9))}, {"factor": float(rng.uniform(0.2, 3.0))}]
    arguments = {
        "gen_length": gen_length,
        "block_length": block_length,
        "temperature": either(0.0, 0.7, 1.5),
        "cfg_scale": either(0.0, 1.5),
        **either(*rules),
    }
    if "threshold" not in arguments and "factor" not in arguments:
        arguments["remasking"] = either("low_confidence", "random")
    if arguments.get("remasking") == "random":  # with nothing to see but masks, all places are equally confident: a tie
        prompts[0] = either(0, prompts[0])
    pattern = CASE_PATTERNS[case % len(CASE_PATTERNS)]
    if pattern == "causal_block" and case % 4 == 0:
        arguments["block_length"] = 1
    return pattern, with_prompts(pattern, prompts), either(0.0, 2.0, 5.0), seeds, arguments


def drafts_of_case(case: int, rows: int, gen_length: int) -> list[list[int]] | None:
    """In every third case drafts of one length: some tokens given, sometimes whole blocks, sometimes a stop token."""
    if case % 3:
        return None
    rng = np.random.default_rng([8, case])
    length = int(rng.integers(1, gen_length + 1))
    drafts = []
    for _ in range(rows):
        canvas = rng.integers(0, MASK, size=length)
        canvas[rng.random(length) < rng.random()] = MASK
        if rng.random() < 0.2:
            end = int(rng.integers(length))
            canvas[end:] = MASK
            canvas[end] = STOP
        drafts.append(canvas.tolist())
    return drafts


def biased_model(pattern: str, stop_bias: float):
    model = tiny_model(pattern)
    bias_head(model, {STOP: stop_bias, MASK: 50.0, NUM_TOKENS + 3: 60.0})
    return model


def prompts_of(model, lengths: list[int]) -> list[torch.Tensor]:
    return [each.prompt for each in random_samples(model, lengths, [1] * len(lengths), seed=9)]


@pytest.mark.parametrize("case", range(NUM_CASES))
def test_a_ragged_batch_with_its_cache_gives_the_tokens_and_steps_of_the_uncached_oracle(case):
    pattern, lengths, stop_bias, seeds, arguments = random_case(case)
    model = biased_model(pattern, stop_bias)
    prompts, drafts = prompts_of(model, lengths), drafts_of_case(case, len(lengths), arguments["gen_length"])
    decoding = Decoding(**arguments)
    canvas = None if drafts is None else torch.tensor(drafts)
    written = generate(model, left_padded(prompts), decoding, seeds, initial_canvas=canvas)
    assert decoding.cache_for(pattern) == ("none" if pattern == "bidirectional" else "exact")
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        expected, steps = sample(model, prompt, seed=seed, initial_canvas=drafts[row] if drafts else [], **arguments)
        assert written.ids[row].tolist() == expected, (row, arguments)
        assert written.steps[row] == steps
        assert written.lengths[row] == next((i for i, t in enumerate(expected, 1) if t in (STOP, TAIL)), len(expected))


def test_the_cases_cover_what_they_should():
    """Every option in some case, in each pattern; early stops, and rows that never stop."""
    cases = [random_case(case) for case in range(NUM_CASES)]
    for pattern in PATTERNS:
        arguments = [case[-1] for case in cases if case[0] == pattern]
        assert {each.get("remasking", "by confidence") for each in arguments} >= {"low_confidence", "random"}
        assert {each["temperature"] for each in arguments} == {0.0, 0.7, 1.5}
        assert {each["cfg_scale"] for each in arguments} == {0.0, 1.5}
        for rule in ("gen_steps", "threshold", "factor"):
            assert sum(rule in each for each in arguments) > 5
        assert sum(each["gen_length"] > each["block_length"] for each in arguments) > 10
        assert any(each["gen_length"] % each["block_length"] for each in arguments)
        assert (
            min(each["block_length"] for each in arguments) <= 6
            and max(each["block_length"] for each in arguments) >= 30
        )
    assert sum(case[0] != "bidirectional" for case in cases) >= 200
    assert {len(case[1]) for case in cases} == set(range(1, 10))
    assert any(0 in case[1] for case in cases)
    stopped = []
    for pattern, lengths, stop_bias, seeds, arguments in cases[:24]:
        model = biased_model(pattern, stop_bias)
        written = generate(model, left_padded(prompts_of(model, lengths)), Decoding(**arguments), seeds)
        stopped += (written.lengths < arguments["gen_length"]).tolist()
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
        assert torch.equal(alone.ids[0], together.ids[row])
        assert alone.steps[0] == together.steps[row]
    backwards = generate(model, left_padded(prompts[::-1]), decoding, [8, 7, 6, 5])
    assert torch.equal(backwards.ids.flip(0), together.ids)


def test_randomness_comes_from_the_seed_of_the_row_alone():
    model = tiny_model("block")
    prompts = prompts_of(model, [4] * 3)
    same = left_padded([prompts[0]] * 3)
    decoding = Decoding(16, 8, temperature=1.0, remasking="random")
    torch.manual_seed(0)
    written = generate(model, same, decoding, [3, 4, 3]).ids
    torch.manual_seed(99)
    assert torch.equal(written, generate(model, same, decoding, [3, 4, 3]).ids)
    assert torch.equal(written[0], written[2]) and not torch.equal(written[0], written[1])
    assert torch.equal(generate(model, same, decoding).ids, generate(model, same, decoding, [0, 1, 2]).ids)


def test_sampling_follows_the_probabilities_of_the_temperature():
    """One place, many seeds: the frequencies are those of softmax(logits / temperature)."""
    model, temperature = tiny_model("block"), 0.8
    prompt = prompts_of(model, [5])[0]
    seen = []
    original = model.logits
    model.logits = lambda hidden: seen.append(original(hidden)) or seen[-1]
    written = generate(
        model, left_padded([prompt] * 1500), Decoding(1, 1, temperature=temperature), list(range(1500))
    ).ids
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
    hidden = model.trunk(model.embed(torch.full((1, 8), MASK)), None, torch.arange(8)[None])
    assert (model.lm_head(hidden).argmax(-1) >= MASK).any(), "the case is real: left alone, such a token would win"
    rules = ({"threshold": 0.3}, {"factor": 2.0}) if remasking == "low_confidence" else ()
    for arguments in ({}, {"cfg_scale": 3.0}, {"gen_steps": 2}, *rules):
        decoding = Decoding(16, 8, temperature=temperature, remasking=remasking, **arguments)
        written = generate(model, prompt, decoding).ids
        assert written.shape == (2, 16)
        assert (written != MASK).all() and (written < NUM_TOKENS).all() and (written >= 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_only_tail_tokens_follow_the_stop_token(pattern):
    model = biased_model(pattern, 3.0)
    decoding = Decoding(20, 8, temperature=1.0)
    written = generate(model, left_padded(prompts_of(model, [4] * 12)), decoding).ids.tolist()
    stopped = [row for row in written if STOP in row[:-1] or TAIL in row[:-1]]
    assert len(stopped) >= 4
    for row in stopped:
        first = min(place for place, token in enumerate(row) if token in (STOP, TAIL))
        assert row[first + 1 :] == [TAIL] * (len(row) - first - 1)


@pytest.mark.parametrize("rule", [{"threshold": 0.15}, {"temperature": 1.5}], ids=str)
def test_rows_rest_once_their_block_is_full_and_leave_once_they_have_stopped(rule):
    """A step feeds those that work on the block; one row of four that rests is not worth a copy of the others' keys."""
    model = biased_model("block", 0.5)
    todos, sizes, trunk = [torch.ones(6, 24, dtype=torch.bool)], [], model.trunk
    model.trunk = lambda embeds, *rest: sizes.append(len(embeds)) or trunk(embeds, *rest)
    prompt = left_padded(prompts_of(model, [3, 5, 2, 7, 4, 6]))
    decoding = Decoding(24, 4, **rule)
    written = generate(model, prompt, decoding, on_step=lambda canvas, todo: todos.append(todo.clone()))
    last_block = (written.lengths - 1) // 4
    assert last_block.min() < last_block.max(), "the case is real: some rows stop before others"
    fed, current, kinds = [], None, set()
    for todo in todos[:-1]:
        blocks = todo.unflatten(1, (6, 4)).any(2)  # [rows, blocks] that have something to write
        block = int(blocks.any(0).long().argmax())
        if block != current:
            current, fed = block, [row for row in range(6) if blocks[row].any()]
        working = [row for row in fed if blocks[row, block]]
        kinds.add((len(working) < len(fed), len(working) <= 0.75 * len(fed)))
        fed = working if len(working) <= 0.75 * len(fed) else fed
        assert sizes.pop(0) == len(fed)
    assert not sizes and (True, True) in kinds
    assert (written.steps <= (last_block + 1) * 4).all()


@pytest.mark.parametrize("token", [STOP, TAIL])
def test_the_loop_ends_with_the_last_row(token):
    model = tiny_model("block")
    bias_head(model, {token: 100.0})  # a token that stops at once, everywhere
    steps = []
    prompt = left_padded(prompts_of(model, [3, 5]))
    written = generate(model, prompt, Decoding(64, 4), on_step=lambda canvas, todo: steps.append(todo.clone()))
    assert len(steps) == 1 and not steps[0].any(), "one step writes the stop token, and settles all that follows it"
    assert (written.ids[:, 0] == token).all() and (written.ids[:, 1:] == TAIL).all()
    assert written.lengths.tolist() == [1, 1] and written.steps.tolist() == [1, 1]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("arguments", [{}, {"gen_steps": 6}, {"threshold": 0.2}, {"temperature": 1.0}])
def test_on_step_sees_every_token_written_once_and_for_good(pattern, arguments):
    model = biased_model(pattern, 2.0)
    steps = []

    def on_step(canvas, todo):
        steps.append((canvas.clone(), todo.clone()))

    prompt = left_padded(prompts_of(model, with_prompts(pattern, [4, 0, 6])))
    decoding = Decoding(18, 8, **arguments)
    written = generate(model, prompt, decoding, on_step=on_step).ids
    assert steps[0][0].shape == (3, 24)
    for canvas, todo in steps:
        assert torch.equal(canvas == MASK, todo)
    for (canvas, todo), (later_canvas, later_todo) in zip(steps, steps[1:], strict=False):
        assert not (later_todo & ~todo).any(), "what is written stays written"
        changed = (canvas != later_canvas) & ~todo
        assert (later_canvas[changed] == TAIL).all(), "but for the tail of a stop token that came later"
        assert (todo & ~later_todo).any(), "every step writes something"
    is_stop = torch.isin(written, torch.tensor([STOP, TAIL])).long()
    before_stop = is_stop.cumsum(1) - is_stop == 0
    assert torch.equal(steps[-1][0][:, :18][before_stop], written[before_stop])


@pytest.mark.parametrize("arguments", [{"threshold": 0.15}, {"remasking": "random"}])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_denoise_yields_the_steps_of_generate_with_the_confidence_of_every_token(pattern, arguments):
    model, seen = biased_model(pattern, 1.0), []
    prompts, decoding = prompts_of(model, [4, 6]), Decoding(18, 8, **arguments)
    written = generate(
        model, left_padded(prompts), decoding, on_step=lambda *step: seen.append([each.clone() for each in step])
    )
    steps, kept = denoise(model, left_padded(prompts), decoding), []
    with pytest.raises(StopIteration) as end:
        while True:
            step = next(steps)
            kept.append([step.canvas.clone(), step.masked.clone(), step.confidence.clone()])
    assert len(kept) == len(seen) > 4 and torch.equal(end.value.value.ids, written.ids)
    before = torch.full_like(kept[0][0], MASK)
    for (canvas, masked, confidence), (seen_canvas, seen_masked) in zip(kept, seen, strict=True):
        assert torch.equal(canvas, seen_canvas) and torch.equal(masked, seen_masked)
        for row, place in ((canvas != before) & (canvas != TAIL)).nonzero().tolist():
            hidden = block_hidden(model, prompts[row], before[row].tolist(), place // 8, 8)
            probability = writable_logits(model, hidden[place % 8]).double().softmax(-1)[canvas[row, place]]
            assert confidence[row, place].double() == pytest.approx(probability.item(), rel=1e-4)
        before = canvas
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        next(denoise(model, left_padded(prompts), decoding, seeds=[1]))


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
    decoding = Decoding(gen_length, block_length, gen_steps)
    num_open = torch.tensor([block_length, 1])  # the second row is done after one step
    quotas = [step_quota(num_open, decoding.steps_per_block, step) for step in range(decoding.steps_per_block)]
    assert [int(quota[0]) for quota in quotas] == expected
    assert all(quota[1] == 1 for quota in quotas)
    assert steps_of_a_block(block_length, gen_steps, decoding.num_blocks, block_length) == expected


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
    assert torch.equal(generate(model, prompt, guided, unconditional=prompt).ids, plain.ids)
    masked = prompt.masked(model.embed(torch.tensor(MASK)))
    default = generate(model, prompt, guided)
    assert torch.equal(generate(model, prompt, guided, unconditional=masked).ids, default.ids)
    assert not torch.equal(default.ids, plain.ids)
    assert torch.equal(plain.nfe, plain.steps) and torch.equal(default.nfe, 2 * default.steps)
    with pytest.raises(ValueError, match="'blank_inputs' is for models that are given more"):
        generate(model, prompt, Decoding(12, 4, cfg_scale=2.0, cfg_against="blank_inputs"))


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
        ({"cfg_against": "film"}, "'film'.*no_prompt, blank_inputs"),
        ({"temperature": -0.1}, "temperature"),
        ({"cfg": 1.5}, "'cfg'.*cfg_scale"),
        ({"steps": 8}, "'steps'.*gen_steps"),
        ({"factor": 0}, "factor.*0"),
        ({"prompt_interval": 0}, "prompt_interval.*0"),
        ({"cache": "dual"}, "'dual'.*fastdllm_dual"),
        ({"cache": "fastdllm_dual"}, "'fastdllm_dual' does not fit.*'block'.*choose from none, exact"),
        ({"threshold": 0.9, "gen_steps": 8}, "gen_steps and threshold exclude"),
        ({"threshold": 0.9, "factor": 1.0}, "threshold and factor exclude"),
        ({"factor": 1.0, "remasking": "random"}, "factor goes by confidence"),
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
        {"factor": "1"},
        {"threshold": True},
        {"compile": "yes"},
        {"cache": 3},
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


def test_a_model_that_has_learnt_next_tokens_alone_writes_in_blocks_of_one():
    model = tiny_model("causal_block", block_length=1)
    assert Decoding.of(model.config).block_length == 1
    with pytest.raises(ValueError, match="block_length 4: this model has learnt next tokens alone"):
        Decoding.of(model.config, block_length=4)


def test_as_many_seeds_as_prompts():
    model = tiny_model()
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        generate(model, left_padded(prompts_of(model, [2, 3])), Decoding(8, 4), [0])


def test_what_does_not_fit_is_refused_before_any_work():
    model = tiny_model("prefix")
    prompt = left_padded(prompts_of(model, [2, 3]))
    model.trunk = model.embed = None
    given = torch.tensor([[5, MASK]]).expand(2, -1)
    for arguments, canvas, message in [
        ({"cache": "dllmcache"}, None, "'dllmcache' does not fit the attention pattern 'prefix'"),
        ({}, torch.full((2, 9), MASK), "an initial canvas of 9 tokens is longer than gen_length 8"),
        ({}, given[:1], "1 rows.*2 prompts"),
        ({}, given + 100, "ids"),
        ({}, torch.tensor([[5, STOP, MASK, 6]] * 2), "text after a stop token"),
    ]:
        with pytest.raises(ValueError, match=message):
            generate(model, prompt, Decoding(8, 4, **arguments), initial_canvas=canvas)
    model.config.attention_pattern = "causal_block"
    for lengths in ([0, 0], [3, 0]):
        rows = left_padded([torch.zeros(length, HIDDEN) for length in lengths])
        with pytest.raises(ValueError, match=NO_PROMPT):
            next(denoise(model, rows, Decoding(8, 4)))
    with pytest.raises(ValueError, match="'exact' does not fit the attention pattern 'bidirectional'.*fastdllm_prefix"):
        Decoding.of(tiny_model("bidirectional").config, cache="exact")


@pytest.mark.parametrize("case", [case for case in range(NUM_CASES) if random_case(case)[0] != "bidirectional"])
def test_fp32_logits_with_a_cache_equal_those_of_the_uncached_oracle_to_1e_5(case):
    """Of every block, at its first step and at a later one with half of it given, in ragged batches."""
    pattern, lengths, _, _, arguments = random_case(case)
    model, decoding = tiny_model(pattern, torch.float32), Decoding(**arguments)
    prompts, R, size = prompts_of(model, lengths), decoding.num_blocks * decoding.block_length, decoding.block_length
    rng = np.random.default_rng([9, case])
    text = torch.from_numpy(rng.integers(0, MASK, size=(len(lengths), R)))
    context, places = CachedTrunk(model, left_padded(prompts), decoding), torch.arange(R)
    assert context.name == "exact"
    for block in range(decoding.num_blocks):
        canvas = text.masked_fill(places >= block * size, MASK)
        steps = torch.zeros(R, dtype=torch.bool), torch.from_numpy(rng.random(R) < 0.5)
        for step, shown in enumerate(steps[:size]):
            canvas = torch.where(shown & (places // size == block), text, canvas)
            with torch.no_grad():
                logits = model.logits(context.block_hidden(canvas, block, step))[..., :MASK]
                for row, prompt in enumerate(prompts):
                    expected = model.lm_head(block_hidden(model, prompt, canvas[row].tolist(), block, size))[:, :MASK]
                    torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-5)
    assert logits.std() > 0.1
