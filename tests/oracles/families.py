"""Tiny random models of every decoder family, with what makes each of them itself in a size in which it shows."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from dllm.pipelines.a2d import FAMILIES, A2DLMHeadModel
from oracles.models import MASK, NUM_TOKENS, STOP, TAIL, VOCAB_SIZE, keep_float64

WINDOW = 6
GEMMA = {"sliding_window": WINDOW, "query_pre_attn_scalar": 24, "head_dim": 16}
VARIANTS = {
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama 3.1": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "gemma2": ("gemma2", GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", GEMMA | {"sliding_window_pattern": 2}),
}
WITH_WINDOWS = [name for name, (_, traits) in VARIANTS.items() if "sliding_window" in traits]


def config_values(variant: str, **settings) -> dict:
    return (
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "tie_word_embeddings": True,
            "pad_token_id": None,
        }
        | VARIANTS[variant][1]
        | settings
    )


def family_model(variant: str, pattern: str = "block", dtype=torch.float64, **settings) -> A2DLMHeadModel:
    """A masked-diffusion model in evaluation mode; in float64 it computes in float64 throughout."""
    diffusion = {
        "attention_pattern": pattern,
        "block_length": 4,
        "gen_length": 16,
        "mask_token_id": MASK,
        "num_tokens": NUM_TOKENS,
        "stop_token_ids": [STOP, TAIL],
        "tail_token_id": TAIL,
    }
    return _random(FAMILIES[VARIANTS[variant][0]], config_values(variant, **diffusion | settings), dtype)


def plain_model(variant: str, dtype=torch.float64, **settings) -> PreTrainedModel:
    """transformers' own model with the same weights; eager, as its SDPA attends without a cap in 5.17."""
    values = config_values(variant, **settings) | {"attn_implementation": "eager"}
    return _random(FAMILIES[VARIANTS[variant][0]].__bases__[1], values, dtype)


def _random(model_class: type, values: dict, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**values)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # else a norm that forgets its weight would not be seen
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    model.to(dtype)
    if dtype == torch.float64:
        keep_float64(model)
    return model


@pytest.fixture
def exact_softmax(monkeypatch):
    """transformers' eager attention rounds its softmax to float32; here it does not."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim))
