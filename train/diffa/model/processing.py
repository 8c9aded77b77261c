"""Clips and questions to what DiffaModelLM takes; `AutoProcessor.from_pretrained(folder)` gives it."""

import numpy as np
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, WhisperFeatureExtractor

from diffa.conversation import build_prompt
from diffa.model.audio_encoder import AudioPreprocessor
from diffa.model.modeling_diffa import DiffaConfig
from dllm.inference.processing import PromptProcessor
from dllm.pipelines.auto import load_tokenizer


class DiffaProcessor(PromptProcessor):
    """`processor(audio=clip, text="What is said?")`, clips fp32 [samples] at 16 kHz."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, extractor: WhisperFeatureExtractor, config: DiffaConfig):
        super().__init__(tokenizer, extractor)
        self.audio = AudioPreprocessor(extractor, config)

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs) -> "DiffaProcessor":
        """That of a trained folder. Raises ValueError if it is incomplete."""
        config = DiffaConfig.from_pretrained(folder)
        return cls(load_tokenizer(folder), WhisperFeatureExtractor.from_pretrained(folder), config)

    def __call__(self, audio=None, text: str | list[str] = "", system: str | None = None, **kwargs) -> BatchFeature:
        """`input_ids` and `attention_mask` [B, P], `audio` [n, M, 2 T] and `num_frames` [n] of a clip or None for a
        question, of a list of these for a list of questions. Raises ValueError if one has several clips.
        """
        return self.encode(audio, text, system)

    def prompt_ids(self, question: str, inputs: list[np.ndarray], system: str | None = None) -> list[int]:
        """Raises ValueError if the clip is too short to be heard, or there are several."""
        if len(inputs) > 1:
            raise ValueError(f"{len(inputs)} clips for one question; give one")
        tokens = [self.audio.num_tokens(len(clip)) for clip in inputs]
        return build_prompt(self.tokenizer, question, tokens[0] if tokens else None, system)

    def tensors(self, inputs: list[np.ndarray]) -> dict[str, Tensor]:
        return dict(zip(("audio", "num_frames"), self.audio.batch(inputs), strict=True))


AutoProcessor.register(DiffaConfig, DiffaProcessor)
