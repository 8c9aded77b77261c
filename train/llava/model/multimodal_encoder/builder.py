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

from dllm.pipelines.loading import check_folder, load_whole
from llava.model.multimodal_encoder.library_encoder import (
    LIBRARIES,
    LibraryVisionTower,
    load_library_tower,
    save_library_tower,
)
from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionTower, truncated_config


def load_vision_tower(
    name: str, select_layer: int, dtype: torch.dtype
) -> tuple[PreTrainedModel, SiglipImageProcessorPil]:
    """A tower with its weights, cut after the selected layer, and its image processor.

    `name` is a SigLIP folder, or `open_clip:` or `timm:` before a folder or the name of a repository on the Hugging
    Face hub. Raises ValueError if it cannot be loaded whole, or has no such layer.
    """
    library, _, source = name.partition(":")
    if library in LIBRARIES:
        return load_library_tower(library, source, select_layer, dtype)
    check_folder(name, "preprocessor_config.json")
    config = truncated_config(name, select_layer)
    tower = load_whole(SigLipVisionTower, name, config=config, dtype=dtype)
    size = {"height": config.image_size, "width": config.image_size}
    return tower, SiglipImageProcessorPil.from_pretrained(name, size=size)


def tower_marker(name: str) -> str:
    """The file that `save_vision_tower` writes last: where it is, the folder is whole."""
    library = name.partition(":")[0]
    return LIBRARIES[library][0] if library in LIBRARIES else "preprocessor_config.json"


def save_vision_tower(tower: PreTrainedModel, name: str, folder: str) -> None:
    """Writes the tower that was loaded from `name` as that was written, with the layers that were cut unchanged."""
    library, _, source = name.partition(":")
    if library in LIBRARIES:
        return save_library_tower(tower, source, folder)
    whole = SiglipVisionModel.from_pretrained(name)
    whole.load_state_dict(tower.state_dict(), strict=False)
    whole.save_pretrained(folder)
    SiglipImageProcessorPil.from_pretrained(name).save_pretrained(folder)


def build_vision_config(values: dict) -> PreTrainedConfig:
    """The config of a tower from what a checkpoint says of it."""
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type", SiglipVisionConfig.model_type), **values)


def build_vision_tower(config: PreTrainedConfig) -> nn.Module:
    """A tower with random weights: a module from images [n, 3, S, S] to features [n, N, D_vision]."""
    kind = SigLipVisionTower if config.model_type == SiglipVisionConfig.model_type else LibraryVisionTower
    return kind(config)
