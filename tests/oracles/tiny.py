"""A tiny world for the tests: phantom films, random towers of a few thousand weights, and one way to train on them."""

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.training.identity import Identity
from llava.model.builder import build_model
from llava.model.tiny import save_vision_tower
from llava.phantom.generate import write_release
from llava.radiology.annotation import convert_annotation
from llava.train import train as program
from llava.train.llava_trainer import LLaVATrainer
from oracles.forks import completed

CHECKOUT = Path(__file__).resolve().parents[2]
ALL_PARTS = "mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model"
STAGE_1 = "mm_vision_resampler,mm_mlp_adapter"
TINY_RESAMPLERS = {
    "mm_qformer_depth": 2,
    "mm_qformer_hidden_size": 64,
    "mm_qformer_latents": 4,
    "mm_perceiver_depth": 1,
    "mm_perceiver_latents": 4,
}


@dataclass(frozen=True)
class TinyWorld:
    """Folders of the towers and films, and the LLaVA JSON files that use them."""

    language_model: Path
    vision_tower: Path  # 4 x 4 patches
    images: Path
    train: Path  # 12 records, one film each
    mixed: Path  # the same records with two films, one or none, and with several turns: 15 samples
    test: Path

    def arguments(self, out: Path, **overrides) -> list[str]:
        """Command line of a run of six steps with four samples each; None drops an argument."""
        values = {
            "model_name_or_path": self.language_model,
            "vision_tower": self.vision_tower,
            "data_path": self.mixed,
            "image_folder": self.images,
            "mm_tunable_parts": ALL_PARTS,
            **TINY_RESAMPLERS,
            "block_length": 16,
            "gen_length": 160,
            "output_dir": out,
            "per_device_train_batch_size": 4,
            "max_steps": 6,
            "learning_rate": 3e-3,
            "mm_projector_lr": 2e-3,
            "mm_vision_tower_lr": 1e-3,
            "weight_decay": 0.1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 1,
        }
        values |= overrides
        return [text for name, value in values.items() if value is not None for text in (f"--{name}", str(value))]

    def build(self, dtype=torch.float32, select_layer=-2, diffusion=None, **settings):
        """(tokenizer, model, image processor) of the two towers, the model in evaluation mode."""
        torch.manual_seed(0)
        diffusion = {"attention_pattern": "block", "block_length": 16, "gen_length": 48} | (diffusion or {})
        tokenizer, model, processor = build_model(
            str(self.language_model),
            str(self.vision_tower),
            select_layer,
            dtype,
            diffusion,
            **TINY_RESAMPLERS | settings,
        )
        return tokenizer, model.eval(), processor


def widen(model):
    """Gives a model random weights that are wide enough for every token to matter to every other."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=2 * parameter.shape[-1] ** -0.5)
    return model


def make_world(root: Path) -> TinyWorld:
    annotation = write_release(root, {"train": 12, "test": 4}, seed=3, size_px=48)
    convert_annotation(annotation, root, "first")
    records = json.loads((root / "train_llava_llada.json").read_text())
    (root / "mixed.json").write_text(json.dumps(_mixed(records)))
    torch.manual_seed(0)
    texts = [turn["value"] for record in records for turn in record["conversations"]]
    save_language_model(root / "language_model", train_tokenizer(texts, 400), hidden_size=64, layers=2)
    save_vision_tower(root / "vision_tower", image_size=32, patch_size=8, hidden_size=64, layers=3)
    return TinyWorld(
        root / "language_model",
        root / "vision_tower",
        root / "images",
        root / "train_llava_llada.json",
        root / "mixed.json",
        root / "test_llava_llada.json",
    )


def _mixed(records: list[dict]) -> list[dict]:
    """Every fourth record has two films, the next none, the third a second question."""
    mixed = []
    for number, record in enumerate(records):
        question, answer = (turn["value"] for turn in record["conversations"])
        record, texts = dict(record), [question, answer]
        if number % 4 == 0:
            record["image"] = [record["image"], records[number - 1]["image"]]
            texts[0] = "<image>\n" + question
        elif number % 4 == 1:
            del record["image"]
            texts[0] = question.replace("<image>\n", "")
        elif number % 4 == 2:
            texts += ["Is the heart enlarged?", "No." if number % 8 == 2 else "Yes."]
        mixed.append(record | {"conversations": turns(*texts)})
    return mixed


def turns(*texts: str) -> list[dict]:
    """A LLaVA conversation of questions and answers in turn."""
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def build_trainer(arguments: list[str]) -> LLaVATrainer:
    """The trainer that the program makes of this command line, in this process."""
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = ["train_mem.py", *arguments]
        arguments = program.parse()
        trainer = program.build(*arguments)
        trainer.identity = Identity(*arguments)
        return trainer


def trained(arguments: list[str]) -> LLaVATrainer:
    """The trainer after its run."""
    trainer = build_trainer(arguments)
    trainer.train()
    return trainer


def losses(history: list[dict]) -> list[float]:
    """The loss of every step of a log history."""
    return [entry["loss"] for entry in history if "loss" in entry]


def launch(arguments: list[str], processes: int) -> subprocess.CompletedProcess:
    """Runs train_mem.py under torchrun, as the stage scripts do."""
    return completed("llava/train/train_mem.py", arguments, processes)


def run_program(arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs train_mem.py as one ordinary process."""
    return completed("llava/train/train_mem.py", arguments)
