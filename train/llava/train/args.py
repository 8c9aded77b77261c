"""Command-line arguments of training, beside those of every run. Names are those of LLaVA where it has one."""

from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from dllm.training import arguments
from llava.constants import PARTS
from llava.conversation import check_version
from llava.data.anyres import EXAMPLE, check_pinpoints
from llava.data.images import allow_blank_images, check_mode
from llava.data.video import VideoFolder
from llava.model.builder import is_trained
from llava.model.language_model.llava_qwen import LlavaQwen3Config

PART_SETTINGS = tuple(name for name in LlavaQwen3Config.__annotations__ if name.startswith("mm_"))


@dataclass(kw_only=True)
class ModelArguments(arguments.ModelArguments):
    """What is built. The mm_* settings are saved in the checkpoint's config too."""

    fixed = ("vision_tower", "version", "image_aspect_ratio", "image_grid_pinpoints")
    fixed += ("attention_pattern", "gen_length", *PART_SETTINGS)

    mm_tunable_parts: str = HfArg(help=f"parts to train, joined by commas: {', '.join(PARTS)}")
    vision_tower: str | None = HfArg(default=None, help="SigLIP folder, open_clip:NAME or timm:NAME (or folder)")
    pretrain_mm_mlp_adapter: str | None = HfArg(default=None, help="adapter file of stage 1")
    version: str = HfArg(default="qwen", help="conversation template")
    mm_vision_select_layer: int = HfArg(default=-2, help="hidden state of the encoder that is used")
    mm_projector_type: str = HfArg(default="mlp2x_gelu", help="mlp2x_gelu, linear, identity")
    mm_resampler_type: str = HfArg(default="qformer", help="qformer, perceiver, spatial_pool, masked_drop, none")
    mm_qformer_depth: int = HfArg(default=12, help="layers")
    mm_qformer_hidden_size: int = HfArg(default=768, help="width, in heads of 64")
    mm_qformer_latents: int = HfArg(default=64, help="queries = visual tokens per image")
    mm_perceiver_depth: int = HfArg(default=3, help="self-attention layers")
    mm_perceiver_latents: int = HfArg(default=64, help="latents = visual tokens per image")
    mm_spatial_pool_stride: int = HfArg(default=2, help="patches per side that are pooled to one")
    mm_spatial_pool_mode: str = HfArg(default="bilinear", help="average, max, bilinear")
    mm_mask_drop_ratio: float = HfArg(default=0.25, help="share of the patches kept in training")

    def trained_settings(self) -> dict:
        folder = self.model_name_or_path
        if not Path(folder, "config.json").is_file() or not is_trained(folder):
            return {}
        config = LlavaQwen3Config.from_pretrained(folder)
        names = (*self.fixed, "block_length")
        return {name: getattr(config, name, getattr(config.text_config, name, None)) for name in names}

    def check(self) -> None:
        super().check()
        prefixes = self.tunable_prefixes()
        if self.lora_enable and PARTS["mm_language_model"] not in prefixes:
            need = "mm_language_model among --mm_tunable_parts"
            raise ValueError(f"--lora_enable needs {need}: its adapter is what trains")
        check_version(self.version)

    def tunable_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the parameters to train. Raises ValueError on an unknown part or none."""
        parts = [part.strip() for part in self.mm_tunable_parts.split(",") if part.strip()]
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ValueError(f"--mm_tunable_parts {self.mm_tunable_parts!r}: name some of {', '.join(PARTS)}")
        return tuple(PARTS[part] for part in parts)

    def settings(self) -> dict:
        """Fields that LlavaQwen3Config takes over by name."""
        return {name: getattr(self, name) for name in ("version", *PART_SETTINGS)}


@dataclass
class DataArguments:
    """What is read."""

    data_path: str = HfArg(help="LLaVA JSON file")
    image_folder: str = HfArg(help="folder that the records' images are relative to")
    eval_data_path: str | None = HfArg(default=None, help="LLaVA JSON file of validation (--eval_strategy)")
    image_aspect_ratio: str = HfArg(default="square", help="square, pad, anyres, anyres_max_N (at most N tiles)")
    image_grid_pinpoints: str | None = HfArg(default=None, help=f"grids of anyres, or pixels: {EXAMPLE}")
    allow_blank_images: bool = HfArg(default=False, help="let images pass that show nothing")
    video_folder: str | None = HfArg(default=None, help="folder that the records' videos are relative to")
    video_fps: float = HfArg(default=1.0, help="frames taken of each second of a video")
    frames_upbound: int = HfArg(default=0, help="frames of a video at most; 0: no bound")

    def videos(self) -> VideoFolder | None:
        return VideoFolder(self.video_folder, self.video_fps, self.frames_upbound) if self.video_folder else None

    def check(self) -> None:
        """Raises ValueError for what can be told before anything is loaded."""
        allow_blank_images(self.allow_blank_images)
        check_mode(self.image_aspect_ratio)
        check_pinpoints(self.image_aspect_ratio, self.image_grid_pinpoints)
        if not self.data_path:
            raise ValueError("--data_path is empty; give the JSON file that convert_data.py wrote")
        if not self.image_folder or not Path(self.image_folder).is_dir():
            raise ValueError(f"--image_folder {self.image_folder!r} is not a folder; give the one with the images")
        if self.video_folder and not Path(self.video_folder).is_dir():
            raise ValueError(f"--video_folder {self.video_folder!r} is not a folder; give the one with the videos")
        if self.video_fps <= 0 or self.frames_upbound < 0:
            fps, most = self.video_fps, self.frames_upbound
            raise ValueError(f"--video_fps {fps} must be above 0, --frames_upbound {most} at least 0")


@dataclass
class TrainingArguments(arguments.MDLMConfig):
    """The arguments of every run, and a learning rate for each part."""

    part_rates = {
        "mm_vision_tower": "mm_vision_tower_lr",
        "mm_vision_resampler": "mm_projector_lr",
        "mm_mlp_adapter": "mm_projector_lr",
    }

    mm_projector_lr: float | None = HfArg(default=None, help="of projector and resampler; else --learning_rate")
    mm_vision_tower_lr: float | None = HfArg(default=None, help="of the encoder; else --learning_rate")
