"""Model and tokenizer of a text model's folder, of whatever family."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dllm.core.language_model import MaskedDiffusionLM
from dllm.core.model import DiffusionSettings, check_diffusion_settings
from dllm.data.conversation import CHATML_TEMPLATE
from dllm.pipelines.a2d.loading import PREFIX, load_a2d, read_family
from dllm.pipelines.llada.loading import LLADA, load_llada, read_llada_config
from dllm.pipelines.loading import check_folder, read_config, reading
from dllm.pipelines.special_tokens import set_special_tokens


def load_text_model(
    folder: str, diffusion: dict | None = None, chat: bool = True, **kwargs
) -> tuple[PreTrainedTokenizerBase, MaskedDiffusionLM, str]:
    """Tokenizer and model of a folder, plain or trained, ready for training and sampling; and a line for people on its
    mask token.

    `diffusion` overrides settings of the config (attention_pattern, block_length, gen_length), `kwargs` go to
    `from_pretrained`; without `chat` the tokenizer needs no chat template. Raises ValueError on an incomplete folder,
    an unknown family or an impossible setting.
    """
    if not _is_llada(folder):
        read_family(folder)
    tokenizer = load_tokenizer(folder, chat)
    model = load_language_model(folder, **kwargs)
    config, origin = model.config, set_special_tokens(model.config, tokenizer)
    if config.mask_token_id >= config.vocab_size:
        model.resize_token_embeddings(config.num_tokens, mean_resizing=False)
    for name, value in (diffusion or {}).items():
        setattr(config, name, value)
    check_diffusion_settings(config)
    return tokenizer, model, origin


def load_language_model(folder: str, **kwargs) -> MaskedDiffusionLM:
    """The model of a folder; its special tokens are those that its config has."""
    return (load_llada if _is_llada(folder) else load_a2d)(folder, **kwargs)


def frozen_pattern(folder: str) -> str:
    """The one attention pattern that a folder's language model serves if it is not trained further: its own.

    Raises ValueError if it is autoregressive, which serves none.
    """
    config = read_config(folder)
    family = str(config.get("model_type"))
    if family != LLADA and not family.startswith(PREFIX):
        raise ValueError(f"{folder} holds a {family} model, autoregressive: it must be trained, not frozen")
    return config.get("attention_pattern", DiffusionSettings.attention_pattern)


def load_tokenizer(folder: str, chat: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; its mask token is the one that the config names.

    Raises ValueError if these do not fit each other, or, with `chat`, if it has no chat template and none is known to
    fit it.
    """
    mask = check_folder(folder, "tokenizer.json").get("mask_token_id")
    # With a config at hand transformers does not ask whether it may run the folder's code.
    config = read_llada_config(folder) if _is_llada(folder) else None
    with reading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    if mask is not None:
        _name_mask(tokenizer, mask, folder)
    if tokenizer.chat_template is None and "<|im_start|>" in tokenizer.get_vocab():
        tokenizer.chat_template = CHATML_TEMPLATE
    if chat and tokenizer.chat_template is None:
        raise ValueError(f"the tokenizer of {folder} has no chat template; take the one of the family's chat model")
    return tokenizer


def _is_llada(folder: str) -> bool:
    return read_config(folder).get("model_type") == LLADA


def _name_mask(tokenizer: PreTrainedTokenizerBase, mask: int, folder: str) -> None:
    if not 0 <= mask < len(tokenizer):
        raise ValueError(f"{folder}: mask_token_id {mask} of config.json is none of its tokenizer's {len(tokenizer)}")
    if tokenizer.mask_token_id not in (None, mask):
        raise ValueError(
            f"{folder}: mask_token_id is {mask} in config.json and {tokenizer.mask_token_id} in the tokenizer: they do "
            "not belong together"
        )
    tokenizer.add_special_tokens({"mask_token": tokenizer.convert_ids_to_tokens(mask)})
