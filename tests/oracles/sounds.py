"""A tiny world of sounds for the tests: clips of tones, a random Whisper and language model, and one way to train."""

import json
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffa.conversation import SYSTEM_PROMPT, TRANSCRIBE
from diffa.model.builder import build_model
from diffa.model.tiny import save_audio_encoder as write_whisper
from diffa.train import train as program
from diffa.train.diffa_trainer import DiffaTrainer
from dllm.pipelines.a2d.tiny import train_tokenizer
from dllm.pipelines.llada.tiny import DIALECT, save_llada
from dllm.training.identity import Identity
from oracles.forks import completed
from oracles.models import keep_float64

TINY = {"prompt_size": 4, "num_prompts": 3, "acoustic_intermediate_size": 48, "acoustic_layers": [1, 2]}
RATE = 16_000
TONES = ("low", "middle", "high")
SECONDS = (0.3, 0.9, 1.7, 2.9)


def tone(seconds: float, number: int = 0) -> np.ndarray:
    """A clip of one of three tones and a little noise."""
    noise = np.random.default_rng(number).standard_normal(round(seconds * RATE)) * 0.02
    clip = 0.3 * np.sin(2 * np.pi * 200 * 3 ** (number % 3) * np.arange(len(noise)) / RATE) + noise
    return clip.astype(np.float32)


def write_wav(file: Path, clip: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    """A file of 16-bit samples; every channel has the same."""
    samples = np.repeat((clip * 32767).astype("<i2"), channels)
    with wave.open(str(file), "wb") as out:
        out.setnchannels(channels), out.setsampwidth(2), out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file


@dataclass(frozen=True)
class SoundWorld:
    """Folders of the frozen parts, and a JSON file of questions about the clips beside it."""

    root: Path
    language_model: Path  # a LLaDA
    whisper: Path  # hears 3 s
    train: Path  # 12 records

    def arguments(self, out: Path, **overrides) -> list[str]:
        """Command line of a run of stage 1, four steps with four samples each; None drops an argument."""
        values = {
            "llm_model": self.language_model,
            "whisper_model": self.whisper,
            "train_dataset_path": self.train,
            "training_stage": 1,
            "num_prompts": 3,
            "prompt_size": 4,
            "acoustic_intermediate_size": 48,
            "acoustic_layers": "1,2",
            "gen_length": 16,
            "output_dir": out,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "seed": 1,
        }
        values |= overrides
        return [text for name, value in values.items() if value is not None for text in (f"--{name}", str(value))]

    def build(self, dtype=torch.float32, diffusion=None, **settings):
        """(tokenizer, model, feature extractor) of the two folders, the model in evaluation mode."""
        torch.manual_seed(0)
        diffusion = {"gen_length": 16, "block_length": 8} | (diffusion or {})
        parts = str(self.language_model), str(self.whisper)
        tokenizer, model, extractor = build_model(*parts, diffusion, **TINY | settings)
        if dtype == torch.float64:
            keep_float64(model.double())
        return tokenizer, model.to(dtype).eval(), extractor


def make_world(root: Path) -> SoundWorld:
    (root / "clips").mkdir()
    records = []
    for number in range(12):
        clip = tone(SECONDS[number % 4], number)
        write_wav(root / f"clips/{number}.wav", clip)
        answer = " ".join([TONES[number % 3]] * (1 + number % 4))
        records.append(
            {
                "audio_id": f"tone-{number}",
                "audio_filepath": f"clips/{number}.wav",
                "input": TRANSCRIBE if number % 2 else "Which tone?",
                "target": answer,
                "transcription": answer,
                "dataset": "tones",
                "duration": len(clip) / RATE,
            }
        )
    (root / "train.json").write_text(json.dumps(records))
    torch.manual_seed(0)
    texts = [SYSTEM_PROMPT, TRANSCRIBE, *(record["target"] for record in records)]
    save_llada(root / "language_model", train_tokenizer(texts, 300, DIALECT), hidden_size=64, layers=2)
    write_whisper(root / "whisper", hidden_size=64, layers=3)
    return SoundWorld(root, root / "language_model", root / "whisper", root / "train.json")


def build_trainer(arguments: list[str]) -> DiffaTrainer:
    """The trainer that the program makes of these arguments, in this process."""
    before, sys.argv = sys.argv, ["train.py", *arguments]
    try:
        parsed = program.parse()
        trainer = program.build(*parsed)
        trainer.identity = Identity(*parsed)
        return trainer
    finally:
        sys.argv = before


def launch(arguments: list[str], processes: int) -> subprocess.CompletedProcess:
    """Runs the program under torchrun."""
    return completed("diffa/train/train_mem.py", arguments, processes)
