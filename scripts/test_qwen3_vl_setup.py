"""Checks an installation for Qwen3-VL end to end: data, model, collator, forward, a training step, a caption.

    python scripts/test_qwen3_vl_setup.py                                            # on a tiny random model
    python scripts/test_qwen3_vl_setup.py --model_name_or_path Qwen3-VL-2B-Instruct  # on a downloaded folder

Images are generated; nothing is downloaded, and what is written is removed at the end.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor
from transformers.utils import logging

from dllm.inference.writer import Request
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLTrainer, Qwen3VLWriter, create_qwen3_vl_collator
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import MERGER, VISION
from dllm.pipelines.qwen3_vl.tiny import save_model
from dllm.pipelines.qwen3_vl.tiny_tables import make_rows
from dllm.program import argument_parser, run_program
from dllm.training.arguments import MDLMConfig

ROWS = 4


def check(folder: str, scratch: str) -> Iterator[str]:
    """What each step has found, in the order in which a run takes them. Raises ValueError at the first that fails."""
    rows = make_rows(ROWS, seed=0)
    question, answer = (turn["content"] for turn in rows[0]["messages"])
    yield f"data: {len(rows)} tables, such as {question!r} with the answer {answer!r}"

    model = Qwen3VLForMaskedLM.from_pretrained(folder, freeze_vision=True, freeze_merger=True)
    settings, frozen = model.diffusion, [weight.clone() for weight in vision_of(model)]
    settings.block_length = settings.gen_length = 16
    processor = AutoProcessor.from_pretrained(folder)
    number, still = (sum(weight.numel() for weight in weights) for weights in (model.parameters(), frozen))
    yield f"model: {number:,} weights, {still:,} of them frozen; mask token {settings.mask_token_id}"

    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapted = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names))
    args = MDLMConfig(
        output_dir=scratch, max_steps=1, per_device_train_batch_size=ROWS, learning_rate=1e-3,
        save_strategy="no", report_to="none", disable_tqdm=True, gradient_checkpointing=True,
    )  # fmt: skip
    collator = create_qwen3_vl_collator(processor, mask_prompt_loss=True)
    trainer = Qwen3VLTrainer(model=adapted, args=args, train_dataset=rows, data_collator=collator)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    B, P = batch["input_ids"].shape
    patches, responses = len(batch["pixel_values"]), batch["labels"].shape[1]
    yield f"collator: {B} prompts of up to {P} tokens, {patches} patches, responses of {responses} tokens"

    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "labels", "masked")
    inputs, blank = {name: batch[name] for name in names}, torch.zeros_like(batch["pixel_values"])
    with torch.no_grad():
        losses, without = model(**inputs).losses, model(**inputs | {"pixel_values": blank}).losses
    if not losses.isfinite().all() or torch.equal(losses, without):
        raise ValueError("forward: the losses are not finite, or do not depend on the images")
    yield f"forward: mean loss {losses[batch['labels'] >= 0].mean():.2f}; other pixels give other losses"

    trainer.train()
    if not all(torch.equal(before, now) for before, now in zip(frozen, vision_of(model), strict=True)):
        raise ValueError("training step: frozen weights have changed")
    if not any(weight.abs().sum() > 0 for name, weight in model.named_parameters() if "lora_B" in name):
        raise ValueError("training step: the adapter has not changed")
    trainer.save_model(scratch)
    yield "training step: the adapter has changed, the vision encoder has not by a bit"

    writer = Qwen3VLWriter(scratch, model.device.type)
    [caption] = writer.write([Request([rows[0]["image"]], "Describe the image.")], gen_length=16)
    yield f"caption in {caption.steps} steps: {caption.text!r}"


def vision_of(model: Qwen3VLForMaskedLM) -> list[torch.Tensor]:
    """The weights that are frozen."""
    return [weight for name, weight in model.named_parameters() if name.startswith((*VISION, *MERGER))]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model_name_or_path", help="folder of a Qwen3-VL model; default: a tiny one")
    args = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model_name_or_path
        if folder is None:
            folder, rows = str(Path(scratch) / "tiny"), make_rows(200, seed=1)
            torch.manual_seed(0)
            save_model(folder, [turn["content"] for row in rows for turn in row["messages"]])
        elif not Path(folder).is_dir():
            raise ValueError(f"--model_name_or_path {folder} is no folder; download it and give its folder")
        start = time.perf_counter()
        for found in check(folder, str(Path(scratch) / "trained")):
            print(f"ok   {found} ({time.perf_counter() - start:.1f} s)", flush=True)
            start = time.perf_counter()
    print("Qwen3-VL is set up" + ("" if args.model_name_or_path else "; the model was a tiny one: give a folder next"))


if __name__ == "__main__":
    run_program(main)
