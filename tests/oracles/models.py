"""Tiny random models and samples on which the core is compared with its oracles."""

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dllm.core.prompt import Prompt
from dllm.pipelines.a2d import A2DQwen3Config, A2DQwen3LMHeadModel

VOCAB_SIZE, NUM_TOKENS = 72, 64  # the last 8 rows of the embedding are padding
MASK, STOP, TAIL = 60, 61, 62
HIDDEN = 32


def tiny_config(pattern: str = "block", **settings) -> A2DQwen3Config:
    """A config of two layers; its weights are drawn wide enough for attention to be far from uniform."""
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "attention_pattern": pattern,
        "block_length": 4,
        "gen_length": 16,
        "mask_token_id": MASK,
        "num_tokens": NUM_TOKENS,
        "stop_token_ids": [STOP, TAIL],
        "tail_token_id": TAIL,
    }
    return A2DQwen3Config(**values | settings)


def tiny_model(pattern: str = "block", dtype=torch.float64, seed: int = 0, **settings) -> A2DQwen3LMHeadModel:
    """A random model in evaluation mode. In float64 it computes in float64 throughout."""
    torch.manual_seed(seed)
    model = A2DQwen3LMHeadModel(tiny_config(pattern, **settings)).to(dtype).eval()
    if dtype == torch.float64:
        keep_float64(model)
    return model


def keep_float64(model: nn.Module) -> None:
    """Puts torch's RMS norm in place of transformers', which rounds to float32 on its way."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (Qwen3RMSNorm, LlamaRMSNorm)):
                exact = nn.RMSNorm(child.weight.shape, child.variance_epsilon, dtype=torch.float64)
                exact.weight = child.weight
                setattr(parent, name, exact)


def bias_head(model: A2DQwen3LMHeadModel, biases: dict[int, float]) -> None:
    """Adds a bias per token id to the head, so that some tokens come more often."""
    head = nn.Linear(HIDDEN, VOCAB_SIZE, dtype=model.dtype)
    head.weight = model.lm_head.weight
    nn.init.zeros_(head.bias)
    for token, bias in biases.items():
        head.bias.data[token] = bias
    model.lm_head = head


def random_ids(length: int, generator: torch.Generator) -> list[int]:
    """Ordinary tokens: neither special ones nor padding rows."""
    return torch.randint(0, MASK, (length,), generator=generator).tolist()


def left_padded(prompts: list[Tensor], noise: float = 100.0) -> Prompt:
    """A batch of embedded prompts [n_i, D]; the padding holds large numbers, which must not matter."""
    width = max(len(prompt) for prompt in prompts)
    rows = [torch.cat([prompt.new_full((width - len(prompt), HIDDEN), noise), prompt]) for prompt in prompts]
    valid = [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return Prompt.left_padded(torch.stack(rows), torch.tensor(valid, dtype=torch.bool))
