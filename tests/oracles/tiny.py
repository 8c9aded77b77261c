"""A tiny world for the tests: phantom films, random towers of a few thousand weights, and one way to train on them."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from llava.data.mimic_cxr import convert_annotation
from llava.data.phantom import write_release
from llava.model.tiny import save_language_model, save_vision_tower, train_tokenizer
from llava.train import train as program

CHECKOUT = Path(__file__).resolve().parents[2]
ALL_PARTS = "mm_vision_tower,mm_vision_resampler,mm_mlp_adapter,mm_language_model"
STAGE_1 = "mm_vision_resampler,mm_mlp_adapter"


@dataclass(frozen=True)
class TinyWorld:
    """Folders of the towers and films, and the LLaVA JSON files that use them."""

    language_model: Path
    vision_tower: Path
    images: Path
    train: Path  # one film a record
    mixed: Path  # one film, two films, none, and several turns
    test: Path

    def arguments(self, out: Path, **overrides) -> list[str]:
        """Command line of a run of six steps with four samples each; None drops an argument."""
        values = {
            "model_name_or_path": self.language_model,
            "vision_tower": self.vision_tower,
            "data_path": self.mixed,
            "image_folder": self.images,
            "mm_tunable_parts": ALL_PARTS,
            "mm_resampler_type": "qformer",
            "mm_qformer_depth": 2,
            "mm_qformer_hidden_size": 64,
            "mm_qformer_latents": 4,
            "mm_perceiver_depth": 1,
            "mm_perceiver_latents": 4,
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


def make_world(root: Path) -> TinyWorld:
    annotation = write_release(root, {"train": 13, "test": 4}, seed=3, size_px=48)
    convert_annotation(annotation, root, "first")
    records = json.loads((root / "train_llava_llada.json").read_text())
    mixed = root / "mixed.json"
    mixed.write_text(json.dumps(_mixed(records)))

    torch.manual_seed(0)
    texts = [turn["value"] for record in records for turn in record["conversations"]]
    save_language_model(root / "language_model", train_tokenizer(texts, 400), hidden_size=64, layers=2)
    save_vision_tower(root / "vision_tower", image_size=32, patch_size=8, hidden_size=64, layers=3)
    return TinyWorld(
        root / "language_model",
        root / "vision_tower",
        root / "images",
        root / "train_llava_llada.json",
        mixed,
        root / "test_llava_llada.json",
    )


def _mixed(records: list[dict]) -> list[dict]:
    """Two films in every fourth record, none in the next, a second question in the third: 16 samples of 13 records."""
    mixed = []
    for number, record in enumerate(records):
        question, answer = (turn["value"] for turn in record["conversations"])
        turns = [question, answer]
        record = dict(record)
        if number % 4 == 0:
            record["image"] = [record["image"], records[number - 1]["image"]]
            turns[0] = "<image>\n" + question
        elif number % 4 == 1:
            del record["image"]
            turns[0] = question.replace("<image>\n", "")
        elif number % 4 == 2:
            turns += ["Is the heart enlarged?", "No." if number % 8 == 2 else "Yes."]
        mixed.append(record | {"conversations": _turns(turns)})
    return mixed


def _turns(texts: list[str]) -> list[dict]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


@contextlib.contextmanager
def command_line(arguments: list[str]):
    before = sys.argv
    sys.argv = ["train_mem.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def build_trainer(arguments: list[str]):
    """The trainer that the command line `arguments` makes, in this process."""
    with command_line(arguments):
        return program._build(*program._parse())[0]


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def logged_losses(out: Path) -> list[float]:
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def launch(arguments: list[str], processes: int = 1) -> subprocess.CompletedProcess:
    """Runs train_mem.py under torchrun, as the stage scripts do."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return _run([*command, "llava/train/train_mem.py", *arguments])


def run_plain(arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs train_mem.py as one ordinary process."""
    return _run([sys.executable, "llava/train/train_mem.py", *arguments])


def _run(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=CHECKOUT / "train", env=environment, capture_output=True, text=True)
