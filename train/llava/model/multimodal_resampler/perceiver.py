"""Perceiver: latents that attend to the patches once, then to each other (Jaegle et al. 2021)."""

from torch import Tensor, nn
from transformers import PerceiverConfig, PerceiverModel


class PerceiverResampler(nn.Module):
    """[n, N, D_vision] -> [n, latents, D_vision]; one cross-attention and `depth` self-attention layers."""

    def __init__(self, vision_width: int, depth: int, latents: int):
        super().__init__()
        if latents < 1:
            raise ValueError(f"mm_perceiver_latents must be at least 1, not {latents}")
        heads = max(vision_width // 64, 1)
        config = PerceiverConfig(
            num_latents=latents,
            d_latents=vision_width,
            d_model=vision_width,
            num_self_attends_per_block=depth,
            num_self_attention_heads=heads,
            num_cross_attention_heads=heads,
            attention_probs_dropout_prob=0.0,
        )
        self.width = vision_width
        self.perceiver = PerceiverModel(config)

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        return self.perceiver(features).last_hidden_state
