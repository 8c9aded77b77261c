"""QFormer: learned queries that attend to each other and to the patches (Li et al. 2023, BLIP-2)."""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class QFormerResampler(nn.Module):
    """[n, N, D_vision] -> [n, latents, D_qformer]; `depth` layers, every second one attends to the patches."""

    def __init__(self, vision_width: int, width: int, depth: int, latents: int):
        super().__init__()
        if min(depth, latents) < 1:
            raise ValueError(f"mm_qformer_depth {depth} and mm_qformer_latents {latents} must be at least 1")
        config = Blip2QFormerConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=depth,
            num_attention_heads=max(width // 64, 1),
            encoder_hidden_size=vision_width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.width = width
        self.norm = nn.LayerNorm(vision_width)
        self.queries = nn.Embedding(latents, width)
        self.qformer = Blip2QFormerModel(config)

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        latents = torch.arange(self.queries.num_embeddings, device=features.device)
        queries = self.queries(latents).expand(len(features), -1, -1)  # [n, latents, D_qformer]
        return self.qformer(queries, encoder_hidden_states=self.norm(features)).last_hidden_state
