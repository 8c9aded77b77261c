"""Autoregressive models made bidirectional ("a2d": autoregressive to diffusion)."""

from dllm.pipelines.a2d.loading import load_a2d, load_qwen3
from dllm.pipelines.a2d.modeling_a2d import FAMILIES, A2DLMHeadModel, A2DQwen3Config, A2DQwen3LMHeadModel
