"""A tiny untrained model, clips of synthetic speech, and files of questions on them in the benchmarks' forms."""

import json
from pathlib import Path

import pytest
import torch

from diffa.model.builder import build_model
from diffa.model.tiny import save_audio_encoder
from diffa.phantom.generate import write_release
from dllm.pipelines.a2d import load_qwen3
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from oracles.tiny import widen

CLIPS = 4


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """A release of synthetic speech: two training clips, CLIPS test clips."""
    folder = tmp_path_factory.mktemp("speech")
    write_release(folder, {"train": 2, "test": CLIPS}, seed=0)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A folder of stage 2 whose adapters are random, with a bidirectional language model."""
    root = tmp_path_factory.mktemp("diffa model")
    torch.manual_seed(0)
    language_model = str(root / "language_model")
    save_language_model(language_model, train_tokenizer(["one two three"], 300), hidden_size=64, layers=2)
    widen(load_qwen3(language_model)).save_pretrained(language_model)
    save_audio_encoder(str(root / "audio_encoder"), hidden_size=32, layers=2)
    parts = (language_model, str(root / "audio_encoder"))
    settings = {"prompt_size": 4, "acoustic_layers": [0, 1], "acoustic_intermediate_size": 64}
    tokenizer, model, extractor = build_model(*parts, {"gen_length": 16}, **settings)
    widen(model.acoustic_adapter)
    widen(model.semantic_adapter)
    for part in (tokenizer, model, extractor):
        part.save_pretrained(root / "model")
    return root / "model"


@pytest.fixture
def mmau_file(speech) -> Path:
    """Questions in MMAU's form."""
    questions = [json.loads(line) for line in (speech / "test_mmsu.jsonl").read_text().splitlines()]
    records = [
        {
            "id": question["id"],
            "audio_id": question["audio_path"],
            "question": question["question"],
            "choices": [text for letter in "abcd" if (text := question[f"choice_{letter}"])],
            "answer": question["answer_gt"],
            "task": "speech",
            "difficulty": "easy",
            "sub-category": question["task_name"],
        }
        for question in questions
    ]
    file = speech / "mmau.json"
    file.write_text(json.dumps(records))
    return file
