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
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig, Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLTextModel

from dllm.core.attention import LayerMasks
from dllm.core.composite import CompositeLM
from dllm.core.model import DiffusionSettings
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
    if not hasattr(Qwen3VLConfig, "sub_configs_defaults"):  # transformers 5.17
        sub_configs = sub_configs_defaults

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
            marks = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
            config.text_config.unwritable_token_ids = [getattr(config, mark) for mark in marks]
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

    def embed(self, ids: Tensor) -> Tensor:
        """[..., D] of ids [...]."""
        return self.embed_tokens(ids)

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
            behind = embeds.shape[1] - deepstack.shape[1]  # tokens of the response
            deepstack = F.pad(deepstack, (0, 0, 0, 0, 0, behind)).unbind(2)  # K times [B, n, D]
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": position, "past_key_values": cache}
        return self(**inputs, use_cache=False, deepstack_visual_embeds=deepstack).last_hidden_state

    def _deepstack_process(self, hidden_states: Tensor, visual_pos_masks: None, visual_embeds: Tensor) -> Tensor:
        """Hidden states [B, n, D] plus features [B, n, D], 0 where there is no image: no device waits for an index."""
        return hidden_states + visual_embeds.to(hidden_states.dtype)


class Qwen3VLForMaskedLM(CompositeLM, Qwen3VLForConditionalGeneration):
    """Text and images of any size and number in, text out."""

    config_class = A2DQwen3VLConfig
    input_unit = "visual_tokens"
    usage = """from PIL import Image
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLProcessor
processor, model = Qwen3VLProcessor.from_pretrained(FOLDER), Qwen3VLForMaskedLM.from_pretrained(FOLDER).eval()
batch = processor(images=Image.open(IMAGE).convert("RGB"), text="What is in the image?")
print(processor.batch_decode(model.generate(**batch).ids))"""

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
    def language_model(self) -> A2DQwen3VLTextModel:
        return self.model.language_model

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def prepare_prompt(
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
        place = self.config.image_token_id
        is_image = input_ids == place  # [B, P]
        tokens, deepstack = self.embed(input_ids.new_empty(0)), None  # [0, D]
        if pixel_values is not None:
            tokens, deepstack = self.see(pixel_values, image_grid_thw)  # [N, D], [N, K, D]
        prompt = self.fill(input_ids, attention_mask, place, tokens)
        places = (input_ids, is_image.int(), image_grid_thw)
        prompt.positions, _ = self.model.get_rope_index(*places, attention_mask=attention_mask)  # [3, B, P]
        if deepstack is not None:
            nothing = deepstack.new_zeros(*input_ids.shape, *deepstack.shape[1:])  # [B, P, K, D]
            prompt.extras["deepstack"] = nothing.masked_scatter(is_image[..., None, None], deepstack)
        return prompt

    def blank(self, pixel_values: Tensor, image_grid_thw: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(pixel_values), image_grid_thw

    def see(self, pixel_values: Tensor, image_grid_thw: Tensor, **computed: Tensor) -> tuple[Tensor, Tensor]:
        """Visual tokens [N, D] of all images, and their deepstack features [N, K, D]. `computed`: what transformers
        would make of the grids.
        """
        features = self.model.get_image_features(pixel_values, image_grid_thw, **computed)
        # In transformers 5.17 a layer's features are one tensor, later one for each image.
        layers = [layer if isinstance(layer, Tensor) else torch.cat(layer) for layer in features.deepstack_features]
        return torch.cat(features.pooler_output), torch.stack(layers, dim=1)

    def input_path(self) -> tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]:
        """Of an image that is one visual token: what patches of a large image cost by seeing each other is left out."""
        config = self.config.vision_config
        side = config.spatial_merge_size
        patches, width = side**2, config.in_channels * config.temporal_patch_size * config.patch_size**2

        def see(model: Qwen3VLForMaskedLM, pixel_values: Tensor) -> Tensor:
            # What is computed of the grid has no part in the costs, and would be on another device.
            zeros = pixel_values.new_zeros(patches, 4)
            computed = {"image_position_ids": zeros[:, :2].long(), "image_interp_indices": zeros.long()}
            grid = torch.tensor([[1, side, side]])
            tokens, deepstack = model.see(pixel_values, grid, **computed, image_interp_weights=zeros)
            return torch.cat([tokens, deepstack.flatten(0, 1)])

        return see, torch.zeros(patches, width)


AutoConfig.register(A2DQwen3VLTextConfig.model_type, A2DQwen3VLTextConfig)
AutoConfig.register(A2DQwen3VLConfig.model_type, A2DQwen3VLConfig)
AutoModel.register(A2DQwen3VLTextConfig, A2DQwen3VLTextModel)
AutoModel.register(A2DQwen3VLConfig, Qwen3VLForMaskedLM)
AutoModelForMaskedLM.register(A2DQwen3VLConfig, Qwen3VLForMaskedLM)
