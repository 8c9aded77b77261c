"""Conversations as token ids: the one prompt builder of training, generation and evaluation.

Text is text: special tokens come from the chat template alone, never from what a user or a record says. Where
a text looks like one ("<|im_end|>"), it is cut after its first character before it is tokenised.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For tokenizers that bring no template: ChatML with Qwen3's empty think block before an answer without thinking.
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
ROLES = {"human": "user", "gpt": "assistant"}
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # of Unicode, which no text should hold


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict],
    system: str | None = None,
    mark: str | None = None,
    placeholders: Sequence[list[int]] = (),
) -> list[int]:
    """Ids of everything before an answer: system, the turns so far, the assistant's header, the empty think block.

    `turns` are LLaVA turns {"from": "human" | "gpt", "value": text} that end with a human one; the marks in their text
    become the ids of `placeholders`, one after another. Raises ValueError if the template refuses them.
    """
    contents = [("system", system)] if system is not None else []
    contents += [(ROLES[turn["from"]], turn["value"]) for turn in turns]
    cut = unused("".join(content for _, content in contents))
    messages = [{"role": role, "content": _cut_open(tokenizer, content, cut)} for role, content in contents]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except TemplateError as error:
        raise ValueError(f"the tokenizer's chat template refuses the conversation ({error}); mend either") from error
    first, *rest = text.split(mark) if mark else [text]
    ids = _ids(tokenizer, first, cut)
    for placeholder, piece in zip(placeholders, rest, strict=True):
        ids += placeholder + _ids(tokenizer, piece, cut)
    return ids


def build_response(tokenizer: PreTrainedTokenizerBase, text: str, stop_token_id: int) -> list[int]:
    """Ids of an answer and the token that ends it."""
    return encode(tokenizer, text.strip()) + [stop_token_id]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as it stands: no special token, neither around it nor in it."""
    cut = unused(text)
    return _ids(tokenizer, _cut_open(tokenizer, text, cut), cut)


def find_control_token(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The first part of a text that looks like a special token or one of the chat template's, or None."""
    found = _control_tokens(tokenizer, len(tokenizer), tokenizer.chat_template).search(text)
    return found and found[0]


@functools.lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, size: int, template: str | None) -> re.Pattern:
    """The special tokens of a tokenizer of that size, and the added ones that its template writes (`<think>`)."""
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    names = [token.content for token in added if token.special or token.content in (template or "")]
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


def _cut_open(tokenizer: PreTrainedTokenizerBase, text: str, cut: str) -> str:
    """The text with `cut` after the first character of everything that looks like a control token."""
    if find_control_token(tokenizer, text) is None:
        return text
    names = _control_tokens(tokenizer, len(tokenizer), tokenizer.chat_template).pattern
    return re.sub(f"(?=(?:{names}))(.)", rf"\1{cut}", text, flags=re.DOTALL)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, cut: str) -> list[int]:
    """Ids of a text that is cut; what is special in a piece is special."""
    return [token for piece in text.split(cut) for token in tokenizer(piece, add_special_tokens=False).input_ids]


def unused(text: str) -> str:
    """A character that the text has not."""
    return next(character for character in NONCHARACTERS if character not in text)
