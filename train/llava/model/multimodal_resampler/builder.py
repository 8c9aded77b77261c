"""Resamplers by name (`mm_resampler_type`), and how many visual tokens each of them makes of an image."""

from torch import Tensor, nn

from llava.model.multimodal_resampler.masked_drop import MaskedDrop, num_kept
from llava.model.multimodal_resampler.perceiver import PerceiverResampler
from llava.model.multimodal_resampler.qformer import QFormerResampler
from llava.model.multimodal_resampler.spatial_pool import SpatialPool, pooled_side

RESAMPLERS = ("qformer", "perceiver", "spatial_pool", "masked_drop", "none")


class NoResampler(nn.Module):
    """Every patch is a visual token."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        return features


def build_vision_resampler(config) -> nn.Module:
    """The resampler of a model config: a module with a `width`, called as (features [n, N, D_vision], keys [n]).

    Raises ValueError on an unknown name or an impossible setting.
    """
    name, vision = config.mm_resampler_type, config.vision_config
    width, side = vision.hidden_size, vision.image_size // vision.patch_size
    if name == "qformer":
        hidden_size, depth, latents = config.mm_qformer_hidden_size, config.mm_qformer_depth, config.mm_qformer_latents
        return QFormerResampler(width, hidden_size, depth, latents)
    if name == "perceiver":
        return PerceiverResampler(width, config.mm_perceiver_depth, config.mm_perceiver_latents)
    if name == "spatial_pool":
        return SpatialPool(width, side, config.mm_spatial_pool_stride, config.mm_spatial_pool_mode)
    if name == "masked_drop":
        return MaskedDrop(width, config.mm_mask_drop_ratio)
    if name == "none":
        return NoResampler(width)
    raise ValueError(f"unknown mm_resampler_type {name!r}; known: {', '.join(RESAMPLERS)}")


def num_image_tokens(config, training: bool = False) -> int:
    """Visual tokens of one image in the prompt; `masked_drop` makes fewer of them in training."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    match config.mm_resampler_type:
        case "qformer":
            return config.mm_qformer_latents
        case "perceiver":
            return config.mm_perceiver_latents
        case "spatial_pool":
            return pooled_side(side, config.mm_spatial_pool_stride) ** 2
        case "masked_drop" if training:
            return num_kept(side**2, config.mm_mask_drop_ratio)
    return side**2
