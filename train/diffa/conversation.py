"""The conversation that DIFFA was trained on: its system prompt, and where the audio goes in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffa.constants import AUDIO_TOKEN_INDEX
from dllm.data import conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM_PROMPT = "You are a helpful voice assistant."
BEFORE, AFTER = "This is the audio:", " <audio>. "  # of the audio; published weights expect `<audio>` as text
TRANSCRIBE = "Please transcribe the audio to text."


def build_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, num_audio_tokens: int | None, system: str | None = None
) -> list[int]:
    """Ids of everything before an answer to a question about a clip, with AUDIO_TOKEN_INDEX `num_audio_tokens` times.

    None stands for no clip: the question alone. `system` replaces SYSTEM_PROMPT. Raises ValueError if the tokenizer's
    chat template refuses them.
    """
    system = SYSTEM_PROMPT if system is None else system
    if num_audio_tokens is None:
        return conversation.build_prompt(tokenizer, [{"from": "human", "value": question}], system)
    mark = conversation.unused(system + question)  # so that no text can stand for audio
    turn = {"from": "human", "value": BEFORE + mark + AFTER + question}
    return conversation.build_prompt(tokenizer, [turn], system, mark, [[AUDIO_TOKEN_INDEX] * num_audio_tokens])
