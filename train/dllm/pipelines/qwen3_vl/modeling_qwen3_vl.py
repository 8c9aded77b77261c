"""Qwen3-VL as a masked-diffusion model: transformers' Qwen3-VL under the attention patterns of the core.

An image becomes one visual token per merged patch (2 x 2 patches). The vision encoder hands on the features of some of
its earlier layers too, which are added to the hidden states of the first decoder layers (Meng et al. 2024, DeepStack);
the core carries them as an extra of the prompt. Rotary positions have three axes: time, height, width.

Shapes: n images of a batch, of p patches and N visual tokens in all; K deepstack layers; the others as in `dllm.core`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, Cache
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.qwen3_vl.configuration_qwen3_vl import (
    Qwen3VLConfig,
    Qwen3VLTextConfig,
    Qwen3VLVisionConfig,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLTextModel

from dllm.core import sampler
from dllm.core.attention import LayerMasks
from dllm.core.decoding import Decoding
from dllm.core.language_model import MaskedDiffusionLM, TargetLosses
from dllm.core.model import DiffusionSettings, exclude_unwritable
from dllm.core.prompt import Prompt
from dllm.pipelines.kernels import BY_MASK
from dllm.pipelines.loading import load_whole
from dllm.pipelines.special_tokens import set_special_tokens

VISION = ("model.visual.patch_embed.", "model.visual.pos_embed.", "model.visual.blocks.")  # prefixes of its weights
MERGER = ("model.visual.merger.", "model.visual.deepstack_merger_list.")


@strict
class A2DQwen3VLTextConfig(DiffusionSettings, Qwen3VLTextConfig):
    """The language model's config with the settings of masked diffusion."""

    model_type = "a2d-qwen3_vl_text"

    attention_pattern: str = "block"


@strict
class A2DQwen3VLConfig(Qwen3VLConfig):
    """Qwen3-VL's config; the settings of the diffusion are in `text_config`."""

    model_type = "a2d-qwen3_vl"
    sub_configs_defaults = {"vision_config": Qwen3VLVisionConfig, "text_config": A2DQwen3VLTextConfig}

    @classmethod
    def of_folder(cls, folder: str) -> "A2DQwen3VLConfig":
        """The config of a plain qwen3_vl folder, its special tokens found in the tokenizer, or of a trained one.

        Raises ValueError on any other model type, or if the tokenizer lacks a token.
        """
        config = AutoConfig.from_pretrained(folder)
        if type(config) is Qwen3VLConfig:
            values = config.to_dict()
            for each in (values, values["text_config"]):
                each.pop("model_type")
            config = cls(**values | {"architectures": None})
        if not isinstance(config, cls):
            raise ValueError(f"{folder} holds a {config.model_type} model; a qwen3_vl or a2d-qwen3_vl folder is needed")
        if config.text_config.mask_token_id is None:
            set_special_tokens(config.text_config, AutoTokenizer.from_pretrained(folder))
            marks = (config.image_token_id, config.video_token_id)
            marks += (config.vision_start_token_id, config.vision_end_token_id)
            config.text_config.unwritable_token_ids = list(marks)
        return config


class A2DQwen3VLTextModel(Qwen3VLTextModel):
    """The language model, whose tokens see each other as a mask says and whose deepstack features are dense."""

    config: A2DQwen3VLTextConfig

    def __init__(self, config: A2DQwen3VLTextConfig):
        super().__init__(config)
        self.embed_tokens.padding_idx = None  # the padding token is also the tail that the model learns to write
        for layer in self.layers:
            layer.self_attn.is_causal = False  # else no mask at all would mean a causal one
        self.config._attn_implementation = BY_MASK

    def _deepstack_process(self, hidden_states: Tensor, visual_pos_masks: None, visual_embeds: Tensor) -> Tensor:
        """Hidden states [B, n, D] plus features [B, n, D], 0 where there is no image: no device waits for an index."""
        return hidden_states + visual_embeds.to(hidden_states.dtype)


class Qwen3VLForMaskedLM(MaskedDiffusionLM, Qwen3VLForConditionalGeneration):
    """Text and images of any size and number in, text out."""

    config_class = A2DQwen3VLConfig
    input_unit = "visual_tokens"

    @classmethod
    def from_pretrained(cls, folder: str, *args, freeze_vision: bool = False, freeze_merger: bool = False, **kwargs):
        """The model of a plain qwen3_vl folder or of a trained one.

        `freeze_vision` and `freeze_merger` as in `freeze_vision_components`, the others as in transformers. Raises
        ValueError on any other model type, or if a weight is missing.
        """
        if kwargs.get("output_loading_info"):
            return super().from_pretrained(folder, *args, **kwargs)
        config = kwargs.pop("config", None) or A2DQwen3VLConfig.of_folder(folder)
        model = load_whole(cls, folder, config=config, **kwargs)
        model.freeze_vision_components(freeze_vision, freeze_merger)
        return model

    def freeze_vision_components(self, vision: bool = True, merger: bool = True) -> None:
        """Stops the learning of the vision encoder, and of what projects its features to the language model."""
        frozen = VISION * vision + MERGER * merger
        for name, parameter in self.named_parameters():
            if name.startswith(frozen):
                parameter.requires_grad_(False)

    @property
    def parts(self) -> dict[str, str]:
        head = {} if self.config.tie_word_embeddings else {"lm_head": "lm_head."}
        return {"visual": "model.visual.", "language_model": "model.language_model."} | head

    @property
    def diffusion(self) -> A2DQwen3VLTextConfig:
        return self.config.text_config

    def embed(self, ids: Tensor) -> Tensor:
        """[..., D] of ids [...]."""
        return self.model.language_model.embed_tokens(ids)

    def trunk(
        self,
        embeds: Tensor,
        mask: LayerMasks,
        position: Tensor,
        cache: Cache | None = None,
        deepstack: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, n, D] of embeddings [B, n, D] whose first P tokens have the features `deepstack`
        [B, P, K, D]; see `dllm.core.model.MaskedDiffusionModel`.
        """
        if deepstack is not None:
            deepstack = F.pad(deepstack, (0, 0, 0, 0, 0, embeds.shape[1] - deepstack.shape[1])).unbind(
                2
            )  # K, [B, n, D]
        output = self.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=False,
            deepstack_visual_embeds=deepstack,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], -inf on the mask token, on the marks of images, and on ids that the tokenizer lacks."""
        config = self.diffusion
        others = config.unwritable_token_ids or ()
        return exclude_unwritable(self.lm_head(hidden), config.mask_token_id, config.num_tokens, others)

    def prompt(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> Prompt:
        """The prompt of left-padded ids [B, P] whose image tokens take the visual tokens in order; `pixel_values`
        [p, 3 * 2 * side^2] are the patches of all images, `image_grid_thw` [n, 3] the patches of each along its axes.

        A training batch without images brings one that no place asks for, so that every rank makes the same calls.
        Raises ValueError if places and visual tokens do not match.
        """
        is_image = input_ids == self.config.image_token_id  # [B, P]
        positions, _ = self.model.get_rope_index(  # [3, B, P]
            input_ids, is_image.int(), image_grid_thw, attention_mask=attention_mask
        )
        prompt = Prompt(self.embed(input_ids), attention_mask.bool(), positions)
        if pixel_values is not None:
            tokens, deepstack = self.see(pixel_values, image_grid_thw)  # [N, D], [N, K, D]
            if is_image.sum() not in (len(tokens), 0):
                raise ValueError(f"{int(is_image.sum())} image places in the prompts for {len(tokens)} visual tokens")
            prompt.embeds = prompt.embeds.masked_scatter(is_image[..., None], tokens.to(prompt.embeds.dtype))
            nothing = deepstack.new_zeros(*input_ids.shape, *deepstack.shape[1:])  # [B, P, K, D]
            prompt.extras["deepstack"] = nothing.masked_scatter(is_image[..., None, None], deepstack)
        return prompt

    def see(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor, Tensor]:
        """Visual tokens [N, D] of all images, and their deepstack features [N, K, D]."""
        features = self.model.get_image_features(pixel_values, image_grid_thw)
        layers = [torch.cat(layer) for layer in features.deepstack_features]
        return torch.cat(features.pooler_output), torch.stack(layers, dim=1)

    def prompts(self, decoding: Decoding, pixel_values: Tensor | None, **inputs) -> tuple[Prompt, Prompt | None]:
        """The prompt of `prompt`, and the one that guidance leads away from, if it is not the core's own."""
        prompt, unconditional = self.prompt(pixel_values=pixel_values, **inputs), None
        if decoding.cfg_scale and decoding.cfg_against == "blank_inputs" and pixel_values is not None:
            unconditional = self.prompt(pixel_values=torch.zeros_like(pixel_values), **inputs)
        return prompt, unconditional

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        labels: Tensor | None = None,
        masked: Tensor | None = None,
        paired: bool = True,
        head_chunks: int = 1,
    ) -> MaskedLMOutput | TargetLosses:
        """Training: the losses of responses `labels` [B, R] (-100: no target) noised by `masked` [B, R] after prompts
        as in `prompt`. Without labels: the logits [B, L, V] of sequences `input_ids` [B, L] in which every valid token
        sees every other; a boolean `attention_mask` [B, 1, L, L] replaces that pattern.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        valid = attention_mask if attention_mask.dim() == 2 else torch.ones_like(input_ids)
        prompt = self.prompt(input_ids, valid, pixel_values, image_grid_thw)  # embeds [B, P, D]
        if labels is not None:
            return self.losses(prompt, labels, masked, paired, head_chunks)
        mask = attention_mask if attention_mask.dim() == 4 else prompt.layout().mask("bidirectional")
        return MaskedLMOutput(logits=self.lm_head(self.trunk(prompt.embeds, mask, prompt.positions, **prompt.extras)))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
        on_step: Callable[[Tensor, Tensor], None] | None = None,
        **arguments,
    ) -> sampler.Generation:
        """Responses to prompts as in `prompt`; `arguments` as in `dllm.core.decoding.Decoding`, the others as in
        `dllm.core.sampler.generate`.
        """
        decoding = self.decoding(**arguments)
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": valid, "image_grid_thw": image_grid_thw}
        return self.respond(*self.prompts(decoding, pixel_values, **inputs), decoding, seeds, initial_canvas, on_step)

    def input_path(self) -> tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]:
        """Of an image that is one visual token: what patches of a large image cost by seeing each other is left out."""
        config = self.config.vision_config
        side, grid = config.spatial_merge_size, [1, config.spatial_merge_size, config.spatial_merge_size]
        patch = config.in_channels * config.temporal_patch_size * config.patch_size**2

        def see(model: Qwen3VLForMaskedLM, pixel_values: Tensor) -> Tensor:
            tokens, deepstack = model.see(pixel_values, torch.tensor([grid]))
            return torch.cat([tokens, deepstack.flatten(0, 1)])

        return see, torch.zeros(side**2, patch)


AutoConfig.register(A2DQwen3VLTextConfig.model_type, A2DQwen3VLTextConfig)
AutoConfig.register(A2DQwen3VLConfig.model_type, A2DQwen3VLConfig)
AutoModel.register(A2DQwen3VLTextConfig, A2DQwen3VLTextModel)
AutoModel.register(A2DQwen3VLConfig, Qwen3VLForMaskedLM)
AutoModelForMaskedLM.register(A2DQwen3VLConfig, Qwen3VLForMaskedLM)
