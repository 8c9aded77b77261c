"""A tiny Qwen3-VL folder with random weights, as published ones are laid out, for quickstarts and tests.

python -m dllm.pipelines.qwen3_vl.tiny --out exp/tiny_qwen3_vl
"""

from collections.abc import Iterable

import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration

from dllm.pipelines.a2d.tiny import INITIALIZER_RANGE, decoder_sizes, train_tokenizer
from dllm.pipelines.qwen3_vl.processing import MARKS, VIDEO_PAD
from dllm.pipelines.qwen3_vl.tiny_tables import make_rows
from dllm.program import argument_parser, run_program

PATCH_SIZE, MERGE_SIZE = 8, 2  # a visual token is a square of 16 pixels a side


def save_model(
    folder: str,
    texts: Iterable[str],
    hidden_size: int = 64,
    layers: int = 3,
    vision_hidden_size: int = 64,
    vision_layers: int = 2,
    vocab_size: int = 400,
    tie_word_embeddings: bool = True,
) -> None:
    """Writes a plain qwen3_vl folder whose tokenizer has learned the texts; heads have a width of 32."""
    tokenizer = train_tokenizer(list(texts), vocab_size)
    tokenizer.add_special_tokens({"additional_special_tokens": [*MARKS, VIDEO_PAD]})
    start, image, end, video = tokenizer.convert_tokens_to_ids([*MARKS, VIDEO_PAD])
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_hidden_size,
        "intermediate_size": 3 * vision_hidden_size,
        "num_heads": vision_hidden_size // 32,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "out_hidden_size": hidden_size,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": list(range(min(vision_layers, layers) - 1)) or [0],
        "initializer_range": INITIALIZER_RANGE,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
    text = {"vocab_size": len(tokenizer), "rope_parameters": rope} | decoder_sizes(hidden_size, layers)
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=tie_word_embeddings,
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE,
        merge_size=MERGE_SIZE,
        size={"shortest_edge": (PATCH_SIZE * MERGE_SIZE) ** 2, "longest_edge": 256**2},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        processor_class="Qwen3VLProcessor",
    ).save_pretrained(folder)


def main() -> None:
    """Writes a folder whose tokenizer knows the questions about tables."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    save_model(args.out, (turn["content"] for row in make_rows(1000, args.seed) for turn in row["messages"]))
    print(f"a tiny Qwen3-VL in {args.out}")


if __name__ == "__main__":
    run_program(main)
