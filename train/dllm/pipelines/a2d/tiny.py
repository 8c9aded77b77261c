"""Tiny language models with random weights, for quickstarts and tests: a Qwen3 with a tokenizer of its own."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dllm.data.conversation import CHATML_TEMPLATE
from dllm.pipelines.a2d.modeling_qwen3 import A2DQwen3Config, A2DQwen3LMHeadModel
from dllm.pipelines.special_tokens import MASK_TOKEN, STOP_TOKEN, TAIL_TOKEN, set_special_tokens

SPECIAL_TOKENS = [TAIL_TOKEN, "<|im_start|>", STOP_TOKEN, "<think>", "</think>", MASK_TOKEN]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts with Qwen's special tokens, `<|mask|>` and the ChatML template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=STOP_TOKEN,
        pad_token=TAIL_TOKEN,
        mask_token=MASK_TOKEN,
        chat_template=CHATML_TEMPLATE,
    )


def save_language_model(folder: str, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> None:
    """Writes a random a2d-qwen3 folder of that width, with heads of 32."""
    config = A2DQwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        head_dim=32,
        max_position_embeddings=2048,
        initializer_range=0.08,  # the usual 0.02 suits wide models; a narrow one starts to see much later with it
        tie_word_embeddings=True,
    )
    set_special_tokens(config, tokenizer)
    A2DQwen3LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
