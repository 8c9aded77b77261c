"""The one prompt builder of training, demo and evaluation."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

SYSTEM_PROMPT = (
    "You are an assistant in radiology, responsible for analyzing medical imaging studies and generating detailed, "
    "structured, and accurate radiology reports."
)
conv_templates = {"qwen": SYSTEM_PROMPT}  # name of the conversation -> its system prompt, rendered as ChatML

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


def check_version(version: str) -> None:
    """Raises ValueError if there is no conversation of that name."""
    if version not in conv_templates:
        raise ValueError(
            f"unknown conversation {version!r} (--version, conv_template); known: {', '.join(conv_templates)}"
        )


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict],
    num_image_tokens: int | Sequence[int],
    version: str = "qwen",
) -> list[int]:
    """Ids of everything before an answer: system, the turns so far, the assistant's header, the empty think block.

    `turns` are LLaVA turns {"from": "human" | "gpt", "value": text} that end with a human one; each `<image>` in the
    text becomes `num_image_tokens` (of all marks, or of each) times IMAGE_TOKEN_INDEX.
    """
    messages = [{"role": "system", "content": conv_templates[version]}]
    messages += [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    first, *rest = text.split(DEFAULT_IMAGE_TOKEN)
    counts = [num_image_tokens] * len(rest) if isinstance(num_image_tokens, int) else num_image_tokens
    ids = encode(tokenizer, first)
    for piece, count in zip(rest, counts, strict=True):
        ids += [IMAGE_TOKEN_INDEX] * count + encode(tokenizer, piece)
    return ids


def build_response(tokenizer: PreTrainedTokenizerBase, text: str, stop_token_id: int) -> list[int]:
    """Ids of an answer and the token that ends it."""
    return encode(tokenizer, text.strip()) + [stop_token_id]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as it stands, without the special tokens that a tokenizer may put around it."""
    return tokenizer(text, add_special_tokens=False).input_ids
