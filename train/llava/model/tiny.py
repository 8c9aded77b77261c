"""Tiny towers with random weights, for the quickstart and the tests: a SigLIP and a Qwen3 with its own tokenizer.

python -m llava.model.tiny --data_path train_llava_llada.json --out exp/towers
"""

import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.program import argument_parser, run_program
from llava.conversation import SYSTEM_PROMPT
from llava.data.records import read_records


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
    size = {"height": image_size, "width": image_size}
    SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def main() -> None:
    """Writes both towers from the command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data_path", required=True, help="LLaVA JSON whose texts train the tokenizer")
    parser.add_argument("--out", required=True, help="folder for language_model/ and vision_tower/")
    parser.add_argument("--vocab_size", type=int, default=1024, help="tokens of the tokenizer at most")
    parser.add_argument("--hidden_size", type=int, default=96, help="width of the language model")
    parser.add_argument("--layers", type=int, default=3, help="of the language model")
    parser.add_argument("--vision_hidden_size", type=int, default=128, help="width of the vision tower")
    parser.add_argument("--vision_layers", type=int, default=5, help="of the vision tower")
    parser.add_argument("--image_size", type=int, default=64, help="pixels per side")
    parser.add_argument("--patch_size", type=int, default=16, help="pixels per side of a patch")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    turns = [turn for record in read_records(args.data_path) for turn in record["conversations"]]
    tokenizer = train_tokenizer([SYSTEM_PROMPT, *(turn["value"] for turn in turns)], args.vocab_size)
    save_language_model(f"{args.out}/language_model", tokenizer, args.hidden_size, args.layers)
    vision = args.image_size, args.patch_size, args.vision_hidden_size, args.vision_layers
    save_vision_tower(f"{args.out}/vision_tower", *vision)
    print(f"tiny towers in {args.out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    run_program(main)
