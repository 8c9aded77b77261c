"""Tiny towers with random weights, for the quickstart and the tests: a SigLIP and a Qwen3 with its own tokenizer.

python -m llava.model.tiny --data_path train_llava_llada.json --out exp/towers
"""

import argparse
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from dllm.pipelines.a2d import A2DQwen3Config, A2DQwen3LMHeadModel
from dllm.pipelines.special_tokens import MASK_TOKEN, STOP_TOKEN, TAIL_TOKEN, set_special_tokens
from llava.conversation import CHATML_TEMPLATE, SYSTEM_PROMPT
from llava.data.dataset import read_records

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


def save_vision_tower(folder: str, image_size: int, patch_size: int, hidden_size: int, layers: int) -> None:
    """Writes a random SigLIP folder; one of its layers is beyond the selected one (-2)."""
    config = SiglipVisionConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden_size // 32, 1),
    )
    SiglipVisionModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)


def main() -> None:
    """Writes both towers from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", required=True, help="LLaVA JSON whose texts train the tokenizer")
    parser.add_argument("--out", required=True, help="folder for language_model/ and vision_tower/")
    parser.add_argument("--vocab_size", type=int, default=1024)
    parser.add_argument("--hidden_size", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vision_hidden_size", type=int, default=128)
    parser.add_argument("--vision_layers", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    try:
        records = read_records(args.data_path)
    except ValueError as error:
        sys.exit(f"tiny: error: {error}")
    texts = [SYSTEM_PROMPT, *(turn["value"] for record in records for turn in record["conversations"])]
    tokenizer = train_tokenizer(texts, args.vocab_size)
    save_language_model(f"{args.out}/language_model", tokenizer, args.hidden_size, args.layers)
    save_vision_tower(
        f"{args.out}/vision_tower", args.image_size, args.patch_size, args.vision_hidden_size, args.vision_layers
    )
    print(f"tiny towers in {args.out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
