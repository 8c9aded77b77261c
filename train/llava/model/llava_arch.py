"""The path of an image into the prompt: encoder -> resampler -> projector -> visual tokens among the text's.

An image is one square tile, or several one after another (anyres), as are the frames of a video.
Shapes: n tiles of a batch, N visual tokens of a tile, S side of a tile in pixels; B, P, D as in `dllm.core`.
"""

import torch
from torch import Tensor, nn

from dllm.core.composite import CompositeLM
from dllm.core.prompt import Prompt
from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.multimodal_resampler.builder import build_vision_resampler


class LlavaMetaModel(nn.Module):
    """Everything between pixels and the language model."""

    def __init__(self, config, vision_tower: nn.Module | None = None):
        super().__init__()
        self.vision_tower = vision_tower or build_vision_tower(config.vision_config)
        self.vision_resampler = build_vision_resampler(config)
        widths = self.vision_resampler.width, config.text_config.hidden_size
        self.mm_projector = build_vision_projector(config.mm_projector_type, *widths)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Visual tokens [n, N, D] of images [n, 3, S, S]; `keys` [n] key what `masked_drop` keeps in training."""
        features = self.vision_tower(images)  # [n, patches, D_vision]
        features = self.vision_resampler(features, keys)  # [n, N, D_resampler]
        return self.mm_projector(features)  # [n, N, D]


class LlavaMetaForCausalLM(CompositeLM):
    """Mixin of a model that has `self.model` (a LlavaMetaModel)."""

    def prepare_prompt(
        self, input_ids: Tensor, attention_mask: Tensor, images: Tensor, image_keys: Tensor | None = None
    ) -> Prompt:
        """The prompt of left-padded ids [B, P] whose IMAGE_TOKEN_INDEX places take the visual tokens in order.

        A batch without images brings one that no place asks for, so that every rank makes the same calls.
        Raises ValueError if places and visual tokens do not match.
        """
        tokens = self.model(images, image_keys).flatten(0, 1)  # [n * N, D]
        return self.fill(input_ids, attention_mask, IMAGE_TOKEN_INDEX, tokens)

    def blank(self, images: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(images),)


def image_batch(images: list[Tensor], image_size: int) -> Tensor:
    """All tiles of a batch's images [n, 3, S, S]; one blank image if there are none."""
    return torch.cat(images) if images else torch.zeros(1, 3, image_size, image_size)
