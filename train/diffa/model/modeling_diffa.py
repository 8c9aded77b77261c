"""DiffaModelLM: audio and text in, text out, on any masked-diffusion language model of dllm."""

from collections.abc import Callable

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, WhisperConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

import dllm.pipelines.auto  # noqa: F401 registers its models
from diffa.constants import AUDIO_TOKEN_INDEX, PARTS
from diffa.model.adapters import AcousticAdapter, SemanticAdapter
from diffa.model.audio_encoder import SILENCE, STATES_PER_TOKEN, frames_of, num_states
from diffa.model.frozen import leave_out
from dllm.core.composite import CompositeLM
from dllm.core.prompt import Prompt

STAGES = (1, 2)
CONFIGS = {"audio_encoder": "audio_config", "language_model": "text_config"}


@strict
class DiffaConfig(PreTrainedConfig):
    """One config for all parts. The settings of the diffusion (pattern, block, mask token ...) are in `text_config`.

    stage            1: semantic adapter after `num_prompts` learnt tokens; 2: after those of the acoustic adapter
    prompt_size      queries of the acoustic adapter
    acoustic_layers  states of the encoder that it attends to, 0 for the embedding; default: as DIFFA's
    frozen           part -> {"folder", "sha256"} of its weights, for parts that the model's folder does not hold
    """

    model_type = "diffa"
    sub_configs = {"audio_config": WhisperConfig, "text_config": AutoConfig}

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    stage: int = 2
    num_prompts: int = 20
    prompt_size: int = 64
    acoustic_layers: list[int] | None = None
    acoustic_intermediate_size: int = 3072
    mask_padding: bool = True
    frozen: dict | None = None
    tie_word_embeddings: bool = False  # the language model ties its own

    def __post_init__(self, **kwargs):
        if not isinstance(self.audio_config, PreTrainedConfig):
            self.audio_config = WhisperConfig(**(self.audio_config or {}))
        if not isinstance(self.text_config, PreTrainedConfig):
            values = dict(self.text_config or {"model_type": "a2d-qwen3"})
            self.text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        if self.acoustic_layers is None:
            self.acoustic_layers = default_layers(self.audio_config.encoder_layers)
        self.frozen = self.frozen or {}
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Raises ValueError, naming the setting, if no model could be built."""
        if self.stage not in STAGES:
            raise ValueError(f"training_stage {self.stage} is unknown; known: 1, 2")
        depth = self.audio_config.encoder_layers
        for layer in self.acoustic_layers or ["none"]:
            if layer not in range(depth + 1):
                there = f"an encoder of {depth} layers; give some of 0-{depth}"
                raise ValueError(f"acoustic_layers: {layer} is no state of {there}")
        for name in ("num_prompts", "prompt_size", "acoustic_intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def num_learnt_tokens(self) -> int:
        """Audio tokens of every clip, whatever its length."""
        return self.num_prompts if self.stage == 1 else self.prompt_size


def default_layers(depth: int) -> list[int]:
    """The layers that DIFFA listens to, of an encoder with `depth`: four, or eight of a large one, evenly spaced."""
    count = 8 if depth >= 32 else 4
    return [depth * (number + 1) // count - 1 for number in range(count)]


class DiffaModelLM(CompositeLM, PreTrainedModel):
    """Audio and a question in, an answer out.

    Parts that the config names as frozen are not built: `put` has them take their place (`diffa.model.builder`).
    """

    config_class = DiffaConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    parts = PARTS
    input_unit = "clips"
    usage = """from transformers import AutoProcessor
from diffa.model.builder import load_pretrained_model
import diffa.model.processing
processor, (_, model, _) = AutoProcessor.from_pretrained(FOLDER), load_pretrained_model(FOLDER)
batch = processor(audio=CLIP, text="Please transcribe the audio to text.")  # fp32 samples at 16 kHz
print(processor.batch_decode(model.generate(**batch).ids))"""

    def __init__(self, config: DiffaConfig):
        super().__init__(config)
        config.check()
        self.audio_encoder = self.language_model = None
        if "language_model" not in config.frozen:
            self.language_model = MODEL_FOR_MASKED_LM_MAPPING[type(config.text_config)](config.text_config)
        self.semantic_adapter = SemanticAdapter(config)
        self.acoustic_adapter = AcousticAdapter(config) if config.stage == 2 else nn.Module()  # no weights yet
        self.post_init()
        leave_out(self)

    def _init_weights(self, module: nn.Module) -> None:
        """Adapters keep torch's own initialisation, as DIFFA's; the other parts have their weights."""

    def put(self, part: str, module: nn.Module) -> None:
        """Gives the model a part that was not built, and its config."""
        setattr(self, part, module)
        setattr(self.config, CONFIGS[part], module.config)
        tied = getattr(module, "all_tied_weights_keys", {})
        self.all_tied_weights_keys |= {PARTS[part] + name: PARTS[part] + source for name, source in tied.items()}

    def encode_audio(self, audio: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Audio tokens [n, N, D] of features [n, M, 2 T], and which of them are real [n, N]: of a clip of `num_frames`
        [n], all that come before its silence.
        """
        states, heard = self.audio_encoder(audio), num_states(num_frames)  # layers + 1 times [n, T, W]; [n]
        tokens = self.semantic_adapter(states[-1])  # [n, prompts + T // 4, D]
        if self.config.stage == 2:
            tokens = torch.cat([self.acoustic_adapter(states, heard).to(tokens.dtype), tokens], dim=1)  # [n, N, D]
        real = self.config.num_learnt_tokens + heard // STATES_PER_TOKEN
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) < real[:, None]

    def prepare_prompt(self, input_ids: Tensor, attention_mask: Tensor, audio: Tensor, num_frames: Tensor) -> Prompt:
        """The prompt of left-padded ids [B, P] whose AUDIO_TOKEN_INDEX places take the audio tokens in order.

        `audio` [n, M, 2 T] are the features of clips of `num_frames` [n]. A batch without audio brings a clip that no
        place asks for, so that every rank makes the same calls. Raises ValueError if places and tokens do not match.
        """
        tokens, is_real = self.encode_audio(audio, num_frames)
        return self.fill(input_ids, attention_mask, AUDIO_TOKEN_INDEX, tokens[is_real])

    def blank(self, audio: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(audio, SILENCE), num_frames

    def input_path(self) -> tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]:
        config = self.config.audio_config
        frames = frames_of(config)
        features = torch.zeros(1, config.num_mel_bins, frames)
        return lambda model, audio: model.encode_audio(audio, torch.tensor([frames], device=audio.device))[0], features


AutoConfig.register("diffa", DiffaConfig)
AutoModel.register(DiffaConfig, DiffaModelLM)
