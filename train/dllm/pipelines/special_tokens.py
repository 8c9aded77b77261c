"""Special tokens of a masked-diffusion language model, found in its tokenizer."""

from transformers import PreTrainedTokenizerBase

MASK_TOKEN = "<|mask|>"
STOP_TOKEN = "<|im_end|>"
TAIL_TOKEN = "<|endoftext|>"

# What ends an answer, and what follows it to the end of the canvas; the first pair that a vocabulary has.
ENDS = (
    (STOP_TOKEN, TAIL_TOKEN),  # Qwen
    ("<|eot_id|>", "<|endoftext|>"),  # LLaDA
    ("<|eot_id|>", "<|end_of_text|>"),  # Llama 3
    ("<end_of_turn>", "<eos>"),  # Gemma
)
MASKS = (MASK_TOKEN, "<|mdm_mask|>", "<mask>")  # names that mask tokens have: ours, LLaDA's, Gemma's
RESERVED = ("<|reserved_special_token_0|>",)  # trained by nobody, in a vocabulary that fills its embedding (Llama 3)


def ensure_mask_token(tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> str:
    """Sees to it that the tokenizer has a mask token; where it came from, in words.

    It is the tokenizer's own, else one that its vocabulary has, else `<|mask|>`, which is added: in a free one of the
    embedding's `rows`, else a reserved token takes its part, else the embedding has to grow.
    """
    if tokenizer.mask_token is not None:
        return "the tokenizer's own"
    vocabulary = tokenizer.get_vocab()
    full = rows is not None and len(tokenizer) >= rows
    known = [name for name in (*MASKS, *(RESERVED if full else ())) if name in vocabulary]
    tokenizer.add_special_tokens({"mask_token": known[0] if known else MASK_TOKEN})
    if known:
        return "a reserved one of its vocabulary" if known[0] in RESERVED else "one of its vocabulary"
    return "added; the embedding grows by its row" if full else "added, in a free row of the embedding"


def set_special_tokens(config, tokenizer: PreTrainedTokenizerBase) -> str:
    """Fills the token settings of a diffusion config from its tokenizer; returns what became the mask token, in words.

    Raises ValueError if the tokenizer has no known tokens that end an answer.
    """
    origin = ensure_mask_token(tokenizer, config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    ends = next((pair for pair in ENDS if all(token in vocabulary for token in pair)), None)
    if ends is None:
        pairs = " or ".join(" and ".join(pair) for pair in ENDS)
        raise ValueError(f"the tokenizer of {tokenizer.name_or_path} lacks tokens that end an answer: {pairs}")
    stop, tail = tokenizer.convert_tokens_to_ids(ends)
    config.mask_token_id = tokenizer.mask_token_id
    # A base model may end with its padding token alone.
    config.stop_token_ids = [stop, tail]
    config.tail_token_id = tail
    # Some tokenizers have more tokens than their model has rows (Gemma 3 of text alone: an image token).
    config.num_tokens = max(config.mask_token_id + 1, min(len(tokenizer), config.vocab_size))
    return f"mask token {tokenizer.mask_token} ({config.mask_token_id}): {origin}"
