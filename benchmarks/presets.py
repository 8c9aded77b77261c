"""Models with random weights for benchmarks, and inputs for them: the time of a step is the same as after training."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, Qwen3Config, Qwen3ForCausalLM

from dllm.core.prompt import Prompt
from dllm.pipelines.a2d import A2DQwen3Config, A2DQwen3LMHeadModel
from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.language_model.llava_qwen import LlavaQwen3Config, LlavaQwen3ModelLM


@dataclass(frozen=True)
class Vision:
    """A SigLIP tower and the queries of the QFormer that follows it."""

    image_size: int
    patch_size: int
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    queries: int


@dataclass(frozen=True)
class Preset:
    """Sizes of a model, and of the prompt and canvas that it is measured with. Without `vision` it reads text only."""

    name: str
    hidden_size: int
    layers: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    dtype: torch.dtype
    prompt_length: int
    gen_length: int
    block_length: int
    vision: Vision | None = None

    @property
    def mask_token_id(self) -> int:
        return self.vocab_size - 2

    @property
    def stop_token_id(self) -> int:
        """A padding row of the embedding, which no mode may write: every report fills its canvas."""
        return self.vocab_size - 1


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("small", 256, 8, 768, 4, 2, 64, 151_936, torch.float32, 256, 128, 32),
        # LLaDA's shape (heads, three times wider inside, vocabulary) at a sixteenth of its width and a quarter of its
        # layers; a question on a clip of ten seconds, and the canvas of MMAU and VoiceBench.
        Preset("diffa", 256, 8, 768, 4, 4, 64, 126_464, torch.float32, 250, 16, 16),
        Preset(
            "qwen3-0.6b", 1024, 28, 3072, 16, 8, 128, 151_936, torch.bfloat16, 200, 128, 32,
            vision=Vision(384, 14, 1152, 27, 4304, 16, queries=64),
        ),
    )
}  # fmt: skip

# A training step is measured on a response that fills its canvas, in sequences of 352 and 256 tokens.
TRAINING_PRESETS = {
    "small": replace(PRESETS["small"], layers=6, gen_length=96),
    "qwen3-0.6b": replace(PRESETS["qwen3-0.6b"], prompt_length=128),
}


def build_model(preset: Preset, device: str) -> A2DQwen3LMHeadModel | LlavaQwen3ModelLM:
    """The masked-diffusion model of a preset, made on the device. Its pattern is `block` until it is set otherwise."""
    config = A2DQwen3Config(
        **_qwen3_sizes(preset),
        attention_pattern="block",
        block_length=preset.block_length,
        gen_length=preset.gen_length,
        mask_token_id=preset.mask_token_id,
        num_tokens=preset.stop_token_id,
        stop_token_ids=[preset.stop_token_id],
        tail_token_id=preset.stop_token_id,
    )
    if preset.vision:
        vision = {
            "image_size": preset.vision.image_size,
            "patch_size": preset.vision.patch_size,
            "hidden_size": preset.vision.hidden_size,
            "num_hidden_layers": preset.vision.layers,
            "intermediate_size": preset.vision.intermediate_size,
            "num_attention_heads": preset.vision.heads,
            "vision_use_head": False,
        }
        config = LlavaQwen3Config(vision_config=vision, text_config=config, mm_qformer_latents=preset.vision.queries)
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForMaskedLM.from_config(config, dtype=preset.dtype).eval()


def language_model(model: A2DQwen3LMHeadModel | LlavaQwen3ModelLM) -> A2DQwen3LMHeadModel:
    """The part of a model that knows nothing of images."""
    return getattr(model, "language_model", model)


def autoregressive_twin(preset: Preset, model: A2DQwen3LMHeadModel | LlavaQwen3ModelLM) -> Qwen3ForCausalLM:
    """Transformers' causal Qwen3 on the very weights of the model's language model."""
    trained = language_model(model)
    with torch.device("meta"):  # its own weights would only be thrown away
        twin = Qwen3ForCausalLM(Qwen3Config(**_qwen3_sizes(preset))).eval()
    twin.load_state_dict(trained.state_dict(), assign=True)
    twin.model.rotary_emb = trained.model.rotary_emb  # has no weights; on the meta device it could not be computed
    return twin


@dataclass(frozen=True)
class Inputs:
    """Random prompts [B, P]; of a model that sees, each begins with the visual tokens of one image."""

    input_ids: Tensor
    images: Tensor | None

    @classmethod
    def random(cls, preset: Preset, batch: int, prompt_length: int, device: str) -> "Inputs":
        generator = torch.Generator().manual_seed(batch)
        input_ids = torch.randint(0, preset.mask_token_id, (batch, prompt_length), generator=generator)
        if preset.vision is None:
            return cls(input_ids.to(device), None)
        assert prompt_length >= preset.vision.queries
        input_ids[:, : preset.vision.queries] = IMAGE_TOKEN_INDEX
        side = preset.vision.image_size
        images = torch.randn(batch, 3, side, side, generator=generator)
        return cls(input_ids.to(device), images.to(device, preset.dtype))


@torch.no_grad()
def embedded(model: A2DQwen3LMHeadModel | LlavaQwen3ModelLM, inputs: Inputs) -> Prompt:
    """The prompts as the model reads them: with images, this is where the tower runs."""
    everywhere = torch.ones_like(inputs.input_ids)
    if inputs.images is None:
        return model.prepare_prompt(inputs.input_ids, everywhere)
    return model.prepare_prompt(inputs.input_ids, everywhere, inputs.images)


def _qwen3_sizes(preset: Preset) -> dict:
    return {
        "vocab_size": preset.vocab_size,
        "hidden_size": preset.hidden_size,
        "intermediate_size": preset.intermediate_size,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "num_key_value_heads": preset.kv_heads,
        "head_dim": preset.head_dim,
        "tie_word_embeddings": True,
    }
