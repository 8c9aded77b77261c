"""Command-line arguments of training. Names are those of LLaVA where it has one."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dllm.training.trainer import MDLMConfig
from llava.conversation import check_version
from llava.data.anyres import EXAMPLE, check_pinpoints
from llava.data.images import check_mode
from llava.data.video import VideoFolder

# Tunable part -> prefixes of its parameters.
PARTS = {
    "mm_vision_tower": "model.vision_tower.",
    "mm_vision_resampler": "model.vision_resampler.",
    "mm_mlp_adapter": "model.mm_projector.",
    "mm_language_model": "language_model.",
}


@dataclass
class ModelArguments:
    """What is built. The mm_* settings and the pattern are saved in the checkpoint's config."""

    model_name_or_path: str = field(metadata={"help": "folder of a Qwen3 or a2d-qwen3 model, or of a trained model"})
    mm_tunable_parts: str = field(metadata={"help": f"parts to train, joined by commas: {', '.join(PARTS)}"})
    vision_tower: str | None = field(
        default=None,
        metadata={"help": "folder of a SigLIP model, open_clip:NAME or timm:NAME (or folder); a trained model has one"},
    )
    pretrain_mm_mlp_adapter: str | None = field(default=None, metadata={"help": "adapter file of stage 1"})
    version: str = field(default="qwen", metadata={"help": "conversation template"})
    mm_vision_select_layer: int = field(default=-2, metadata={"help": "hidden state of the encoder that is used"})
    mm_projector_type: str = field(default="mlp2x_gelu", metadata={"help": "mlp2x_gelu, linear, identity"})
    mm_resampler_type: str = field(
        default="qformer", metadata={"help": "qformer, perceiver, spatial_pool, masked_drop, none"}
    )
    mm_qformer_depth: int = field(default=12, metadata={"help": "layers"})
    mm_qformer_hidden_size: int = field(default=768, metadata={"help": "width, in heads of 64"})
    mm_qformer_latents: int = field(default=64, metadata={"help": "queries = visual tokens per image"})
    mm_perceiver_depth: int = field(default=3, metadata={"help": "self-attention layers"})
    mm_perceiver_latents: int = field(default=64, metadata={"help": "latents = visual tokens per image"})
    mm_spatial_pool_stride: int = field(default=2, metadata={"help": "patches per side that are pooled to one"})
    mm_spatial_pool_mode: str = field(default="bilinear", metadata={"help": "average, max, bilinear"})
    mm_mask_drop_ratio: float = field(default=0.25, metadata={"help": "share of the patches kept in training"})
    attention_pattern: str = field(default="block", metadata={"help": "bidirectional, prefix, block"})
    block_length: int = field(default=32, metadata={"help": "tokens that are written before the next ones begin"})
    gen_length: int = field(default=256, metadata={"help": "canvas of a report in tokens"})
    lora_enable: bool = field(
        default=False, metadata={"help": "train an adapter of the language model in its stead; it is merged when saved"}
    )
    lora_r: int = field(default=64, metadata={"help": "rank of the adapter"})
    lora_alpha: int = field(default=16, metadata={"help": "the adapter counts alpha / rank times"})
    lora_dropout: float = field(
        default=0.0,
        metadata={"help": "of the adapter's input; unlike all other noise it depends on the number of processes"},
    )

    def tunable_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the parameters to train. Raises ValueError on an unknown part or none."""
        parts = [part.strip() for part in self.mm_tunable_parts.split(",") if part.strip()]
        unknown = [part for part in parts if part not in PARTS]
        if unknown or not parts:
            raise ValueError(f"--mm_tunable_parts {self.mm_tunable_parts!r}: name some of {', '.join(PARTS)}")
        return tuple(PARTS[part] for part in parts)

    def diffusion(self) -> dict:
        names = ("attention_pattern", "block_length", "gen_length")
        return {name: getattr(self, name) for name in names}

    def settings(self) -> dict:
        """Fields that LlavaQwen3Config takes over by name."""
        names = [name for name in self.__dataclass_fields__ if name.startswith(("mm_projector", "mm_resampler"))]
        names += [name for name in self.__dataclass_fields__ if name.startswith(("mm_qformer", "mm_perceiver"))]
        names += [name for name in self.__dataclass_fields__ if name.startswith(("mm_spatial", "mm_mask"))]
        return {name: getattr(self, name) for name in ["version", *names]}


@dataclass
class DataArguments:
    """What is read."""

    data_path: str = field(metadata={"help": "LLaVA JSON file"})
    image_folder: str = field(metadata={"help": "folder that the records' images are relative to"})
    eval_data_path: str | None = field(
        default=None, metadata={"help": "LLaVA JSON file of validation, whose loss --eval_strategy asks for"}
    )
    image_aspect_ratio: str = field(
        default="square", metadata={"help": "square, pad, anyres, anyres_max_N (N: tiles at most, beside the whole)"}
    )
    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": f"grids of anyres, or their resolutions in pixels: {EXAMPLE}"}
    )
    video_folder: str | None = field(default=None, metadata={"help": "folder that the records' videos are relative to"})
    video_fps: float = field(default=1.0, metadata={"help": "frames taken of each second of a video"})
    frames_upbound: int = field(default=0, metadata={"help": "frames of a video at most; 0: no bound"})

    def videos(self) -> VideoFolder | None:
        return VideoFolder(self.video_folder, self.video_fps, self.frames_upbound) if self.video_folder else None


@dataclass
class TrainingArguments(MDLMConfig):
    """transformers' training arguments, the noise of the core, and a learning rate for each part."""

    mm_projector_lr: float | None = field(
        default=None, metadata={"help": "of projector and resampler; else --learning_rate"}
    )
    mm_vision_tower_lr: float | None = field(default=None, metadata={"help": "of the encoder; else --learning_rate"})
    model_max_length: int = field(default=1024, metadata={"help": "longest prompt + report in tokens"})
    dry_run: bool = field(default=False, metadata={"help": "print what the run would do, and what it takes; then stop"})
    optim: str = field(default="adamw_torch", metadata={"help": "optimizer of transformers"})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "every trained weight has a gradient in every batch; DDP need not look"}
    )

    def __post_init__(self):
        accelerate_file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")  # of `accelerate launch`
        if self.deepspeed:
            check_deepspeed_config(self.deepspeed, "--deepspeed")
        elif accelerate_file:
            check_deepspeed_config(accelerate_file, "deepspeed_config_file")
        if self.deepspeed and "RANK" not in os.environ:
            raise ValueError("--deepspeed needs a launcher: start train_mem.py with torchrun")
        if self.resume_from_checkpoint:
            raise ValueError(
                "--resume_from_checkpoint: a run goes on from the newest whole one by itself; leave it out"
            )
        if self.save_only_model:
            raise ValueError("--save_only_model: no run could go on from such a checkpoint; leave it out")
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.ddp_backend = "gloo"
        super().__post_init__()

    @property
    def should_save(self) -> bool:
        """A dry run writes nothing."""
        return super().should_save and not self.dry_run


def check_deepspeed_config(path: str | dict, setting: str) -> None:
    """Raises ValueError for a DeepSpeed JSON whose own optimizer would drop the learning rates of the parts.

    `setting` is what named the file.
    """
    if isinstance(path, str) and not Path(path).is_file():
        raise ValueError(f"{setting} {path} is not a file; use one of scripts/zero2.json, scripts/zero3.json")
    try:
        config = json.loads(Path(path).read_text()) if isinstance(path, str) else path
    except ValueError as error:
        raise ValueError(f"{setting} {path} is not JSON ({error})") from error
    for block in ("optimizer", "scheduler"):
        if block in config:
            raise ValueError(
                f"{setting} {path} has a block {block!r}, which would drop the learning rates of the parts; remove it"
            )


def check_lora(model: ModelArguments, tunable: tuple[str, ...]) -> None:
    """Raises ValueError for settings that no adapter can have."""
    if PARTS["mm_language_model"] not in tunable:
        raise ValueError("--lora_enable needs mm_language_model among --mm_tunable_parts: its adapter is what trains")
    if model.lora_r < 1 or model.lora_alpha <= 0:
        raise ValueError(f"--lora_r {model.lora_r}, --lora_alpha {model.lora_alpha}: both must be at least 1")
    if not 0 <= model.lora_dropout < 1:
        raise ValueError(f"--lora_dropout {model.lora_dropout}: give a share from 0 to below 1")


def check_arguments(model: ModelArguments, data: DataArguments) -> None:
    """Raises ValueError for what can be told before anything is loaded."""
    prefixes = model.tunable_prefixes()
    if model.lora_enable:
        check_lora(model, prefixes)
    check_version(model.version)
    check_mode(data.image_aspect_ratio)
    check_pinpoints(data.image_aspect_ratio, data.image_grid_pinpoints)
    if not data.data_path:
        raise ValueError("--data_path is empty; give the JSON file that convert_data.py wrote")
    if not data.image_folder or not Path(data.image_folder).is_dir():
        raise ValueError(f"--image_folder {data.image_folder!r} is not a folder; give the one that holds the images")
    if data.video_folder and not Path(data.video_folder).is_dir():
        raise ValueError(f"--video_folder {data.video_folder!r} is not a folder; give the one that holds the videos")
    if data.video_fps <= 0 or data.frames_upbound < 0:
        raise ValueError(
            f"--video_fps {data.video_fps} must be above 0, --frames_upbound {data.frames_upbound} at least 0"
        )
