"""A template of an infill: text that stays, with blanks where the model writes, as the first tokens of a canvas."""

from __future__ import annotations

import re
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from dllm.data.conversation import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

BLANK = re.compile("_{2,}")
BLANK_LENGTH = 24  # most tokens of a blank that text follows


class Template:
    """What stays of a template, and how many blanks text follows. A blank is a run of two or more underscores.

    texts   the text before each blank, and behind the last one; empty there if that blank is open
    closed  the number of blanks that text follows

    `config` is the model's diffusion config. Raises ValueError if the template cannot be filled in.
    """

    def __init__(self, template: str, tokenizer: PreTrainedTokenizerBase, config, gen_length: int):
        # A word's token holds the space before it, so the space before a blank belongs to what the model writes there.
        self.texts = [text.rstrip(" ") for text in BLANK.split(template.strip())]
        if len(self.texts) < 2:
            raise ValueError(f"the template {template!r} has no blank: put ____ where the model is to write")
        self.ids, self.mask = [_kept(text, tokenizer) for text in self.texts], config.mask_token_id
        self.closed = len(self.texts) - 2
        if self.texts[-1]:
            self.closed += 1
            self.ids[-1].append(config.stop_token_ids[0])
        if (least := len(self.canvas([[self.mask]] * self.closed))) > gen_length:
            told = f"the template needs {least} tokens, one for each blank, but gen_length is {gen_length}"
            raise ValueError(f"{told}: raise gen_length or shorten the template")

    def canvas(self, blanks: Sequence[list[int]]) -> list[int]:
        """The canvas up to where it is open, with these ids in the blanks that text follows."""
        ids = list(chain.from_iterable(chain(*zip_longest(self.ids, blanks, fillvalue=[]))))
        return ids if self.texts[-1] else [*ids, self.mask]


def _kept(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a template's text, which decode to just this text."""
    ids = encode(tokenizer, text)
    if tokenizer.decode(ids, skip_special_tokens=True) != text:
        raise ValueError(f"the template's text {text!r} would not stay as it is: take rare characters out")
    return ids
