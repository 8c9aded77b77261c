"""The conversations of the radiology model: their system prompts, and where images go in them."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from dllm.data import conversation
from llava.constants import DEFAULT_IMAGE_TOKEN, IMAGE_TOKEN_INDEX

SYSTEM_PROMPT = (
    "You are an assistant in radiology, responsible for analyzing medical imaging studies and generating detailed, "
    "structured, and accurate radiology reports."
)
conv_templates = {"qwen": SYSTEM_PROMPT}  # name of the conversation -> its system prompt, rendered as ChatML


def check_version(version: str) -> None:
    """Raises ValueError if there is no conversation of that name."""
    if version not in conv_templates:
        known = ", ".join(conv_templates)
        raise ValueError(f"unknown conversation {version!r} (--version, conv_template); known: {known}")


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict],
    num_image_tokens: Sequence[int],
    version: str = "qwen",
    system: str | None = None,
) -> list[int]:
    """Ids of everything before an answer (`dllm.data.conversation.build_prompt`); the i-th `<image>` in the text
    becomes `num_image_tokens[i]` times IMAGE_TOKEN_INDEX. `system` replaces the system prompt of `version`.
    """
    placeholders = [[IMAGE_TOKEN_INDEX] * count for count in num_image_tokens]
    system = conv_templates[version] if system is None else system
    return conversation.build_prompt(tokenizer, turns, system, DEFAULT_IMAGE_TOKEN, placeholders)
