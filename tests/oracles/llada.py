"""LLaDA's formula (Nie et al. 2025) on the weights of a published folder, written out; every token sees every other."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def rotate(x: Tensor, theta: float) -> Tensor:
    """Rotary positions 0, 1, 2 ... of x [heads, L, d]: the pair (x_i, x_{i + d/2}) turns by position / theta^(2i/d)."""
    L, d = x.shape[1:]
    angle = torch.arange(L)[:, None] / theta ** (torch.arange(0, d, 2) / d)  # [L, d / 2]
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    first, second = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(x: Tensor, weights: dict[str, Tensor], block: str, config: dict) -> Tensor:
    """[L, D] of the normed states x [L, D]."""
    L, heads, kv_heads = len(x), config["n_heads"], config["n_kv_heads"]
    q, k, v = (x @ weights[f"{block}.{name}_proj.weight"].T for name in "qkv")
    q = rotate(q.view(L, heads, -1).transpose(0, 1), config["rope_theta"])  # [heads, L, d]
    k = rotate(k.view(L, kv_heads, -1).transpose(0, 1), config["rope_theta"])
    v = v.view(L, kv_heads, -1).transpose(0, 1)
    k, v = (each.repeat_interleave(heads // kv_heads, dim=0) for each in (k, v))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(L, -1) @ weights[f"{block}.attn_out.weight"].T


def logits(weights: dict[str, Tensor], config: dict, ids: list[int]) -> Tensor:
    """[L, V] of one sequence of ids, from weights by their published names."""
    x = weights["model.transformer.wte.weight"][ids]
    for number in range(config["n_layers"]):
        block = f"model.transformer.blocks.{number}"
        normed = rms_norm(x, weights[f"{block}.attn_norm.weight"], config["rms_norm_eps"])
        x = x + attention(normed, weights, block, config)
        normed = rms_norm(x, weights[f"{block}.ff_norm.weight"], config["rms_norm_eps"])
        gate, up = (normed @ weights[f"{block}.{name}_proj.weight"].T for name in ("ff", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{block}.ff_out.weight"].T
    x = rms_norm(x, weights["model.transformer.ln_f.weight"], config["rms_norm_eps"])
    tied = config["weight_tying"]
    return x @ weights["model.transformer.wte.weight" if tied else "model.transformer.ff_out.weight"].T
