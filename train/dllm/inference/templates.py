"""Infill: a template of text that stays, with blanks where the model writes, as the first tokens of a canvas."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dllm.data.conversation import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BLANK = re.compile("_{2,}")
BLANK_LENGTH = 16


def initial_canvas(
    template: str, tokenizer: PreTrainedTokenizerBase, config, blank_length: int, gen_length: int
) -> list[int]:
    """The canvas of a template up to where it is open: its text as ids, mask tokens in its blanks.

    A blank is a run of two or more underscores; it has `blank_length` tokens if text follows it, and is open else.
    `config` is the model's diffusion config. Raises ValueError if the template cannot be filled in.
    """
    if not template:
        return []
    # A word's token holds the space before it, so the space before a blank belongs to what the model writes there.
    *texts, end = (text.rstrip(" ") for text in BLANK.split(template.strip()))
    if not texts:
        raise ValueError(f"the template {template!r} has no blank: put ____ where the model is to write")
    lengths = [blank_length] * len(texts)
    if not end:
        lengths[-1] = 1  # what follows is open
    if max(lengths) > gen_length:  # before a blank of that size is made
        raise ValueError(f"blank_length {blank_length} is more than gen_length {gen_length}; lower it")
    ids = []
    for text, length in zip(texts, lengths, strict=True):
        ids += _kept(text, tokenizer) + [config.mask_token_id] * length
    if end:
        ids += _kept(end, tokenizer) + [config.stop_token_ids[0]]
    if len(ids) > gen_length:
        raise ValueError(
            f"the template needs {len(ids)} tokens, {blank_length} for a blank, but gen_length is {gen_length}: "
            "raise gen_length, lower blank_length or shorten the template"
        )
    return ids


def _kept(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a template's text, which decode to just this text."""
    ids = encode(tokenizer, text)
    if tokenizer.decode(ids, skip_special_tokens=True) != text:
        raise ValueError(f"the template's text {text!r} would not stay as it is: take rare characters out")
    return ids
