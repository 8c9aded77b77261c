"""A short run with an ordinary loss, which teaches an encoder on its own before a model learns with it."""

import os
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from dllm.program import boundary, check_no_empty_argument, fail
from dllm.training.progress import Progress


def is_first_process() -> bool:
    """Whether this process prints and writes for all."""
    return int(os.environ.get("RANK", 0)) == 0


def train_plain(
    model: nn.Module,
    dataset: Dataset,
    out: str,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    seed: int,
    save: Callable[[], None],
) -> str:
    """Trains a model that returns {"loss": ...}, calls `save` in the first process, and returns the course of the loss.

    `batch_size` samples are those of a step and process; the rate rises for 3 % of the steps and falls as a cosine.
    """
    settings = TrainingArguments(
        output_dir=out,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,  # of the steps
        seed=seed,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(model, settings, train_dataset=dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    trainer.train()
    if settings.process_index == 0:
        save()
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return f"; loss {losses[0]:.2f} -> {losses[-1]:.2f}" if losses else ""


def run_plain(name: str, pretrain: Callable[[], str]) -> None:
    """Runs a program of several processes, of which the first prints the result, or the line of a mistake."""
    with boundary(lambda line: fail(f"{name}: {line}") if is_first_process() else sys.exit(1)):
        check_no_empty_argument(sys.argv[1:])
        result = pretrain()
    if is_first_process():
        print(result)
