"""SigLIP as a patch encoder (Zhai et al. 2023; Tschannen et al. 2025)."""

from pathlib import Path

from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from dllm.data.files import read_json
from dllm.pipelines.loading import REMEDY, reading


def truncated_config(folder: str, select_layer: int) -> SiglipVisionConfig:
    """The vision config of a SigLIP folder, cut after the layer whose output is used.

    `select_layer` counts hidden states from the end: -1 is the last layer's output, -2 the one before it. Later layers,
    the final norm and the pooling head would get no gradient, so they are left out.
    Raises ValueError if the folder holds no SigLIP vision model or has too few layers.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: --vision_tower needs the folder of a SigLIP model")
    model_type = read_json(path, REMEDY).get("model_type", "unknown")
    if model_type not in ("siglip", "siglip_vision_model"):
        raise ValueError(f"{folder} holds a {model_type} model; --vision_tower needs SigLIP")
    with reading(folder):
        config = SiglipVisionConfig.from_pretrained(folder)
    layers = config.num_hidden_layers
    if not -layers <= select_layer < 0:
        raise ValueError(f"--mm_vision_select_layer {select_layer} does not fit {layers} layers; use -2")
    config.num_hidden_layers = layers + 1 + select_layer
    config.vision_use_head = False
    return config


class SigLipVisionTower(SiglipVisionModel):
    """Patch features of square images. Its config is already cut to the layers that are used."""

    _keys_to_ignore_on_load_unexpected = [r"encoder\.layers\.\d+\.|post_layernorm\.|head\.", r"^text_model\.|^logit_"]

    def __init__(self, config: SiglipVisionConfig):
        super().__init__(config)
        self.post_layernorm = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, N, D_vision] of images [n, 3, S, S]."""
        return super().forward(images).last_hidden_state
