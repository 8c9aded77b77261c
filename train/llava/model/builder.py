"""Builds a model from its parts, loads and saves checkpoints and adapters. Only safetensors files are read."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, SiglipImageProcessorPil

from dllm.core.model import check_diffusion_settings
from dllm.data.conversation import CHATML_TEMPLATE
from dllm.data.files import replacing
from dllm.pipelines.a2d.loading import read_family
from dllm.pipelines.auto import load_text_model
from dllm.pipelines.loading import check_folder, load_whole, read_config, reading
from dllm.pipelines.parts import load_parts
from llava.constants import PARTS
from llava.data.images import check_processor
from llava.model.language_model.llava_qwen import LlavaQwen3Config, LlavaQwen3ModelLM
from llava.model.multimodal_encoder.builder import load_vision_tower

ADAPTER_FILE = "mm_projector.safetensors"
ADAPTER_PARTS = (PARTS["mm_mlp_adapter"], PARTS["mm_vision_resampler"])
ADAPTER_TYPES = ("mm_projector_type", "mm_resampler_type")


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with a chat template if it brings none."""
    with reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer


def build_model(
    language_model: str, vision_tower: str, select_layer: int, dtype: torch.dtype, diffusion: dict, **settings
) -> tuple[PreTrainedTokenizerBase, LlavaQwen3ModelLM, SiglipImageProcessorPil]:
    """A model of a Qwen3 or a2d-qwen3 folder and a vision tower (`load_vision_tower`); resampler and projector start
    from random weights.

    `diffusion` overrides settings of the language model's config (attention_pattern, block_length, gen_length),
    `settings` are those of LlavaQwen3Config. Raises ValueError on an incomplete folder or an impossible setting.
    """
    read_family(language_model, ["qwen3"])
    tower, processor = load_vision_tower(vision_tower, select_layer, dtype)
    tokenizer, language, _ = load_text_model(language_model, diffusion, dtype=dtype)
    # Copies: the config of the whole resets the attention kernels of the configs that it is given.
    configs = {"vision_config": tower.config.to_dict(), "text_config": language.config.to_dict()}
    model = LlavaQwen3ModelLM(LlavaQwen3Config(**configs, dtype=dtype, **settings), tower, language).to(dtype)
    model.config.vision_config, model.config.text_config = tower.config, language.config
    return tokenizer, model, processor


def is_trained(folder: str) -> bool:
    """Whether a model folder holds a trained vision-language model, not a language model alone."""
    return read_config(folder).get("model_type") == LlavaQwen3Config.model_type


def load_pretrained_model(
    model_path: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedTokenizerBase, LlavaQwen3ModelLM, SiglipImageProcessorPil]:
    """Tokenizer, model in evaluation mode and image processor of a trained folder. Raises ValueError if incomplete."""
    model_type = check_folder(model_path, "tokenizer.json", "preprocessor_config.json").get("model_type")
    if model_type != LlavaQwen3Config.model_type:
        raise ValueError(f"{model_path} holds a {model_type} model, not a trained llava_qwen3 checkpoint")
    with reading(model_path):
        config = LlavaQwen3Config.from_pretrained(model_path)
        check_diffusion_settings(config.text_config)
    processor = load_image_processor(model_path, config)
    model = load_whole(LlavaQwen3ModelLM, model_path, config=config, dtype=dtype)
    return load_tokenizer(model_path), model.to(device).eval(), processor


def load_image_processor(folder: str, config: LlavaQwen3Config) -> SiglipImageProcessorPil:
    """The image processor of a trained folder. Raises ValueError if it does not fit the vision tower."""
    with reading(folder):
        processor = SiglipImageProcessorPil.from_pretrained(folder)
    with reading(f"{folder}/preprocessor_config.json"):
        check_processor(processor, config.vision_config.image_size)
    return processor


def save_adapter(state: dict[str, Tensor], config: LlavaQwen3Config, folder: str) -> Path:
    """Writes resampler and projector of a model's state, and their types, to one safetensors file."""
    adapter = {name: tensor.contiguous() for name, tensor in state.items() if name.startswith(ADAPTER_PARTS)}
    path = Path(folder) / ADAPTER_FILE
    with replacing(path) as partial:
        save_file(adapter, partial, metadata={name: getattr(config, name) for name in ADAPTER_TYPES})
    return path


def load_adapter(model: LlavaQwen3ModelLM, file: str) -> None:
    """Reads resampler and projector into a model. Raises ValueError if the file does not fit it."""
    if not Path(file).is_file():
        raise ValueError(f"adapter {file} is missing; run stage 1 or set --pretrain_mm_mlp_adapter")
    try:
        with safe_open(file, framework="pt") as adapter:
            types = adapter.metadata() or {}
            state = {name: adapter.get_tensor(name) for name in adapter.keys()}
    except Exception as error:
        raise ValueError(f"adapter {file} is not a safetensors file ({error}); run stage 1 again") from error
    for name in ADAPTER_TYPES:
        theirs, ours = types.get(name), getattr(model.config, name)
        if theirs != ours:
            problem = f"was trained with {name} {theirs!r}, the model has {ours!r}"
            raise ValueError(f"adapter {file} {problem}; give the types of stage 1")
    load_parts(model, state, ADAPTER_PARTS, f"adapter {file}", "give the settings of stage 1")
