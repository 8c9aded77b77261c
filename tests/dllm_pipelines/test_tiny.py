"""Tiny models from the command line: folders of the sizes asked for, which load, and are the same for one seed."""

import sys

import pytest
import torch

from dllm.pipelines.a2d import tiny as a2d
from dllm.pipelines.auto import load_text_model
from dllm.pipelines.llada import tiny as llada
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLProcessor
from dllm.pipelines.qwen3_vl import tiny as qwen3_vl

SIZES = ["--hidden_size", "32", "--layers", "1", "--vocab_size", "300"]
PROGRAMS = {"a2d": (a2d, ["--family", "gemma2"]), "llada": (llada, []), "qwen3_vl": (qwen3_vl, [])}


def load(name: str, folder: str):
    """Tokenizer and model."""
    if name == "qwen3_vl":
        return Qwen3VLProcessor.from_pretrained(folder).tokenizer, Qwen3VLForMaskedLM.from_pretrained(folder)
    return load_text_model(folder)[:2]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_folder_of_the_sizes_asked_for_is_written(name, tmp_path, monkeypatch):
    program, flags = PROGRAMS[name]
    found = []
    for number, seed in enumerate("112"):
        folder = str(tmp_path / str(number))
        monkeypatch.setattr(sys, "argv", ["tiny", "--out", folder, "--seed", seed, *SIZES, *flags])
        program.main()
        found.append(load(name, folder))
    tokenizer, model = found[0]
    assert (model.diffusion.hidden_size, model.diffusion.num_hidden_layers) == (32, 1) and len(tokenizer) <= 305
    weights = [model.get_input_embeddings().weight for _, model in found]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_text_trains_the_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("nodule nodule nodule\n")
    for name, text in {"with": ["--text_path", str(tmp_path / "text.txt")], "without": []}.items():
        monkeypatch.setattr(sys, "argv", ["tiny", "--out", str(tmp_path / name), *SIZES, *text])
        llada.main()
    with_text, without = (load("llada", str(tmp_path / name))[0]("nodule").input_ids for name in ("with", "without"))
    assert len(with_text) < len(without) == len("nodule")
