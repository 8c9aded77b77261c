"""A language model behind prompts that hold more than text: what its model is given is turned into embeddings."""

from abc import abstractmethod

from torch import Tensor, nn
from transformers import Cache

from dllm.core.attention import LayerMasks
from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.prompt import Prompt


class CompositeLM(MaskedDiffusionLM):
    """Mixin of a model whose `language_model` makes the calls of the core; `text_config` has its diffusion settings.

    A subclass says how the prompt is embedded (`prepare_prompt`) and what stands for nothing given (`blank`).
    """

    language_model: nn.Module

    @abstractmethod
    def blank(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs of the same shapes that show nothing."""

    @property
    def diffusion(self):
        return self.config.text_config

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        return self.language_model.embed(ids)

    def trunk(
        self, embeds: Tensor, mask: LayerMasks, position: Tensor, cache: Cache | None = None, **extras: Tensor
    ) -> Tensor:
        return self.language_model.trunk(embeds, mask, position, cache, **extras)

    def head(self, hidden: Tensor) -> Tensor:
        return self.language_model.head(hidden)

    def fill(self, input_ids: Tensor, attention_mask: Tensor, place: int, tokens: Tensor) -> Prompt:
        """The prompt of left-padded ids [B, P] in which the ids `place` take the embedded `tokens` [n, D] in order.

        `tokens` that no place asks for are left out, so that a batch of text alone makes the same calls on every rank.
        Raises ValueError if places and tokens do not match.
        """
        is_place = input_ids == place  # [B, P]
        if is_place.sum() not in (len(tokens), 0):
            raise ValueError(
                f"{int(is_place.sum())} places in the prompts for {len(tokens)} tokens of {self.input_unit}"
            )
        embeds = self.embed(input_ids.masked_fill(is_place, 0))  # [B, P, D]
        embeds = embeds.masked_scatter(is_place[..., None], tokens.to(embeds.dtype))
        return Prompt.left_padded(embeds, attention_mask.bool())
