"""Conversations as token ids: the one prompt builder of training, generation and evaluation."""

from collections.abc import Sequence

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


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict],
    system: str | None = None,
    mark: str | None = None,
    placeholders: Sequence[list[int]] = (),
) -> list[int]:
    """Ids of everything before an answer: system, the turns so far, the assistant's header, the empty think block.

    `turns` are LLaVA turns {"from": "human" | "gpt", "value": text} that end with a human one; the marks in their text
    become the ids of `placeholders`, one after another.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    first, *rest = text.split(mark) if mark else [text]
    ids = encode(tokenizer, first)
    for placeholder, piece in zip(placeholders, rest, strict=True):
        ids += placeholder + encode(tokenizer, piece)
    return ids


def build_response(tokenizer: PreTrainedTokenizerBase, text: str, stop_token_id: int) -> list[int]:
    """Ids of an answer and the token that ends it."""
    return encode(tokenizer, text.strip()) + [stop_token_id]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as it stands, without the special tokens that a tokenizer may put around it."""
    return tokenizer(text, add_special_tokens=False).input_ids
