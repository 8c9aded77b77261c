"""Tiny language models with random weights, for quickstarts and tests: a decoder of any family and a tokenizer for it.

python -m dllm.pipelines.a2d.tiny --family llama --out exp/tiny_llama
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dllm.data.conversation import CHATML_TEMPLATE
from dllm.pipelines.a2d.modeling_a2d import FAMILIES
from dllm.pipelines.special_tokens import MASK_TOKEN, STOP_TOKEN, TAIL_TOKEN, set_special_tokens
from dllm.program import argument_parser, run_program

HEADER_TEMPLATE = (  # Llama 3's; LLaDA's too, with another beginning
    "{{{{ '{start}' }}}}{{% for message in messages %}}"
    "{{{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' }}}}"
    "{{% endfor %}}"
    "{{% if add_generation_prompt %}}{{{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}}}{{% endif %}}"
)
GEMMA_TEMPLATE = (  # of turns that alternate, without a system turn
    "{{ '<bos>' }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant') or (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('turns of user and assistant must alternate, and no other may be there') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}"
    "{{ message.content + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Dialect:
    """What is special in the tokenizers of a family; `free_rows` of the embedding are beyond the tokenizer."""

    tokens: tuple[str, ...]
    stop: str
    tail: str
    template: str
    mask: str | None = None
    free_rows: int = 0


QWEN = (TAIL_TOKEN, "<|im_start|>", STOP_TOKEN, "<think>", "</think>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", *HEADERS)
GEMMA = ("<pad>", "<eos>", "<bos>", "<mask>", "<start_of_turn>", "<end_of_turn>")
GEMMA_DIALECT = Dialect(GEMMA, "<end_of_turn>", "<eos>", GEMMA_TEMPLATE, mask="<mask>")
DIALECTS = {
    "qwen2": Dialect(QWEN, STOP_TOKEN, TAIL_TOKEN, CHATML_TEMPLATE, free_rows=8),
    "qwen3": Dialect((*QWEN, MASK_TOKEN), STOP_TOKEN, TAIL_TOKEN, CHATML_TEMPLATE, mask=MASK_TOKEN),
    "llama": Dialect(LLAMA, "<|eot_id|>", "<|end_of_text|>", HEADER_TEMPLATE.format(start="<|begin_of_text|>")),
    "gemma2": GEMMA_DIALECT,
    "gemma3_text": GEMMA_DIALECT,
}
INITIALIZER_RANGE = 0.08  # the usual 0.02 suits wide models; a narrow one starts to see much later with it

# What makes a family itself, in a size in which it shows.
ROPE = {"rope_type": "llama3", "rope_theta": 500_000.0, "original_max_position_embeddings": 256}  # of Llama 3.1
ROPE |= {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOWS = {"sliding_window": 16, "query_pre_attn_scalar": 32}  # in every other layer
TRAITS = {
    "llama": {"rope_parameters": ROPE},
    "gemma2": WINDOWS,
    "gemma3_text": WINDOWS | {"sliding_window_pattern": 2},
}


def train_tokenizer(texts: list[str], vocab_size: int, dialect: Dialect | str = "qwen3") -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts with the special tokens and the chat template of a family, given by its name."""
    dialect = DIALECTS[dialect] if isinstance(dialect, str) else dialect
    bpe, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    settings = {"special_tokens": list(dialect.tokens), "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **settings))
    special = {"eos_token": dialect.stop, "pad_token": dialect.tail, "mask_token": dialect.mask}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=dialect.template, **special)


def decoder_sizes(hidden_size: int, layers: int) -> dict:
    """Settings of a narrow decoder, whose heads have a width of 32."""
    heads = hidden_size // 32
    sizes = {"hidden_size": hidden_size, "intermediate_size": 3 * hidden_size, "num_hidden_layers": layers}
    sizes |= {"head_dim": 32, "num_attention_heads": heads, "num_key_value_heads": heads}
    return sizes | {"max_position_embeddings": 2048, "initializer_range": INITIALIZER_RANGE}


def save_language_model(
    folder: str, tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int, family="qwen3", plain=False
) -> None:
    """Writes a random `a2d-*` folder of that width, with heads of 32, and its tokenizer; the autoregressive model of
    transformers if `plain`.
    """
    model_class = FAMILIES[family].__bases__[1] if plain else FAMILIES[family]  # transformers' own, or ours
    settings = decoder_sizes(hidden_size, layers) | TRAITS.get(family, {})
    rows = len(tokenizer) + DIALECTS[family].free_rows
    config = model_class.config_class(vocab_size=rows, tie_word_embeddings=True, **settings)
    if not plain:
        set_special_tokens(config, tokenizer)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_parser(description: str, vocab_size: int = 512, hidden_size: int = 64, layers: int = 2) -> ArgumentParser:
    """The command line of a program that writes a tiny model with a tokenizer of its own, with these defaults."""
    parser = argument_parser(description)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--vocab_size", type=int, default=vocab_size, help="tokens of the tokenizer at most")
    parser.add_argument("--hidden_size", type=int, default=hidden_size, help="of the language model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=layers, help="of the language model")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    return parser


def text_parser(description: str) -> ArgumentParser:
    """That of a text model's."""
    parser = tiny_parser(description)
    parser.add_argument("--text_path", help="text that the tokenizer is trained on; default: bytes alone")
    return parser


def write_text_model(args: Namespace, name: str, dialect: Dialect, save: Callable[..., None]) -> None:
    """Does what the command line says; `save` writes a folder of its tokenizer, its width and its number of layers."""
    torch.manual_seed(args.seed)
    text = Path(args.text_path).read_text(encoding="utf-8") if args.text_path else ""
    tokenizer = train_tokenizer(text.splitlines(), args.vocab_size, dialect)
    save(args.out, tokenizer, args.hidden_size, args.layers)
    print(f"tiny {name} in {args.out}: {len(tokenizer)} tokens")


def main() -> None:
    """Writes a folder from the command line."""
    parser = text_parser(__doc__)
    parser.add_argument("--family", choices=DIALECTS, required=True, help="of the language model")
    parser.add_argument("--plain", action="store_true", help="the autoregressive model, not its masked-diffusion twin")
    args = parser.parse_args()
    save = partial(save_language_model, family=args.family, plain=args.plain)
    write_text_model(args, args.family, DIALECTS[args.family], save)


if __name__ == "__main__":
    run_program(main)
