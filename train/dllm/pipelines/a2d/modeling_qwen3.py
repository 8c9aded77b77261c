"""Qwen3 as a masked-diffusion language model: transformers' Qwen3 under the attention patterns of the core."""

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, Cache, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_outputs import MaskedLMOutput

from dllm.core import sampler
from dllm.core.language_model import MaskedDiffusionLM, TargetLosses
from dllm.core.model import exclude_unwritable
from dllm.core.prompt import Prompt
from dllm.pipelines.kernels import BY_MASK
from dllm.pipelines.loading import load_whole

FEW_ROWS = 48


@strict
class A2DQwen3Config(Qwen3Config):
    """Qwen3's config with the settings of masked diffusion (see `dllm.core.model.check_diffusion_settings`).

    Published `a2d-qwen3` folders carry none of these settings: they were trained bidirectionally, and their special
    tokens are taken from the tokenizer (`dllm.pipelines.special_tokens`).
    """

    model_type = "a2d-qwen3"

    attention_pattern: str = "bidirectional"
    block_length: int = 32
    gen_length: int = 256
    mask_token_id: int | None = None
    num_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    tail_token_id: int | None = None


class A2DQwen3LMHeadModel(MaskedDiffusionLM, Qwen3ForCausalLM):
    """Qwen3 whose tokens see each other as the pattern of its config says."""

    config_class = A2DQwen3Config

    def __init__(self, config: A2DQwen3Config):
        super().__init__(config)
        # The padding token is also the tail that the model learns to write, so its embedding must learn too.
        self.model.embed_tokens.padding_idx = None
        for layer in self.model.layers:
            layer.self_attn.is_causal = False  # else no mask at all would mean a causal one
        if config._attn_implementation == "sdpa":
            config._attn_implementation = BY_MASK

    @property
    def diffusion(self) -> A2DQwen3Config:
        return self.config

    def embed(self, ids: Tensor) -> Tensor:
        """[..., D] of ids [...]."""
        return self.model.embed_tokens(ids)

    def trunk(self, embeds: Tensor, mask: Tensor | None, position: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, n, D] of embeddings [B, n, D]; see `dllm.core.model.MaskedDiffusionModel`."""
        if mask is not None and self.config._attn_implementation == "eager":  # adds its mask to the scores
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
        masks = dict.fromkeys(self.config.layer_types, mask)
        output = self.model(
            inputs_embeds=embeds, attention_mask=masks, position_ids=position, past_key_values=cache, use_cache=False
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], -inf on the mask token and on ids that the tokenizer does not have."""
        return exclude_unwritable(self.head(hidden), self.config.mask_token_id, self.config.num_tokens)

    def head(self, hidden: Tensor) -> Tensor:
        """The head's product [..., V] with hidden states [..., D]."""
        weight = self.lm_head.weight  # [V, D]; under ZeRO-3 only the module's own call gathers it
        few = hidden.dim() == 2 and len(hidden) <= FEW_ROWS and hidden.device.type == "cpu"
        if few and not torch.is_grad_enabled() and weight.dim() == 2 and self.lm_head.bias is None:
            return F.linear(weight, hidden).T.contiguous()  # BLAS takes half the time or less with the weights first
        return self.lm_head(hidden)

    def prompt(self, input_ids: Tensor, attention_mask: Tensor) -> Prompt:
        """The embedded prompt of left-padded ids [B, P]."""
        return Prompt.left_padded(self.embed(input_ids), attention_mask.bool())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        masked: Tensor | None = None,
        paired: bool = True,
        head_chunks: int = 1,
    ) -> MaskedLMOutput | TargetLosses:
        """Training: the losses of responses `labels` [B, R] (-100: no target) noised by `masked` [B, R] after the
        prompts `input_ids` [B, P]. Without labels: the logits [B, L, V] of a sequence in which every valid token sees
        every other; a boolean `attention_mask` [B, 1, L, L] replaces that pattern.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if labels is not None:
            return self.losses(self.prompt(input_ids, attention_mask), labels, masked, paired, head_chunks)
        if attention_mask.dim() == 4:
            mask, position = attention_mask, torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        else:
            layout = self.prompt(input_ids, attention_mask).layout()
            mask, position = layout.mask("bidirectional"), layout.position
        return MaskedLMOutput(logits=self.lm_head(self.trunk(self.embed(input_ids), mask, position)))

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
        **arguments,
    ) -> sampler.Generation:
        """Responses to left-padded prompts [B, P]; `arguments` as in `dllm.core.decoding.Decoding`, the others as in
        `dllm.core.sampler.generate`.
        """
        decoding = self.decoding(**arguments)
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.respond(self.prompt(input_ids, valid), None, decoding, seeds, initial_canvas)


def load_qwen3(folder: str, **kwargs) -> A2DQwen3LMHeadModel:
    """The model of a plain Qwen3 folder or of an `a2d-qwen3` folder.

    Raises ValueError on any other model type, or if a weight is missing.
    """
    config = AutoConfig.from_pretrained(folder)
    if type(config) is Qwen3Config:
        values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
        config = A2DQwen3Config(**values)
    if not isinstance(config, A2DQwen3Config):
        raise ValueError(f"{folder} holds a {config.model_type} model; a qwen3 or a2d-qwen3 folder is needed")
    return load_whole(A2DQwen3LMHeadModel, folder, config=config, **kwargs)


AutoConfig.register("a2d-qwen3", A2DQwen3Config)
AutoModel.register(A2DQwen3Config, A2DQwen3LMHeadModel)
AutoModelForMaskedLM.register(A2DQwen3Config, A2DQwen3LMHeadModel)
