"""What makes audio tokens of the encoder's states: the two adapters of DIFFA (Zhou et al. 2025).

Shapes: n clips, T states, W width of the encoder, D of the language model. Names of weights are the published ones.
"""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerEncoder

from diffa.model.audio_encoder import STATES_PER_TOKEN


class SemanticAdapter(nn.Module):
    """What is said: one token for four states of the encoder's last layer; in stage 1 after `num_prompts` learnt ones.

    `config` is a DiffaConfig, as that of the other adapter.
    """

    def __init__(self, config):
        super().__init__()
        width, hidden_size = config.audio_config.d_model, config.text_config.hidden_size
        self.prompts = nn.Embedding(config.num_prompts, hidden_size) if config.stage == 1 else None
        self.conv = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, 4 * width, 3, stride=STATES_PER_TOKEN, padding=1),
        )
        self.linear_connector = nn.Sequential(
            nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, hidden_size), nn.ReLU()
        )
        self.layernorm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        """[n, num_prompts + T // 4, D] of states [n, T, W]. A clip's tokens depend on none of the states after it."""
        whole = states.shape[1] - states.shape[1] % STATES_PER_TOKEN
        tokens = self.conv(states[:, :whole].transpose(1, 2)).transpose(1, 2)  # [n, T // 4, 4 W]
        tokens = self.layernorm(self.linear_connector(tokens))  # [n, T // 4, D]
        if self.prompts is None:
            return tokens
        prompts = self.prompts(torch.arange(self.prompts.num_embeddings, device=tokens.device))
        return torch.cat([prompts.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)


class AcousticAdapter(nn.Module):
    """How it sounds: learnt queries attend to several layers of the encoder, each with queries of its own, and every
    query's tokens are mixed over the layers by weights of its own.

    The projection starts from zeros: what the semantic adapter has learnt is not lost in noise at first. With
    `mask_padding` the silence after a clip is not attended to; published weights were trained without.
    """

    def __init__(self, config):
        super().__init__()
        self.layers, self.mask_padding = config.acoustic_layers, config.mask_padding
        width, num_layers, num_queries = config.audio_config.d_model, len(self.layers), config.prompt_size
        qformer = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=config.audio_config.encoder_attention_heads,
            intermediate_size=config.acoustic_intermediate_size,
            encoder_hidden_size=width,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        qformer._attn_implementation = "sdpa"
        self.layer_prompts = nn.Parameter(torch.randn(num_layers, num_queries, width))
        self.layer_weights = nn.Parameter(torch.zeros(num_queries, num_layers))
        self.qformer = Blip2QFormerEncoder(qformer)
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.text_config.hidden_size))
        nn.init.zeros_(self.proj[1].weight)
        nn.init.zeros_(self.proj[1].bias)

    def forward(self, states: tuple[Tensor, ...], num_states: Tensor) -> Tensor:
        """[n, num_queries, D] of all states of the encoder, [n, T, W] each, of which clips have `num_states` [n]."""
        heard = torch.stack([states[layer] for layer in self.layers])  # [layers, n, T, W]
        layers, n, T, _ = heard.shape
        queries = self.layer_prompts[:, None].expand(-1, n, -1, -1)  # [layers, n, num_queries, W]
        mask = torch.arange(T, device=heard.device) < num_states[:, None]  # [n, T]
        tokens = self.qformer(
            queries.flatten(0, 1).to(heard.dtype),
            encoder_hidden_states=heard.flatten(0, 1),
            encoder_attention_mask=mask.repeat(layers, 1)[:, None, None] if self.mask_padding else None,
            query_length=queries.shape[2],
        ).last_hidden_state  # [layers * n, num_queries, W]
        weights = self.layer_weights.softmax(dim=-1).to(tokens.dtype)  # [num_queries, layers]
        mixed = torch.einsum("lnqw,ql->nqw", tokens.view(layers, n, *tokens.shape[1:]), weights)
        return self.proj(mixed)
