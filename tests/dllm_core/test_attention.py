"""The attention patterns against loops over pairs of tokens, in the layouts that training and sampling really build."""

from types import SimpleNamespace

import pytest
import torch

from dllm.core.attention import CLEAN, NOISY, PROMPT, Layout, allowed, layer_masks
from dllm.core.decoding import Decoding
from dllm.core.objective import target_losses
from dllm.core.patterns import BLOCKWISE, PATTERNS
from dllm.core.prompt import Prompt
from dllm.core.sampler import generate
from oracles.attention import may_see, one_sequence, packed_tokens
from oracles.batches import layouts_of, pack, random_samples, spy
from oracles.models import left_padded, tiny_model

PROMPTS, RESPONSES = [3, 0, 7, 5], [9, 4, 2, 0]


def training_layout(pattern: str, paired: bool) -> Layout:
    model = tiny_model(pattern)
    calls = spy(model, "trunk")
    batch = pack(random_samples(model, PROMPTS, RESPONSES))
    (layout,) = layouts_of(lambda: target_losses(model, *batch, paired))
    ((_, mask, position),) = calls
    assert torch.equal(mask, layout.mask(pattern)) and position is layout.position
    return layout


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_training_mask_is_that_of_the_oracle(pattern, paired):
    layout = training_layout(pattern, paired)
    mask = layout.mask(pattern)[:, 0].tolist()
    views = 2 if paired else 1
    rows = len(PROMPTS) * (views if pattern == "bidirectional" else 1)
    assert len(mask) == rows
    for row, sees in enumerate(mask):
        P, R = PROMPTS[row % len(PROMPTS)], RESPONSES[row % len(PROMPTS)]
        prompt = [False] * (max(PROMPTS) - P) + [True] * P
        response = [True] * R + [False] * (max(RESPONSES) - R)
        tokens = packed_tokens(pattern, prompt, response, 4, 1 if pattern == "bidirectional" else views)
        assert len(sees) == len(tokens)
        for q, query in enumerate(tokens):
            if query["real"]:
                assert sees[q] == [may_see(pattern, query, key) for key in tokens], (row, q)
            else:
                assert sees[q][q], "padding sees itself, so that its softmax is not empty"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_padding_is_ever_seen(pattern):
    layout = training_layout(pattern, paired=True)
    mask = layout.mask(pattern)[:, 0]
    others = ~torch.eye(mask.shape[-1], dtype=torch.bool)
    assert not (mask & others & ~layout.valid[:, None, :]).any()


@pytest.mark.parametrize("pattern", ["prefix", *BLOCKWISE])
def test_views_never_see_each_other(pattern):
    layout = training_layout(pattern, paired=True)
    mask, noisy = layout.mask(pattern)[:, 0], layout.role == NOISY
    assert layout.view[noisy].unique().tolist() == [0, 1]
    across = noisy[:, :, None] & noisy[:, None, :] & (layout.view[:, :, None] != layout.view[:, None, :])
    assert across.any() and not (mask & across).any()


@pytest.mark.parametrize("pattern", BLOCKWISE)
def test_later_blocks_and_the_noisy_copy_of_earlier_blocks_are_out_of_sight(pattern):
    layout = training_layout(pattern, paired=True)
    mask = layout.mask(pattern)[:, 0]
    query_block, key_block = layout.block[:, :, None], layout.block[:, None, :]
    noisy_key = (layout.role == NOISY)[:, None, :]
    assert layout.block.max() == 2
    assert not (mask & (key_block > query_block)).any()
    assert not (mask & noisy_key & (key_block != query_block)).any()
    own = (layout.role == CLEAN)[:, None, :] & (layout.role == NOISY)[:, :, None] & (key_block == query_block)
    assert not (mask & own).any(), "the clean copy of its own block would give the answer away"


def test_a_clean_token_sees_all_clean_tokens_before_it_and_none_after_it():
    """And a noisy one its whole block, on both sides."""
    layout = training_layout("causal_block", paired=True)
    mask = layout.mask("causal_block")[:, 0]
    for role, expected in ((CLEAN, torch.ones_like(mask).tril()), (NOISY, torch.ones_like(mask))):
        copy = (layout.role == role) & layout.valid
        pairs = copy[:, :, None] & copy[:, None, :]
        if role == NOISY:
            pairs &= layout.view[:, :, None] == layout.view[:, None, :]
            pairs &= layout.block[:, :, None] == layout.block[:, None, :]
        assert torch.equal(mask & pairs, expected & pairs)


@pytest.mark.parametrize("pattern", ["prefix", *BLOCKWISE])
def test_the_prompt_never_sees_the_response(pattern):
    layout = training_layout(pattern, paired=True)
    prompt = layout.role == PROMPT
    assert not (layout.mask(pattern)[:, 0] & prompt[:, :, None] & ~prompt[:, None, :]).any()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_8_every_copy_of_the_response_has_the_positions_that_follow_its_prompt(pattern):
    layout = training_layout(pattern, paired=True)
    copies = {"bidirectional": 1, "prefix": 2, "block": 3, "causal_block": 3}[pattern]
    R = max(RESPONSES)
    for row, positions in enumerate(layout.position.tolist()):
        P = PROMPTS[row % len(PROMPTS)]
        assert positions[max(PROMPTS) - P : max(PROMPTS)] == list(range(P))
        assert positions[max(PROMPTS) :] == list(range(P, P + R)) * copies
    assert layout.valid.shape == layout.role.shape == layout.position.shape


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_sampling_mask_is_that_of_one_sequence(pattern):
    model = tiny_model(pattern)
    calls = spy(model, "trunk")
    P, gen_length, block_length = 3, 10, 4
    prompts = [sample.prompt for sample in random_samples(model, [P, 1], [1, 1])]
    generate(model, left_padded(prompts), Decoding(gen_length, block_length, gen_steps=3, cache="none"))
    assert len(calls) == 3
    for block, (_, mask, position, cache) in enumerate(calls):
        R = (block + 1) * block_length if pattern in BLOCKWISE else 12
        assert cache is None
        assert mask[0, 0].tolist() == one_sequence(pattern, P, R, block_length)
        assert mask[1, 0, 2:, 2:].tolist() == one_sequence(pattern, 1, R, block_length)
        assert not mask[1, 0, 2:, :2].any()
        assert position[0].tolist() == list(range(P + R))
        assert position[1, 2:].tolist() == list(range(1 + R))


def test_no_mask_means_that_all_is_seen():
    """Where nothing is padded and the pattern hides nothing, the trunk is given no mask, and must not be causal."""
    model = tiny_model("bidirectional")
    calls = spy(model, "trunk")
    embeds = random_samples(model, [6], [1])[0].prompt
    generate(model, left_padded([embeds]), Decoding(8, 8, gen_steps=1))
    assert calls[0][1] is None
    position = torch.arange(6)[None]
    unmasked = model.trunk(embeds[None], None, position)
    torch.testing.assert_close(unmasked, model.trunk(embeds[None], torch.ones(1, 1, 6, 6).bool(), position))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_some_queries_against_all_keys_are_rows_of_the_mask(pattern):
    """What a cache and FlexAttention ask of the predicate."""
    layout = training_layout(pattern, paired=True)
    some, every = torch.tensor([4, 0, 11]), torch.arange(layout.role.shape[1])
    queries = Layout(*(attribute[..., some, None] for attribute in layout))
    keys = Layout(*(attribute[..., None, every] for attribute in layout))
    ahead = some[:, None] - every
    assert torch.equal(allowed(pattern, queries, keys, ahead), layout.mask(pattern)[:, 0, some])
    part = layout.mask(pattern, slice(2, 9), slice(12))
    assert torch.equal(part, layout.mask(pattern)[:, :, 2:9, :12])


def test_layers_with_a_window_have_a_mask_of_their_own_by_position():
    config = SimpleNamespace(layer_types=["sliding_attention", "full_attention"], sliding_window=3)
    valid = torch.tensor([[False, False, True, True], [True] * 4])
    prompt = Prompt.left_padded(torch.zeros(2, 4, 1), valid)
    views = [
        Layout.of_response(NOISY, view, torch.ones(2, 5).bool(), prompt.response_positions(5), 5) for view in (0, 1)
    ]
    layout = Layout.cat([prompt.layout(), *views])
    masks = layer_masks(config, 14, lambda window: layout.mask("prefix", window=window))
    near = (layout.position[:, :, None] - layout.position[:, None]).abs() < 3
    assert torch.equal(masks["full_attention"], layout.mask("prefix"))
    itself = torch.eye(14).bool()
    assert torch.equal(masks["sliding_attention"], masks["full_attention"] & (near | itself)[:, None])
    assert not torch.equal(masks["sliding_attention"], masks["full_attention"])
    assert masks["sliding_attention"][0, 0, 9, 3], "the second view is next to the prompt, with the first one between"


@pytest.mark.parametrize("window", [14, None])
def test_a_window_that_nothing_leaves_is_none(window):
    config = SimpleNamespace(layer_types=["sliding_attention", "full_attention"], sliding_window=window or 15)
    asked = []
    masks = layer_masks(config, 14, lambda window: asked.append(window) or object())
    assert asked == [None] and masks["sliding_attention"] is masks["full_attention"]
    one = object()
    assert layer_masks(SimpleNamespace(layer_types=["full_attention"]), 14, lambda window: one) is one
    assert layer_masks(SimpleNamespace(), 14, lambda window: one) is one


def test_padding_and_the_masked_twin_of_a_prompt_keep_its_extras_in_place():
    prompt = Prompt.left_padded(torch.randn(2, 3, 4), torch.ones(2, 3).bool())
    prompt.extras = {"seen": torch.ones(2, 3).bool(), "deep": torch.randn(2, 3, 2, 4)}
    padded, masked = prompt.padded(8), prompt.masked(torch.zeros(4))
    assert padded.extras["seen"].tolist() == [[False] * 5 + [True] * 3] * 2
    assert torch.equal(padded.extras["deep"][:, 5:], prompt.extras["deep"]) and not padded.extras["deep"][:, :5].any()
    assert {name: value.shape for name, value in masked.extras.items()} == {"seen": (2, 3), "deep": (2, 3, 2, 4)}
    assert not any(value.any() for value in masked.extras.values()), "guidance leads away from all that was given"


def test_an_unknown_pattern_is_refused():
    layout = Layout.of_prompt(torch.ones(1, 2, dtype=torch.bool), torch.arange(2)[None])
    with pytest.raises(ValueError, match="'causal'.*bidirectional, prefix, block, causal_block"):
        layout.mask("causal")


def test_positions_with_several_axes_go_on_from_the_furthest():
    valid = torch.tensor([[False, True, True], [True, True, True]])
    first = torch.tensor([[9, 0, 1], [0, 1, 2]])
    prompt = Prompt(torch.zeros(2, 3, 8), valid, torch.stack([first, first + 4]))
    assert prompt.response_positions(2).tolist() == [[[6, 7], [7, 8]]] * 2


def test_positions_of_an_empty_prompt_begin_at_0():
    prompt = Prompt.left_padded(torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool))
    assert prompt.response_positions(3).tolist() == [[0, 1, 2]] * 2
