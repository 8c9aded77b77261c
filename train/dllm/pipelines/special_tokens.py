"""Special tokens of a masked-diffusion language model, found in its tokenizer."""

from transformers import PreTrainedTokenizerBase

MASK_TOKEN = "<|mask|>"
STOP_TOKEN = "<|im_end|>"
TAIL_TOKEN = "<|endoftext|>"


def ensure_mask_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the mask token: the tokenizer's own, or `<|mask|>`, which is added if need be."""
    if tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    return tokenizer.mask_token_id


def set_special_tokens(config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fills the token settings of a diffusion config from its tokenizer. Raises ValueError if a token is missing."""
    config.mask_token_id = ensure_mask_token(tokenizer)
    missing = [token for token in (STOP_TOKEN, TAIL_TOKEN) if token not in tokenizer.get_vocab()]
    if missing:
        raise ValueError(f"the tokenizer of {tokenizer.name_or_path} lacks {missing[0]}: use a Qwen tokenizer")
    stop, tail = tokenizer.convert_tokens_to_ids([STOP_TOKEN, TAIL_TOKEN])
    # A base model may end with its padding token alone.
    config.stop_token_ids = [stop, tail]
    config.tail_token_id = tail
    config.num_tokens = len(tokenizer)
