"""Special tokens: found in the tokenizer, put into the config, and right for the real Qwen3 vocabulary."""

import re

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dllm.core.model import check_diffusion_settings, exclude_unwritable
from dllm.pipelines.special_tokens import MASK_TOKEN, STOP_TOKEN, TAIL_TOKEN, set_special_tokens
from oracles.models import tiny_config

QWEN3_VOCAB_SIZE = 151936  # rows of the published embedding


def word_tokenizer(*tokens: str, **special) -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(tokens)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token=tokens[0])), **special)


def test_the_mask_token_is_added_if_there_is_none():
    tokenizer, config = word_tokenizer("a", TAIL_TOKEN, STOP_TOKEN, "b"), tiny_config()
    set_special_tokens(config, tokenizer)
    assert (config.mask_token_id, config.num_tokens) == (4, 5)
    assert (config.stop_token_ids, config.tail_token_id) == ([2, 1], 1)
    assert tokenizer.mask_token == MASK_TOKEN
    check_diffusion_settings(config)


@pytest.mark.parametrize("special", [{}, {"mask_token": MASK_TOKEN}])
def test_a_mask_token_that_is_there_is_taken(special):
    """Whether or not the tokenizer calls it its mask token."""
    tokenizer, config = word_tokenizer("a", MASK_TOKEN, TAIL_TOKEN, STOP_TOKEN, **special), tiny_config()
    set_special_tokens(config, tokenizer)
    assert (config.mask_token_id, config.num_tokens) == (1, 4)


@pytest.mark.parametrize("missing", [STOP_TOKEN, TAIL_TOKEN])
def test_a_tokenizer_without_qwens_tokens_is_refused(missing):
    tokens = [token for token in ("a", STOP_TOKEN, TAIL_TOKEN) if token != missing]
    with pytest.raises(ValueError, match=f"lacks tokens that end an answer: .*{re.escape(missing)}"):
        set_special_tokens(tiny_config(), word_tokenizer(*tokens))


@pytest.mark.real_data
def test_the_real_qwen3_vocabulary(radiology_data):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(radiology_data / "qwen3_tokenizer" / "tokenizer.json"))
    assert len(tokenizer) == 151669
    config = tiny_config(vocab_size=QWEN3_VOCAB_SIZE)
    set_special_tokens(config, tokenizer)
    assert (config.mask_token_id, config.num_tokens) == (151669, 151670)
    assert (config.stop_token_ids, config.tail_token_id) == ([151645, 151643], 151643)
    assert tokenizer("a<|mask|>b").input_ids.count(151669) == 1
    check_diffusion_settings(config)
    logits = exclude_unwritable(torch.zeros(QWEN3_VOCAB_SIZE), config)
    assert logits.isneginf().nonzero().flatten().tolist() == list(range(151669, QWEN3_VOCAB_SIZE))
    config.vocab_size = 151669
    with pytest.raises(ValueError, match="mask_token_id 151669 is outside the vocabulary of 151669"):
        check_diffusion_settings(config)
