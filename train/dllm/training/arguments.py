"""Command-line arguments that every training run has, whatever it trains on."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.trainer import TRAINER_STATE_NAME

from dllm.core.losses import NORMALISATIONS
from dllm.core.noise import ESTIMATORS, ForwardProcess
from dllm.core.patterns import PATTERNS
from dllm.data.files import read_json


@dataclass(kw_only=True)
class ModelArguments:
    """What is built. The pattern and the lengths are saved in the checkpoint's config.

    `fixed`: the settings of a trained model that a run which starts from it cannot change.
    """

    fixed: ClassVar[tuple[str, ...]] = ()

    model_name_or_path: str = HfArg(help="folder of a language model, or of a trained model")
    attention_pattern: str = HfArg(default="block", help=", ".join(PATTERNS))
    block_length: int = HfArg(default=32, help="tokens that are written before the next ones begin")
    gen_length: int = HfArg(default=256, help="canvas of a response in tokens")
    lora_enable: bool = HfArg(
        default=False, aliases="--lora", help="train an adapter in the language model's stead; merged when saved"
    )
    lora_r: int = HfArg(default=64, aliases="--r", help="rank of the adapter")
    lora_alpha: int = HfArg(default=16, help="scaling of the adapter: alpha / rank")
    lora_dropout: float = HfArg(default=0.0, help="of the adapter's input; depends on the number of processes")

    def diffusion(self) -> dict:
        """The fields that a model's diffusion config takes over by name."""
        return {name: getattr(self, name) for name in ("attention_pattern", "block_length", "gen_length")}

    def trained_settings(self) -> dict:
        """By argument what the model that a run starts from was trained with; empty if no run of ours made it."""
        folder = Path(self.model_name_or_path)
        if not (folder / TRAINER_STATE_NAME).is_file():
            return {}
        config = read_json(folder / "config.json", "copy or train it again")
        config |= config.get("text_config", {})
        return {name: config[name] for name in self.diffusion() if name in config}

    def check(self) -> None:
        """Raises ValueError for what can be told before anything is loaded."""
        if self.lora_enable and (self.lora_r < 1 or self.lora_alpha <= 0):
            raise ValueError(f"--lora_r {self.lora_r}, --lora_alpha {self.lora_alpha}: both must be at least 1")
        if self.lora_enable and not 0 <= self.lora_dropout < 1:
            raise ValueError(f"--lora_dropout {self.lora_dropout}: give a share from 0 to below 1")


@dataclass
class MDLMConfig(TrainingArguments):
    """transformers' training arguments, and those of a masked-diffusion run.

    `part_rates`: the part of a model (`dllm.core.language_model`) -> the field that holds its learning rate; where that
    is None, and for all other parts, it is `learning_rate`.
    """

    part_rates: ClassVar[dict[str, str]] = {}

    noise_estimator: str = HfArg(default="stratified", help=", ".join(ESTIMATORS))
    noise_schedule: str = HfArg(default="linear", help="linear, cosine, sqrt (single views only)")
    noise_eps: float = HfArg(default=1e-3, help="smallest mask rate")
    loss_normalisation: str = HfArg(default="sequence", help="sequence, token, batch")
    pad_to_multiple_of: int = HfArg(default=8, help="of the prompt's tokens, for few shapes")
    eval_noise_levels: int = HfArg(default=4, help="stratified pairs per validation sample")
    train_sampling_strategy: str = HfArg(default="group_by_length", help="group_by_length, random, sequential")
    model_max_length: int = HfArg(default=1024, aliases="--max_seq_length", help="tokens of prompt + response at most")
    allow_changed: list[str] | None = HfArg(default=None, help="arguments that may differ from those of the checkpoint")
    dry_run: bool = HfArg(
        default=False, help="print what the run would do, and what it takes; then stop; model folders need no weights"
    )
    log_level_replica: str = HfArg(default="error", help="what processes but the first tell")
    optim: str = HfArg(default="adamw_torch", help="optimizer of transformers")
    remove_unused_columns: bool = HfArg(default=False, help="samples are the dataset's own")
    disable_tqdm: bool | None = HfArg(default=False, help="no progress bar")
    logging_nan_inf_filter: bool = HfArg(default=False, help="logs a mean in place of a NaN or infinite loss")
    ddp_find_unused_parameters: bool | None = HfArg(default=False, help="every weight has a gradient in every batch")

    def __post_init__(self):
        self._check_launch()
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        self.dataloader_pin_memory = self.dataloader_pin_memory and not self.use_cpu
        if self.use_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self.ddp_backend = "gloo"
        # Layers are compiled one by one (`MDLMTrainer`); transformers would compile the whole model, for minutes.
        self.compile_layers, self.torch_compile = self.torch_compile, False
        super().__post_init__()
        self.forward_process()  # an impossible choice is told before anything is loaded
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "eval_noise_levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.max_steps == 0 or (self.max_steps < 0 and not 0 < self.num_train_epochs < math.inf):
            raise ValueError(
                f"--num_train_epochs {self.num_train_epochs:g}, --max_steps {self.max_steps}: no step would be taken, "
                "and an untrained model written; give more than 0"
            )
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"--learning_rate must be a number of at least 0, not {self.learning_rate}")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError("train_sampling_strategy batch_rebalance would draw other noise; use group_by_length")
        if self.loss_normalisation not in NORMALISATIONS:
            raise ValueError(
                f"unknown loss_normalisation {self.loss_normalisation!r}; known: {', '.join(NORMALISATIONS)}"
            )

    def _check_launch(self) -> None:
        accelerate_file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")  # of `accelerate launch`
        if self.deepspeed:
            check_deepspeed_config(self.deepspeed, "--deepspeed")
        elif accelerate_file:
            check_deepspeed_config(accelerate_file, "deepspeed_config_file")
        if self.deepspeed and "RANK" not in os.environ:
            raise ValueError("--deepspeed needs a launcher: start the program with torchrun")
        if self.resume_from_checkpoint:
            raise ValueError(
                "--resume_from_checkpoint: a run goes on from the newest whole one by itself; leave it out"
            )
        if self.save_only_model:
            raise ValueError("--save_only_model: no run could go on from such a checkpoint; leave it out")

    @property
    def place_model_on_device(self) -> bool | None:
        """A dry run computes nothing, and its model may have no weights."""
        return False if self.dry_run else super().place_model_on_device

    @property
    def should_save(self) -> bool:
        """A dry run writes nothing."""
        return super().should_save and not self.dry_run

    def forward_process(self) -> ForwardProcess:
        """The noise of the run."""
        return ForwardProcess(self.noise_estimator, self.noise_schedule, self.noise_eps, self.seed)

    def learning_rate_of(self, part: str) -> float:
        """The learning rate of a part."""
        rate = getattr(self, self.part_rates[part]) if part in self.part_rates else None
        return self.learning_rate if rate is None else rate


def check_deepspeed_config(path: str | dict, setting: str) -> None:
    """Raises ValueError for a DeepSpeed JSON whose own optimizer would drop the learning rates of the parts.

    `setting` is what named the file.
    """
    if isinstance(path, str) and not Path(path).is_file():
        raise ValueError(f"{setting} {path} is not a file; use one of scripts/zero2.json, scripts/zero3.json")
    config = read_json(path, "use one of scripts/zero2.json, scripts/zero3.json") if isinstance(path, str) else path
    for block in ("optimizer", "scheduler"):
        if block in config:
            raise ValueError(
                f"{setting} {path} has a block {block!r}, which would drop the learning rates of the parts; remove it"
            )
