"""Autoregressive models made bidirectional ("a2d": autoregressive to diffusion)."""

from dllm.pipelines.a2d.loading import load_a2d, load_qwen3
from dllm.pipelines.a2d.modeling_a2d import (
    FAMILIES,
    A2DGemma2Config,
    A2DGemma2LMHeadModel,
    A2DGemma3Config,
    A2DGemma3LMHeadModel,
    A2DLlamaConfig,
    A2DLlamaLMHeadModel,
    A2DLMHeadModel,
    A2DQwen2Config,
    A2DQwen2LMHeadModel,
    A2DQwen3Config,
    A2DQwen3LMHeadModel,
)
