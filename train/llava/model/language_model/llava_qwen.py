"""LlavaQwen3ModelLM: the vision-language model on the Qwen3 diffusion language model."""

from collections.abc import Callable

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from dllm.core.decoding import Decoding
from dllm.pipelines.a2d import A2DQwen3Config, A2DQwen3LMHeadModel
from llava.constants import PARTS
from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel
from llava.model.multimodal_encoder.builder import build_vision_config


@strict
class LlavaQwen3Config(PreTrainedConfig):
    """One config for all parts. The settings of the diffusion (pattern, block, mask token ...) are in `text_config`."""

    model_type = "llava_qwen3"
    sub_configs = {"vision_config": AutoConfig, "text_config": A2DQwen3Config}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    version: str = "qwen"
    image_aspect_ratio: str = "square"
    image_grid_pinpoints: str | None = None
    mm_projector_type: str = "mlp2x_gelu"
    mm_resampler_type: str = "qformer"
    mm_qformer_depth: int = 12
    mm_qformer_hidden_size: int = 768
    mm_qformer_latents: int = 64
    mm_perceiver_depth: int = 3
    mm_perceiver_latents: int = 64
    mm_spatial_pool_stride: int = 2
    mm_spatial_pool_mode: str = "bilinear"
    mm_mask_drop_ratio: float = 0.25
    tie_word_embeddings: bool = False  # the language model ties its own

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = build_vision_config(self.vision_config or {})
        if not isinstance(self.text_config, PreTrainedConfig):
            self.text_config = A2DQwen3Config(**(self.text_config or {}))
        super().__post_init__(**kwargs)


class LlavaQwen3ModelLM(LlavaMetaForCausalLM, PreTrainedModel):
    """Image and text in, report out. Parts that are not given start from random weights."""

    config_class = LlavaQwen3Config
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    parts = PARTS
    language_model_part = "mm_language_model"
    input_unit = "images"  # square tiles and video frames
    usage = """from PIL import Image
from transformers import AutoModel, AutoProcessor
import llava.model
processor, model = AutoProcessor.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER).eval()
batch = processor(images=Image.open(IMAGE).convert("RGB"), text="Describe the radiology image.")
print(processor.batch_decode(model.generate(**batch).ids))"""

    def __init__(
        self,
        config: LlavaQwen3Config,
        vision_tower: PreTrainedModel | None = None,
        language_model: A2DQwen3LMHeadModel | None = None,
    ):
        super().__init__(config)
        self.model = LlavaMetaModel(config, vision_tower)
        self.language_model = language_model or A2DQwen3LMHeadModel(config.text_config)
        self.post_init()

    def decoding(self, **arguments) -> Decoding:
        """`cfg_against` may be `blank_images`: what the model is given beside text is images."""
        if arguments.get("cfg_against") == "blank_images":
            arguments["cfg_against"] = "blank_inputs"
        return super().decoding(**arguments)

    def input_path(self) -> tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]:
        side = self.config.vision_config.image_size
        return lambda model, images: model.model(images, torch.zeros(1)), torch.zeros(1, 3, side, side)


AutoConfig.register("llava_qwen3", LlavaQwen3Config)
AutoModel.register(LlavaQwen3Config, LlavaQwen3ModelLM)
AutoModelForMaskedLM.register(LlavaQwen3Config, LlavaQwen3ModelLM)
