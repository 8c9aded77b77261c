"""What fits on one GPU of 24, 40 or 80 GB: the largest batch of each stage and of generation, expected, not measured.

    python benchmarks/memory.py

Models are Qwen3-0.6B and SigLIP so400m at 384 px by their configs alone, as `DRY_RUN=True` takes them, behind a QFormer
of 64 queries, pattern `block`, bf16, one process without DeepSpeed. Every sample has one image, a prompt of 768 tokens
and a report of 256: a whole `--model_max_length`. Of each card 1 GB is CUDA's own.
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import Qwen3Config, SiglipImageProcessorPil, SiglipVisionConfig

from dllm.core.head import num_chunks
from dllm.data.files import weights_optional
from dllm.pipelines.a2d.tiny import train_tokenizer
from dllm.training.flops import step_costs
from dllm.training.metrics import trunk_sizes
from dllm.training.plan import Batches, memory
from dllm.training.run import set_trainable
from dllm.training.trainer import hold_frozen
from llava.model.builder import build_model
from llava.train.args import ModelArguments

CARDS = (24, 40, 80)  # GB
CUDA = 1e9
P, R = 768, 256
PARTS = "mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model"
LORA = {"lora_enable": True, "mm_tunable_parts": "mm_vision_resampler,mm_mlp_adapter,mm_language_model"}
STAGES = {
    "stage 1": {"mm_tunable_parts": "mm_vision_resampler,mm_mlp_adapter"},
    "stage 2": {"mm_tunable_parts": PARTS},
    "LoRA, rank 64": LORA,
}


def write_folders(root: Path) -> tuple[str, str]:
    """Folders of a language model and a vision tower that hold configs, a tokenizer and no weights."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "head_dim": 128}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8}
    language = Qwen3Config(vocab_size=151_936, tie_word_embeddings=True, **sizes, **heads)
    language.save_pretrained(root / "language_model")
    train_tokenizer(["The heart is normal."], 400).save_pretrained(root / "language_model")
    sizes = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "num_attention_heads": 16}
    SiglipVisionConfig(image_size=384, patch_size=14, **sizes).save_pretrained(root / "vision_tower")
    side = {"height": 384, "width": 384}
    SiglipImageProcessorPil(size=side).save_pretrained(root / "vision_tower")
    return str(root / "language_model"), str(root / "vision_tower")


def build(folders: tuple[str, str], settings: dict):
    """The model of a stage, whose weights have no values."""
    arguments = ModelArguments(model_name_or_path=folders[0], vision_tower=folders[1], **settings)
    with weights_optional(True), torch.device("meta"):
        _, model, _ = build_model(*folders, -2, torch.float32, arguments.diffusion(), **arguments.settings())
    set_trainable(model, arguments.tunable_prefixes(), arguments)
    hold_frozen(model, torch.bfloat16)
    return model


def training_bytes(model, batch: int, checkpointing: bool, kept) -> float:
    """Bytes of a step on `batch` samples, as a plan has them."""
    prompts, canvases = torch.full((1, batch), P), torch.full((1, batch), R)
    fed, pairs = trunk_sizes(model.diffusion, True, prompts, canvases)
    of_samples = fed, pairs, canvases, torch.ones(1, batch), prompts + canvases, fed
    batches = Batches(*(each.sum(1) for each in of_samples))
    trainer = SimpleNamespace(
        model=model,
        diffusion=model.diffusion,
        args=SimpleNamespace(world_size=1, gradient_checkpointing=checkpointing),
        head_chunks=num_chunks(batch * (P + R)),
        is_deepspeed_enabled=False,
        is_fsdp_enabled=False,
    )
    return sum(memory(trainer, batches, kept, torch.bfloat16).values())


def generation_bytes(model, batch: int) -> float:
    """Bytes of bf16 weights, of a cache of P + R tokens a report, and of fp32 logits and their copy for a block."""
    config = model.diffusion
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * (P + R)
    logits = 2 * 4 * config.vocab_size * config.block_length
    return 2 * sum(weight.numel() for weight in model.parameters()) + batch * (cache + logits)


def largest(bytes_of, card: int) -> str:
    """The largest batch that fits on a card of so many GB."""
    room = card * 1e9 - CUDA
    one, two = bytes_of(1), bytes_of(2)
    batch = max(0, int((room - one) / (two - one)) + 1) if room >= one else 0
    while batch and bytes_of(batch) > room:  # the head's chunks make steps
        batch -= 1
    return str(batch) if batch else "-"


def main() -> None:
    print("| largest batch | 1 sample, GB | " + " | ".join(f"{card} GB" for card in CARDS) + " |")
    print("|---|---|" + "---|" * len(CARDS))
    with tempfile.TemporaryDirectory() as root:
        folders = write_folders(Path(root))
        for stage, settings in STAGES.items():
            model = build(folders, settings)
            kept = step_costs(model, torch.bfloat16)[1]
            for checkpointing in (False, True):
                _row(
                    stage + ", gradient checkpointing" * checkpointing,
                    lambda batch: training_bytes(model, batch, checkpointing, kept),  # noqa: B023 (called at once)
                )
        _row("generation", lambda batch: generation_bytes(model, batch))


def _row(name: str, bytes_of) -> None:
    cells = " | ".join(largest(bytes_of, card) for card in CARDS)
    print(f"| {name} | {bytes_of(1) / 1e9:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
