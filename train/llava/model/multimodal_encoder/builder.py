"""Vision towers: SigLIP folders, and models of the libraries open_clip and timm."""

import torch
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from dllm.pipelines.loading import check_folder, load_whole, reading
from llava.model.multimodal_encoder.library_encoder import LIBRARIES, LibraryVisionTower, load_library_tower
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower, truncated_config


def load_vision_tower(
    name: str, select_layer: int, dtype: torch.dtype
) -> tuple[PreTrainedModel, SiglipImageProcessorPil]:
    """A tower with its weights, cut after the selected layer, and its image processor.

    `name` is a folder of SigLIP or of `save_vision_tower`, or `open_clip:` or `timm:` before a folder or the name of a
    repository on the Hugging Face hub. Raises ValueError if it cannot be loaded whole, or has no such layer.
    """
    library, _, source = name.partition(":")
    if library in LIBRARIES:
        return load_library_tower(library, source, select_layer, dtype)
    if check_folder(name, "preprocessor_config.json").get("model_type") == LibraryVisionTower.config_class.model_type:
        tower = load_whole(LibraryVisionTower, name, dtype=dtype)
        if tower.config.select_layer != select_layer:
            raise ValueError(f"{name} was cut at layer {tower.config.select_layer}; ask for that one")
        return tower, _processor(name)
    config = truncated_config(name, select_layer)
    tower = load_whole(SigLipVisionTower, name, config=config, dtype=dtype)
    size = {"height": config.image_size, "width": config.image_size}
    return tower, _processor(name, size=size)


def save_vision_tower(tower: PreTrainedModel, processor: SiglipImageProcessorPil, name: str, folder: str) -> None:
    """Writes a trained tower for `load_vision_tower`; a SigLIP with the layers of `name` that were cut. The processor
    comes last: where it is, the folder is whole.
    """
    if isinstance(tower, SigLipVisionTower):
        whole = SiglipVisionModel.from_pretrained(name)
        whole.load_state_dict(tower.state_dict(), strict=False)
        tower = whole
    tower.save_pretrained(folder)
    processor.save_pretrained(folder)


def build_vision_config(values: dict) -> PreTrainedConfig:
    """The config of a tower from what a checkpoint says of it."""
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type", SiglipVisionConfig.model_type), **values)


def build_vision_tower(config: PreTrainedConfig) -> nn.Module:
    """A tower with random weights: a module from images [n, 3, S, S] to features [n, N, D_vision]."""
    kind = SigLipVisionTower if config.model_type == SiglipVisionConfig.model_type else LibraryVisionTower
    return kind(config)


def _processor(folder: str, **settings) -> SiglipImageProcessorPil:
    with reading(folder):
        return SiglipImageProcessorPil.from_pretrained(folder, **settings)
