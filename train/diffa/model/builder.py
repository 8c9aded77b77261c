"""Builds a model from its parts, loads and saves trained folders. Only safetensors files are read."""

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, WhisperFeatureExtractor

from diffa.model.audio_encoder import AudioPreprocessor, load_audio_encoder
from diffa.model.frozen import check_same, identify
from diffa.model.modeling_diffa import DiffaConfig, DiffaModelLM
from dllm.core.model import check_diffusion_settings
from dllm.data.conversation import CHATML_TEMPLATE
from dllm.pipelines.a2d import load_qwen3
from dllm.pipelines.loading import check_folder, load_whole, weight_files
from dllm.pipelines.special_tokens import set_special_tokens

DIFFUSION = (
    "attention_pattern",
    "block_length",
    "gen_length",
    "mask_token_id",
    "num_tokens",
    "stop_token_ids",
    "tail_token_id",
)
LATER = ("acoustic_adapter.",)  # a later stage brings these weights
EARLIER = ("semantic_adapter.prompts.",)  # and leaves these behind


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with a chat template if it brings none."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer


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
    check_folder(language_model, "tokenizer.json")
    encoder, extractor = load_audio_encoder(audio_encoder, dtype)
    tokenizer = load_tokenizer(language_model)
    language = load_qwen3(language_model, dtype=dtype if freeze_language_model else torch.float32)
    set_special_tokens(language.config, tokenizer)
    if freeze_language_model:
        check_pattern(language_model, language.config, diffusion)
    for name, value in diffusion.items():
        setattr(language.config, name, value)
    check_diffusion_settings(language.config)

    frozen = {"audio_encoder": identify(audio_encoder), "language_model": identify(language_model)}
    configs = {"audio_config": encoder.config.to_dict(), "text_config": language.config.to_dict()}
    config = DiffaConfig(**configs, frozen=frozen, **settings)
    model = DiffaModelLM(config)
    model.put("audio_encoder", encoder)
    model.put("language_model", language)
    if not freeze_language_model:
        del config.frozen["language_model"]
    return tokenizer, model, extractor


def check_pattern(folder: str, config, diffusion: dict) -> None:
    """Raises ValueError if the settings ask a frozen language model for a pattern that it has not learnt."""
    pattern = diffusion.get("attention_pattern", config.attention_pattern)
    same_blocks = pattern != "block" or diffusion.get("block_length", config.block_length) == config.block_length
    if pattern != config.attention_pattern or not same_blocks:
        known = config.attention_pattern + f" of {config.block_length}" * (config.attention_pattern == "block")
        raise ValueError(
            f"{folder} is frozen and knows the attention_pattern {known} alone; ask for that, or train language_model "
            "too (or its LoRA)"
        )


def is_trained(folder: str) -> bool:
    """Whether a folder holds a trained DIFFA, not a language model alone."""
    return check_folder(folder).get("model_type") == DiffaConfig.model_type


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
        language = load_qwen3(folders["language_model"], dtype=dtype)
        for name in DIFFUSION:
            setattr(language.config, name, getattr(config.text_config, name))
        model.put("language_model", language)
    extractor = WhisperFeatureExtractor.from_pretrained(model_path)
    return load_tokenizer(model_path), model.to(device).eval(), extractor


def load_stage(model: DiffaModelLM, folder: str) -> None:
    """Reads what an earlier stage has trained into a model: its adapters, and its language model if it trained that.

    Raises ValueError if the folder's weights do not fit, or were trained with other frozen parts.
    """
    if not is_trained(folder):
        raise ValueError(f"{folder} holds no trained diffa model; give the output folder of stage 1")
    earlier = DiffaConfig.from_pretrained(folder)
    for part, named in earlier.frozen.items():
        if named["sha256"] != model.config.frozen.get(part, named)["sha256"]:
            own = model.config.frozen[part]["folder"]
            raise ValueError(f"{folder} was trained with the {part} of {named['folder']}, not of {own}; give the same")
    state = {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(EARLIER)}
    if any(name.startswith("language_model.") for name in state):
        model.config.frozen.pop("language_model", None)
    own = model.state_dict()
    for name in sorted(state.keys() | own.keys()):
        found, needed = (each[name].shape if name in each else None for each in (state, own))
        if found != needed and not (found is None and name.startswith(LATER)):
            raise ValueError(f"{folder} has {name} of shape {found}, the model {needed}; give the settings of stage 1")
    model.load_state_dict(state, strict=False)


def preprocessor(model: DiffaModelLM, extractor: WhisperFeatureExtractor) -> AudioPreprocessor:
    """What makes a model's inputs of clips."""
    return AudioPreprocessor(extractor, model.config.num_learnt_tokens)
