"""Vision models of open_clip (Ilharco et al. 2021) and timm (Wightman 2019) as patch encoders.

The libraries are imported only when such a tower is asked for. A tower's config holds the arguments of its library's
own factory, so a checkpoint needs nothing but the library to build it again.
"""

from importlib import import_module
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.dataclasses import strict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, SiglipImageProcessorPil

from dllm.data.files import read_json
from dllm.pipelines.loading import check_folder
from dllm.program import one_line

# Library -> names of the config and of the weights in a folder that it wrote, and what the weights' names start with.
LIBRARIES = {
    "open_clip": ("open_clip_config.json", "open_clip_model.safetensors", "visual."),
    "timm": ("config.json", "model.safetensors", ""),
}


@strict
class LibraryVisionConfig(PreTrainedConfig):
    """What builds a tower: `factory` are the arguments of its library's factory."""

    model_type = "library_vision_tower"

    library: str = "timm"
    factory: dict | None = None
    select_layer: int = -2
    image_size: int = 224
    patch_size: int = 16  # pixels of the image per side of a feature
    hidden_size: int = 768


class LibraryVisionTower(PreTrainedModel):
    """Patch features of square images from the selected layer. Later layers, final norm and head are cut off."""

    config_class = LibraryVisionConfig
    main_input_name = "images"

    def __init__(self, config: LibraryVisionConfig):
        super().__init__(config)
        self.encoder = build_encoder(config.library, config.factory)
        self.layer = cut(self.encoder, config.select_layer)
        self.post_init()

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, N, D_vision] of images [n, 3, S, S]."""
        return layer_output(self.encoder, self.layer, images).flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> "LibraryVisionTower":
        """Stays in evaluation mode: dropped paths and the statistics of a batch would differ between processes."""
        return super().train(False)

    @property
    def gradient_checkpointing(self) -> bool:
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self._checkpointing = enable
        self.encoder.set_grad_checkpointing(enable)

    def _init_weights(self, module: nn.Module) -> None:
        """transformers empties what is not saved, such as rotary tables; timm's modules compute it again."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


def load_library_tower(
    library: str, source: str, select_layer: int, dtype: torch.dtype
) -> tuple[LibraryVisionTower, SiglipImageProcessorPil]:
    """A tower with the weights of a folder or hub repository, and a processor with the normalisation it was trained on.

    Images are stretched to the tower's square, never cropped. Raises ValueError, naming the source.
    """
    folder = find_folder(library, source)
    import_library(library)
    try:
        factory, pixels = (describe_open_clip if library == "open_clip" else describe_timm)(folder)
    except (KeyError, TypeError, AttributeError) as error:
        file = folder / LIBRARIES[library][0]
        raise ValueError(f"{file} does not describe a model of {library} ({error!r}); copy it again") from error
    encoder = build_encoder(library, factory, folder)
    layer = cut(encoder, select_layer)
    side = pixels["size"]["height"]
    with torch.no_grad():
        _, width, rows, columns = layer_output(encoder.eval(), layer, torch.zeros(1, 3, side, side)).shape
    patch_size = side // rows
    if rows != columns or side // patch_size != rows:
        raise ValueError(f"{library}:{source} makes {rows} x {columns} features of {side} pixels; use another tower")
    sizes = {"select_layer": select_layer, "image_size": side, "patch_size": patch_size, "hidden_size": width}
    tower = LibraryVisionTower(LibraryVisionConfig(library=library, factory=factory, **sizes))
    tower.encoder = encoder
    return tower.to(dtype), SiglipImageProcessorPil(**pixels)


def find_folder(library: str, source: str) -> Path:
    """The folder of a tower; a name that is no folder is downloaded from the Hugging Face hub, or found in its cache.

    Only config and safetensors weights are looked at. Raises ValueError if they are not there or damaged.
    """
    config, weights, _ = LIBRARIES[library]
    folder = Path(source)
    if not folder.is_dir():
        repository = source.removeprefix("hf-hub:").removeprefix("hf_hub:")
        try:
            folder = Path(snapshot_download(repository, allow_patterns=[config, weights]))
        except Exception as error:  # of the network, of the hub, of the name
            problem = f"is no folder, and the Hugging Face hub does not give it ({type(error).__name__})"
            remedy = "download it where there is a network and give its folder"
            raise ValueError(f"--vision_tower {library}:{source} {problem}; {remedy}") from error
    if not (folder / weights).is_file():
        remedy = "make it of one with torch.load(FILE, weights_only=True) and safetensors.torch.save_file"
        problem = f"has no {weights}; pickle files (.bin, .pt) are never read"
        raise ValueError(f"--vision_tower {library}:{source} {problem}: {remedy}")
    check_folder(folder, config=config, weights=weights)
    return folder


def import_library(library: str):
    """The module. Raises ValueError if it is not installed, or cannot be imported."""
    try:
        return import_module(library)
    except (ImportError, RuntimeError) as error:  # a torchvision built for another torch gives a RuntimeError
        need = f"a vision tower of {library} needs its package ({error})"
        raise ValueError(f'{need}; pip install -e "train[towers]"') from error


def describe_open_clip(folder: Path) -> tuple[dict, dict]:
    """Arguments of the factory, and of the image processor."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    description = read_json(folder / LIBRARIES["open_clip"][0], "copy it again")
    model, vision = description["model_cfg"], description["model_cfg"]["vision_cfg"]
    factory = {
        "embed_dim": model["embed_dim"],
        "vision_cfg": vision | {"timm_model_pretrained": False, "patch_dropout": 0.0},
        "quick_gelu": model.get("quick_gelu", False),
    }
    preprocess = merge_preprocess_dict(PreprocessCfg(size=vision["image_size"]), description["preprocess_cfg"])
    return factory, processor_arguments(preprocess["size"], preprocess)


def describe_timm(folder: Path) -> tuple[dict, dict]:
    """Arguments of the factory, and of the image processor."""
    from timm.data import resolve_data_config
    from timm.models._hub import load_model_config_from_path

    pretrained_cfg, name, arguments = load_model_config_from_path(folder)
    kept = {key: value for key, value in pretrained_cfg.items() if key not in ("file", "source", "label_names")}
    factory = {"model_name": name, "pretrained_cfg": kept, **arguments}
    preprocess = resolve_data_config(pretrained_cfg=kept)
    return factory, processor_arguments(preprocess["input_size"][1:], preprocess)


def processor_arguments(size: int | tuple[int, int], preprocess: dict) -> dict:
    """Arguments of SiglipImageProcessorPil for the `mean`, `std` and `interpolation` of a library."""
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f"the vision tower wants images of {width} x {height} pixels; use one for square images")
    return {
        "size": {"height": height, "width": width},
        "image_mean": list(preprocess["mean"]),
        "image_std": list(preprocess["std"]),
        "resample": int(Image.Resampling[preprocess["interpolation"].upper()]),
    }


def build_encoder(library: str, factory: dict, folder: Path | None = None) -> nn.Module:
    """The vision model that a library makes of these arguments, whole; its weights are those of `folder`, or random.

    Raises ValueError if the library does not know such a model, or the folder lacks a weight.
    """
    module = import_library(library)
    try:
        model = (module.create_model if library == "timm" else module.model._build_vision_tower)(**factory)
    except (RuntimeError, TypeError) as error:
        problem = f"cannot build the vision tower ({one_line(error)[:200]})"
        raise ValueError(f"{library} {module.__version__} {problem}; update it") from error
    if folder is not None:
        _, name, prefix = LIBRARIES[library]
        weights = {key: tensor for key, tensor in load_file(folder / name).items() if key.startswith(prefix)}
        try:
            model.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in weights.items()})
        except RuntimeError as error:
            problem = f"does not fit its config ({one_line(error)[:200]})"
            raise ValueError(f"{folder / name} {problem}; copy it again") from error
    return getattr(model, "trunk", model) if library == "open_clip" else model  # it wraps models of timm


def cut(encoder: nn.Module, select_layer: int) -> int:
    """Cuts off all that comes after the selected layer, and returns the layer's number from the start.

    `select_layer` counts the outputs of layers (of stages, in a pyramid) from the end: -1 is the last. Raises
    ValueError if there is no such layer.
    """
    kind = type(encoder).__name__
    if not hasattr(encoder, "prune_intermediate_layers"):
        raise ValueError(f"--vision_tower: {kind} cannot be cut at a layer; use a vision transformer")
    try:
        if select_layer >= 0:
            raise AssertionError("count from the end")
        (layer,) = encoder.prune_intermediate_layers([select_layer], prune_norm=True, prune_head=True)
    except AssertionError as error:
        raise ValueError(f"--mm_vision_select_layer {select_layer} does not fit {kind} ({error}); use -2") from error
    if getattr(encoder, "attn_pool", None) is not None:
        encoder.attn_pool = None
    return layer


def layer_output(encoder: nn.Module, layer: int, images: Tensor) -> Tensor:
    """Features [n, D_vision, rows, columns] of images [n, 3, S, S]."""
    outputs = encoder.forward_intermediates(images, indices=[layer], intermediates_only=True)
    (features,) = outputs["image_intermediates"] if isinstance(outputs, dict) else outputs
    return features


AutoConfig.register(LibraryVisionConfig.model_type, LibraryVisionConfig)
