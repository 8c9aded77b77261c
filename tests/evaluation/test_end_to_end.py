"""The user's two commands on a tiny untrained model: `python -m lmms_eval` and evaluate.sh on two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from report_metrics import METRICS, scores
from report_results import generations, read_scores, results_file

from llava.model.builder import build_model
from llava.model.tiny import save_language_model, save_vision_tower, train_tokenizer

EVAL = Path(__file__).resolve().parents[2] / "eval"
GEN_KWARGS = "gen_length=16,block_length=8,temperature=0.7,remasking=random"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A tiny model with random weights, saved as training saves one."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["The heart is normal. Lungs are clear."], vocab_size=300)
    save_language_model(f"{tmp_path}/language_model", tokenizer, hidden_size=64, layers=2)
    save_vision_tower(f"{tmp_path}/vision_tower", image_size=32, patch_size=8, hidden_size=32, layers=3)
    settings = {"mm_resampler_type": "spatial_pool", "mm_projector_type": "linear"}
    towers = f"{tmp_path}/language_model", f"{tmp_path}/vision_tower"
    tokenizer, model, processor = build_model(*towers, -2, torch.float32, {}, **settings)
    for part in (tokenizer, model, processor):
        part.save_pretrained(tmp_path / "tiny model")
    return tmp_path / "tiny model"


def run(*command, **environment) -> str:
    """Run a command from the folder eval with one thread and no network, and return the output of its success."""
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=EVAL, env=os.environ | offline | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_one_process_and_two_give_the_same_reports_and_scores(data, checkpoint, tmp_path):
    out = run(
        *(sys.executable, "-m", "lmms_eval", "--model", "llava_oneversion_qwen"),
        *("--model_args", f"pretrained={checkpoint},conv_template=qwen", "--tasks", "mimic_cxr", "--device", "cpu"),
        *("--batch_size", "2", "--gen_kwargs", GEN_KWARGS, "--output_path", str(tmp_path / "one"), "--log_samples"),
    )
    assert list(tmp_path.glob("one/*/*_results.json")), out  # lmms_eval ends with 0 after a failure, too
    one = read_scores(results_file(tmp_path / "one"))
    for row, columns in one.items():
        prefix = "" if row == "model" else f"{row}_"
        assert all(f"|{prefix}{metric}" in out for metric in METRICS)
        assert tuple(columns) == METRICS

    settings = {"NUM_PROCESSES": "2", "BATCH_SIZE": "2", "GEN_KWARGS": GEN_KWARGS, "CUDA_VISIBLE_DEVICES": ""}
    out = run("bash", "scripts/evaluate.sh", str(checkpoint), OUTPUT_PATH=str(tmp_path / "two"), **settings)
    two = read_scores(results_file(tmp_path / "two"))
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["model", "shuffled_images", "constant_report"]
    for row in one:
        assert two[row] == pytest.approx(one[row], abs=1e-9)

    reports = generations(tmp_path / "one")
    assert reports == generations(tmp_path / "two")
    assert [len(texts) for texts in reports.values()] == [3, 3]
    references, texts = map(list, zip(*reports["model"], strict=True))
    assert len(set(texts)) == 3  # each has its own seed
    assert one["model"] == pytest.approx(scores(texts, references), abs=1e-9)
