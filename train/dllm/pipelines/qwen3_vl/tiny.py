"""A tiny Qwen3-VL folder with random weights, as published ones are laid out, for quickstarts and tests.

python -m dllm.pipelines.qwen3_vl.tiny --out exp/tiny_qwen3_vl
"""

from collections.abc import Iterable

import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from dllm.pipelines.a2d.tiny import INITIALIZER_RANGE, decoder_sizes, tiny_parser, train_tokenizer
from dllm.pipelines.qwen3_vl.processing import MARKS, VIDEO_PAD
from dllm.pipelines.qwen3_vl.tiny_tables import make_rows
from dllm.program import run_program

VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 192, "num_heads": 2, "deepstack_visual_indexes": [0]}
VISION |= {"num_position_embeddings": 64, "initializer_range": INITIALIZER_RANGE}
PATCHES = {"patch_size": 8, "merge_size": 2}  # a visual token is a square of 16 pixels a side
PIXELS = {"shortest_edge": 16**2, "longest_edge": 256**2}  # fewest and most
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def save_model(
    folder: str, texts: Iterable[str], hidden_size=64, layers=3, vocab_size=400, tie_word_embeddings=True
) -> None:
    """Writes a plain qwen3_vl folder whose tokenizer has learned the texts; heads have a width of 32."""
    tokenizer = train_tokenizer(list(texts), vocab_size)
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, VIDEO_PAD]})
    names = ("vision_start_token_id", "image_token_id", "vision_end_token_id", "video_token_id")
    marks = dict(zip(names, tokenizer.convert_tokens_to_ids([*MARKS, VIDEO_PAD]), strict=True))
    sizes = {"patch_size": PATCHES["patch_size"], "spatial_merge_size": PATCHES["merge_size"]}
    vision = VISION | sizes | {"out_hidden_size": hidden_size}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
    text = {"vocab_size": len(tokenizer), "rope_parameters": rope} | decoder_sizes(hidden_size, layers)
    config = Qwen3VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=tie_word_embeddings, **marks)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(size=PIXELS, processor_class="Qwen3VLProcessor", **PATCHES, **HALVES)
    processor.save_pretrained(folder)


def main() -> None:
    """Writes a folder whose tokenizer knows the questions about tables."""
    args = tiny_parser(__doc__, vocab_size=400, layers=3).parse_args()
    torch.manual_seed(args.seed)
    texts = (turn["content"] for row in make_rows(1000, args.seed) for turn in row["messages"])
    save_model(args.out, texts, args.hidden_size, args.layers, args.vocab_size)
    print(f"a tiny Qwen3-VL in {args.out}")


if __name__ == "__main__":
    run_program(main)
