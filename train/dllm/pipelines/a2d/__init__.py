"""Autoregressive models made bidirectional ("a2d": autoregressive to diffusion)."""

from dllm.pipelines.a2d.modeling_qwen3 import A2DQwen3Config, A2DQwen3LMHeadModel, load_qwen3

__all__ = ["A2DQwen3Config", "A2DQwen3LMHeadModel", "load_qwen3"]
