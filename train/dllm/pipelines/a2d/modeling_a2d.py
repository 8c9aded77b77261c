"""Decoders of transformers as masked-diffusion language models: their own layers under the core's attention patterns.

A family is its config and its class; what families do differently is in their configs: layers with a window, a cap on
attention scores or logits, tied weights, rotary bases. Embeddings are scaled by transformers' own modules.
"""

from functools import partial

import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, Cache, PreTrainedConfig

from dllm.core.attention import LayerMasks
from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.model import DiffusionSettings
from dllm.pipelines.kernels import BY_MASK, shared_mask

FEW_ROWS = 48
FEW_TOKENS = 128  # up to which a mask for each of the heads that share keys costs less than their keys
FUSED_NORM = ("cuda",)  # where torch has a norm of one kernel; transformers' own takes eight


class A2DLMHeadModel(MaskedDiffusionLM):
    """Mixin before an `XForCausalLM` of transformers, whose tokens then see each other as the config's pattern says."""

    def __init__(self, config: PreTrainedConfig):
        if config._attn_implementation in (None, "sdpa"):
            config._attn_implementation = BY_MASK
        super().__init__(config)
        # The padding token is also the tail that the model learns to write, so its embedding must learn too.
        self.model.embed_tokens.padding_idx = None
        for layer in self.model.layers:
            layer.self_attn.is_causal = False  # else no mask at all would mean a causal one
        for module in self.model.modules():
            if hasattr(module, "variance_epsilon"):  # an RMS norm, but for Gemma's
                module.forward = partial(_norm, module)

    @property
    def diffusion(self) -> DiffusionSettings:
        return self.config

    def embed(self, ids: Tensor) -> Tensor:
        """[..., D] of ids [...]."""
        return self.model.embed_tokens(ids)

    def trunk(self, embeds: Tensor, mask: LayerMasks, position: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, n, D] of embeddings [B, n, D]; see `dllm.core.model.MaskedDiffusionModel`."""
        kinds = getattr(self.config, "layer_types", None)  # families without take one mask, others a dict
        masks = mask if isinstance(mask, dict) or not kinds else dict.fromkeys(kinds, mask)
        if self.config._attn_implementation in (None, "eager"):  # without a choice transformers takes that one
            masks = {k: _added(m, embeds) for k, m in masks.items()} if kinds else _added(masks, embeds)
        elif embeds.shape[1] <= FEW_TOKENS and not torch.is_grad_enabled():
            masks = {k: self._shared(m, embeds) for k, m in masks.items()} if kinds else self._shared(masks, embeds)
        inputs = {"inputs_embeds": embeds, "attention_mask": masks, "position_ids": position, "past_key_values": cache}
        return self.model(**inputs, use_cache=False).last_hidden_state

    def _shared(self, mask: Tensor | BlockMask | None, embeds: Tensor) -> Tensor | BlockMask | None:
        if not isinstance(mask, Tensor) or getattr(self.config, "attn_logit_softcapping", None):
            return mask
        return shared_mask(mask, self.config.num_attention_heads // self.config.num_key_value_heads, embeds.dtype)

    def head(self, hidden: Tensor) -> Tensor:
        """The head's product [..., V] with hidden states [..., D], under the family's cap if it has one."""
        cap = getattr(self.config, "final_logit_softcapping", None)
        logits = self._product(hidden)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _product(self, hidden: Tensor) -> Tensor:
        weight = self.lm_head.weight  # [V, D]; under ZeRO-3 only the module's own call gathers it
        few = hidden.dim() == 2 and len(hidden) <= FEW_ROWS and hidden.device.type == "cpu"
        if few and not torch.is_grad_enabled() and weight.dim() == 2 and self.lm_head.bias is None:
            return F.linear(weight, hidden).T.contiguous()  # BLAS takes half the time or less with the weights first
        return self.lm_head(hidden)


def _norm(norm: torch.nn.Module, hidden: Tensor) -> Tensor:
    """The norm of transformers; where nothing is trained, and there is one, through torch's kernel for it."""
    if hidden.device.type in FUSED_NORM and hidden.dtype == norm.weight.dtype and not torch.is_grad_enabled():
        return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)
    return type(norm).forward(norm, hidden)


def _added(mask: Tensor | None, embeds: Tensor) -> Tensor:
    """The mask as transformers' eager attention adds it to the scores; no mask would mean a causal one to it."""
    if mask is None:
        return embeds.new_zeros(1, 1, 1, 1)
    return torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)


@strict
class A2DQwen3Config(DiffusionSettings, transformers.Qwen3Config):
    """Qwen3's config with the settings of masked diffusion.

    Published `a2d-*` folders carry none of these settings: they were trained bidirectionally, and their special tokens
    are taken from the tokenizer (`dllm.pipelines.special_tokens`).
    """

    model_type = "a2d-qwen3"


class A2DQwen3LMHeadModel(A2DLMHeadModel, transformers.Qwen3ForCausalLM):
    """Qwen3 as a masked-diffusion model."""

    config_class = A2DQwen3Config


@strict
class A2DQwen2Config(DiffusionSettings, transformers.Qwen2Config):
    """Qwen2's config with the settings of masked diffusion."""

    model_type = "a2d-qwen2"


class A2DQwen2LMHeadModel(A2DLMHeadModel, transformers.Qwen2ForCausalLM):
    """Qwen2 as a masked-diffusion model."""

    config_class = A2DQwen2Config


@strict
class A2DLlamaConfig(DiffusionSettings, transformers.LlamaConfig):
    """Llama's config with the settings of masked diffusion."""

    model_type = "a2d-llama"


class A2DLlamaLMHeadModel(A2DLMHeadModel, transformers.LlamaForCausalLM):
    """Llama as a masked-diffusion model."""

    config_class = A2DLlamaConfig


@strict
class A2DGemma2Config(DiffusionSettings, transformers.Gemma2Config):
    """Gemma 2's config with the settings of masked diffusion."""

    model_type = "a2d-gemma2"


class A2DGemma2LMHeadModel(A2DLMHeadModel, transformers.Gemma2ForCausalLM):
    """Gemma 2 as a masked-diffusion model."""

    config_class = A2DGemma2Config


@strict
class A2DGemma3Config(DiffusionSettings, transformers.Gemma3TextConfig):
    """Gemma 3's config with the settings of masked diffusion."""

    model_type = "a2d-gemma3_text"


class A2DGemma3LMHeadModel(A2DLMHeadModel, transformers.Gemma3ForCausalLM):
    """Gemma 3 as a masked-diffusion model."""

    config_class = A2DGemma3Config


# By the model type of the plain family, which its masked-diffusion twin has after "a2d-".
FAMILIES = {
    "qwen2": A2DQwen2LMHeadModel,
    "qwen3": A2DQwen3LMHeadModel,
    "llama": A2DLlamaLMHeadModel,
    "gemma2": A2DGemma2LMHeadModel,
    "gemma3_text": A2DGemma3LMHeadModel,
}
for _model in FAMILIES.values():
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
    AutoModelForMaskedLM.register(_model.config_class, _model)
