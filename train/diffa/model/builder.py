"""Builds a model from its parts, loads and saves trained folders. Only safetensors files are read."""

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from diffa.constants import PARTS
from diffa.model.audio_encoder import load_audio_encoder
from diffa.model.frozen import check_same, identify
from diffa.model.modeling_diffa import DiffaConfig, DiffaModelLM
from dllm.core.model import DiffusionSettings, check_diffusion_settings
from dllm.core.patterns import BLOCKWISE
from dllm.pipelines.a2d.tiny import HEADER_TEMPLATE
from dllm.pipelines.auto import frozen_pattern, load_language_model, load_text_model, load_tokenizer
from dllm.pipelines.loading import check_folder, load_whole, read_config, weight_files
from dllm.pipelines.parts import load_parts
from dllm.training.processes import on_one_process

LLADA_START = "<|startoftext|>"
PROMPTS = PARTS["semantic_adapter"] + "prompts."  # stage 2 leaves these behind


def build_model(
    language_model: str,
    audio_encoder: str,
    diffusion: dict,
    dtype: torch.dtype = torch.float32,
    freeze_language_model: bool = True,
    **settings,
) -> tuple[PreTrainedTokenizerBase, DiffaModelLM, WhisperFeatureExtractor]:
    """A model of the folders of a language model and of a Whisper; adapters start from random weights.

    `diffusion` overrides settings of the language model's config (attention_pattern, block_length, gen_length),
    `settings` are those of DiffaConfig. Frozen parts are held in `dtype`, all else in fp32. Raises ValueError on an
    incomplete folder, an impossible setting, or a pattern that a frozen language model does not know.
    """
    if freeze_language_model:
        check_pattern(language_model, diffusion)
    encoder, extractor = load_audio_encoder(audio_encoder, dtype)
    held = dtype if freeze_language_model else torch.float32
    tokenizer, language, _ = load_text_model(language_model, diffusion, dtype=held)
    if LLADA_START in tokenizer.get_vocab():  # LLaDA's own template strips what a user says
        tokenizer.chat_template = HEADER_TEMPLATE.format(start=LLADA_START)
    folders = {"audio_encoder": audio_encoder, "language_model": language_model}
    frozen = on_one_process(lambda: {part: identify(folder) for part, folder in folders.items()})
    configs = {"audio_config": encoder.config.to_dict(), "text_config": language.config.to_dict()}
    config = DiffaConfig(**configs, frozen=frozen, **settings)
    model = DiffaModelLM(config)
    model.put("audio_encoder", encoder)
    model.put("language_model", language)
    if not freeze_language_model:
        del config.frozen["language_model"]
    return tokenizer, model, extractor


def check_pattern(folder: str, diffusion: dict) -> None:
    """Raises ValueError if the settings ask a frozen language model for a pattern that it has not learnt."""
    known, asked = frozen_pattern(folder), diffusion.get("attention_pattern")
    if asked not in (None, known):
        problem = f"{folder} is frozen and knows the attention_pattern {known} alone, not {asked}"
        raise ValueError(f"{problem}; ask for that, or train language_model too (or its LoRA)")
    blocks, asked = read_config(folder).get("block_length"), diffusion.get("block_length")
    if known in BLOCKWISE and asked not in (None, blocks):
        raise ValueError(f"{folder} is frozen and knows blocks of {blocks} tokens alone, not {asked}; give the same")


def load_pretrained_model(
    model_path: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    language_model: str | None = None,
    audio_encoder: str | None = None,
) -> tuple[PreTrainedTokenizerBase, DiffaModelLM, WhisperFeatureExtractor]:
    """Tokenizer, model in evaluation mode and feature extractor of a trained folder.

    `language_model` and `audio_encoder` are the folders of the frozen parts, if they are no longer where the folder
    says. Raises ValueError if one is incomplete, or not the one that was trained with.
    """
    model_type = check_folder(model_path, "tokenizer.json", "preprocessor_config.json").get("model_type")
    if model_type != DiffaConfig.model_type:
        raise ValueError(f"{model_path} holds a {model_type} model, not a trained diffa checkpoint")
    config = DiffaConfig.from_pretrained(model_path)
    check_diffusion_settings(config.text_config)
    folders = {"audio_encoder": audio_encoder, "language_model": language_model}
    for part, folder in folders.items():
        if part not in config.frozen and folder:
            raise ValueError(f"{folder}: {model_path} has a {part} of its own; leave the folder out")
        if part in config.frozen:
            folders[part] = folder or config.frozen[part]["folder"]
            check_folder(folders[part])
            check_same(model_path, config.frozen[part], folders[part])
    model = load_whole(DiffaModelLM, model_path, config=config, dtype=dtype)
    model.put("audio_encoder", load_audio_encoder(folders["audio_encoder"], dtype)[0])
    if folders["language_model"]:
        language = load_language_model(folders["language_model"], dtype=dtype)
        for name in DiffusionSettings.__annotations__:
            setattr(language.config, name, getattr(config.text_config, name))
        model.put("language_model", language)
    return load_tokenizer(model_path), model.to(device).eval(), WhisperFeatureExtractor.from_pretrained(model_path)


def load_stage(model: DiffaModelLM, folder: str) -> None:
    """Reads what an earlier stage has trained into a model: its adapters, and its language model if it trained that.

    Raises ValueError if the folder's weights do not fit, or were trained with other frozen parts.
    """
    if check_folder(folder).get("model_type") != DiffaConfig.model_type:
        raise ValueError(f"{folder} holds no trained diffa model; give the output folder of stage 1")
    earlier = DiffaConfig.from_pretrained(folder)
    for part, named in earlier.frozen.items():
        if named["sha256"] != model.config.frozen.get(part, named)["sha256"]:
            own = model.config.frozen[part]["folder"]
            raise ValueError(f"{folder} was trained with the {part} of {named['folder']}, not of {own}; give the same")
    state = {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(PROMPTS) or model.config.stage == 1}
    parts = tuple(prefix for prefix in PARTS.values() if any(name.startswith(prefix) for name in state))
    if PARTS["language_model"] in parts:
        model.config.frozen.pop("language_model", None)
    load_parts(model, state, (PARTS["semantic_adapter"], *parts), folder, "give the settings of stage 1")
