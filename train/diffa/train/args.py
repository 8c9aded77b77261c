"""Command-line arguments of training, beside those of every run. Names are those of DIFFA where it has one."""

from dataclasses import dataclass
from pathlib import Path

from transformers.hf_argparser import HfArg

from diffa.constants import PARTS
from diffa.model.modeling_diffa import STAGES, DiffaConfig
from dllm.core.patterns import PATTERNS
from dllm.training import arguments

ADAPTERS = {1: "semantic_adapter", 2: "semantic_adapter,acoustic_adapter"}  # what a stage trains


@dataclass(kw_only=True)
class ModelArguments(arguments.ModelArguments):
    """What is built."""

    model_name_or_path: str = HfArg(aliases=["--llm_model"], help="folder of a language model")
    whisper_model: str = HfArg(help="folder of a Whisper, whose encoder is used, frozen")
    training_stage: int = HfArg(help="1: the semantic adapter learns; 2: the acoustic one too")
    stage1_ckpt: str | None = HfArg(default=None, help="output folder of stage 1, or of any run to go on from")
    tunable_parts: str | None = HfArg(default=None, help="parts to train, joined by commas; default: the stage's")
    attention_pattern: str = HfArg(default="bidirectional", help=f"{', '.join(PATTERNS)}; LLaDA knows the first one")
    num_prompts: int = HfArg(default=20, help="learnt tokens before a clip's own in stage 1")
    prompt_size: int = HfArg(default=64, help="acoustic tokens of a clip")
    acoustic_layers: str | None = HfArg(default=None, help="states that the acoustic adapter hears: 2,5,8,11")
    acoustic_intermediate_size: int = HfArg(default=3072, help="width between the acoustic adapter's linear layers")
    mask_padding: bool = HfArg(default=True, help="the acoustic adapter does not hear the silence after a clip")

    def trained_settings(self) -> dict:
        if not self.stage1_ckpt or not Path(self.stage1_ckpt, "config.json").is_file():
            return {}
        earlier = DiffaConfig.from_pretrained(self.stage1_ckpt)
        own = {name: getattr(earlier.text_config, name) for name in self.diffusion()}
        if earlier.stage != self.training_stage:  # its adapters are other ones
            return own
        own |= {name: getattr(earlier, name) for name in self.settings() if name != "stage"}
        return own | {"acoustic_layers": ",".join(map(str, earlier.acoustic_layers))}

    def check(self) -> None:
        super().check()
        if self.training_stage not in STAGES:
            raise ValueError(f"--training_stage {self.training_stage}: give 1 or 2")
        if self.training_stage == 2 and not self.stage1_ckpt:
            raise ValueError("--stage1_ckpt is missing: stage 2 goes on from the output folder of stage 1")
        if self.lora_enable and "language_model" not in self.parts():
            raise ValueError("--lora_enable needs language_model among --tunable_parts: its adapter is what trains")
        self.settings()

    def parts(self) -> list[str]:
        """The parts to train. Raises ValueError on an unknown one, or one that no stage trains."""
        named = ADAPTERS[self.training_stage] if self.tunable_parts is None else self.tunable_parts
        parts = [part.strip() for part in named.split(",")]
        known = [*ADAPTERS[self.training_stage].split(","), "language_model"]
        if not set(parts) <= set(known):
            raise ValueError(f"--tunable_parts {named!r}: name some of {', '.join(known)}")
        return parts

    def tunable_prefixes(self) -> tuple[str, ...]:
        """Prefixes of the parameters to train."""
        return tuple(PARTS[part] for part in self.parts())

    def settings(self) -> dict:
        """Fields of DiffaConfig."""
        names = ("num_prompts", "prompt_size", "acoustic_intermediate_size", "mask_padding")
        try:
            layers = self.acoustic_layers and [int(layer) for layer in self.acoustic_layers.split(",")]
        except ValueError:
            raise ValueError(f"--acoustic_layers {self.acoustic_layers!r}: give numbers, as in 2,5,8,11") from None
        own = {name: getattr(self, name) for name in names}
        return own | {"stage": self.training_stage, "acoustic_layers": layers}


@dataclass
class DataArguments:
    """What is read."""

    train_dataset_path: str = HfArg(help="JSON file of questions about clips")
    eval_dataset_path: str | None = HfArg(default=None, help="the same of validation (--eval_strategy)")
    cut_long_audio: bool = HfArg(default=False, help="hear the beginning of clips that are too long")


@dataclass
class TrainingArguments(arguments.MDLMConfig):
    """The arguments of every run, and a learning rate of the language model."""

    part_rates = {"language_model": "language_model_lr"}

    language_model_lr: float | None = HfArg(default=None, help="of the language model; else --learning_rate")
