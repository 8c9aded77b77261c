"""The settings of a diffusion model are checked by name, and what must not be written cannot be."""

from dataclasses import replace

import pytest
import torch

from dllm.core.decoding import Decoding
from dllm.core.model import check_diffusion_settings, exclude_unwritable
from oracles.models import HIDDEN, MASK, NUM_TOKENS, STOP, VOCAB_SIZE, tiny_config, tiny_model


def test_good_settings_pass():
    check_diffusion_settings(tiny_config())
    check_diffusion_settings(tiny_config(num_tokens=VOCAB_SIZE, mask_token_id=VOCAB_SIZE - 1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"attention_pattern": "causal"}, "'causal'.*bidirectional, prefix, block"),
        ({"block_length": 0}, "block_length.*0"),
        ({"gen_length": 0}, "gen_length.*0"),
        ({"mask_token_id": VOCAB_SIZE}, f"mask_token_id {VOCAB_SIZE}.*vocabulary of {VOCAB_SIZE}"),
        ({"mask_token_id": 151669}, f"mask_token_id 151669.*vocabulary of {VOCAB_SIZE}"),
        ({"mask_token_id": -1}, "mask_token_id -1"),
        ({"mask_token_id": None}, "mask_token_id None"),
        ({"tail_token_id": VOCAB_SIZE}, f"tail_token_id {VOCAB_SIZE}"),
        ({"tail_token_id": None}, "tail_token_id None"),
        ({"stop_token_ids": [3, 99]}, r"stop_token_ids\[1\] 99"),
        ({"stop_token_ids": None}, r"stop_token_ids\[0\] None"),
        ({"stop_token_ids": []}, r"stop_token_ids\[0\] None"),
        ({"num_tokens": VOCAB_SIZE + 1}, f"num_tokens {VOCAB_SIZE + 1}"),
        ({"num_tokens": MASK}, f"num_tokens {MASK}"),
        ({"num_tokens": MASK + 1}, f"num_tokens {MASK + 1}"),  # the stop token could not be written
        ({"num_tokens": None}, "num_tokens None"),
        ({"unwritable_token_ids": [3, STOP]}, f"unwritable_token_ids: {STOP} must be a token, and none that ends"),
        ({"decoding_defaults": {"threshold": 2}}, "decoding_defaults of the config: threshold must be in"),
        (
            {"decoding_defaults": {"treshold": 0.5}},
            "decoding_defaults of the config: unknown generation argument 'tresh",
        ),
        ({"unwritable_token_ids": [NUM_TOKENS]}, f"unwritable_token_ids: {NUM_TOKENS} must be a token"),
    ],
)
def test_an_impossible_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        check_diffusion_settings(tiny_config(**settings))
    assert "\n" not in str(error.value)


def test_other_ids_are_excluded_where_the_settings_say_so():
    config = tiny_config(unwritable_token_ids=[3, 7])
    check_diffusion_settings(config)
    excluded = exclude_unwritable(torch.zeros(4, VOCAB_SIZE), config)
    out = [token for token in range(NUM_TOKENS) if excluded[2, token].isneginf()]
    assert out == [3, 7, MASK]
    model = tiny_model("block", unwritable_token_ids=[3, 7])
    assert model.logits(torch.randn(5, HIDDEN, dtype=torch.float64)).isneginf()[:, [3, 7, MASK]].all()


def test_the_mask_token_and_padding_rows_are_excluded_and_nothing_else():
    logits = torch.randn(2, 3, VOCAB_SIZE)
    before = logits.clone()
    excluded = exclude_unwritable(logits, tiny_config())
    assert excluded is logits, "in place: a copy of the logits would cost as much as the head"
    out = torch.tensor([token == MASK or token >= NUM_TOKENS for token in range(VOCAB_SIZE)])
    assert excluded[..., out].isneginf().all()
    assert torch.equal(excluded[..., ~out], before[..., ~out])


def test_decoding_defaults_give_way_to_what_is_given():
    config = tiny_config(decoding_defaults={"threshold": 0.7, "gen_length": 12, "cfg_scale": 1.0})
    own = Decoding.of(config)
    assert (own.threshold, own.gen_length, own.block_length, own.cfg_scale) == (0.7, 12, 4, 1.0)
    assert Decoding.of(config, threshold=0.5, gen_length=8) == replace(own, threshold=0.5, gen_length=8)
    for name, value in (("gen_steps", 3), ("factor", 1.5), ("threshold", None), ("remasking", "random")):
        assert Decoding.of(config, **{name: value}) == replace(own, **{"threshold": None} | {name: value})
    assert Decoding.of(tiny_config()) == Decoding(16, 4)
