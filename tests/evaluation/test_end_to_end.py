"""The user's two commands on a tiny untrained model: evaluate.sh on two processes, and `python -m lmms_eval` on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava.model.builder import build_model
from llava.model.tiny import save_language_model, save_vision_tower, train_tokenizer
from report_scores.lmms_eval_output import TASK_METRICS, generations, read_scores, results_file
from report_scores.scorer import FINDING_F1, METRICS, Scorer

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


def scores_of(pairs: list[tuple[str, str]]) -> dict[str, float]:
    references, texts = map(list, zip(*pairs, strict=True))
    scorer = Scorer([*METRICS, FINDING_F1])
    return {
        name: float(score) for name, score in scorer.scores(scorer.statistics(texts, references).sum(axis=0)).items()
    }


def test_two_processes_and_one_that_goes_on_give_the_same_reports_and_scores(data, checkpoint, tmp_path):
    settings = {"BATCH_SIZE": "2", "GEN_KWARGS": GEN_KWARGS, "CUDA_VISIBLE_DEVICES": "", "FINDING_F1": "1"}
    command = "bash", "scripts/evaluate.sh", str(checkpoint)
    out = run(*command, OUTPUT_PATH=str(tmp_path / "two"), NUM_PROCESSES="2", **settings)
    [folder] = (tmp_path / "two").iterdir()
    summary = json.loads((folder / "scores.json").read_text())
    assert (folder / "scores.md").read_text() in out and (folder / "reports.html").stat().st_size > 1000
    assert list(summary["scores"]) == ["model", "shuffled_images", "constant_report", "nearest_image"]
    assert summary["generation"]["generation"]["gen_length"] == 16 and summary["generation"]["git"]

    reports = generations(folder)
    assert [len(texts) for texts in reports.values()] == [3, 3]
    assert len({text for _, text in reports["model"]}) == 3  # each has its own seed
    for half, pairs in reports.items():
        found = {name: score["value"] for name, score in summary["scores"][half].items()}
        assert found == pytest.approx(scores_of(pairs), abs=1e-9)

    assert run(*command, OUTPUT_PATH=str(tmp_path / "two"), **settings).startswith(f"{checkpoint}: complete in ")

    (folder / "reports" / "rank1.jsonl").unlink()  # of three documents
    model_args = f"pretrained={checkpoint},conv_template=qwen,reports={folder}/reports"
    out = run(
        *(sys.executable, "-m", "lmms_eval", "--model", "llava_oneversion_qwen", "--model_args", model_args),
        *("--tasks", "mimic_cxr", "--device", "cpu", "--batch_size", "3", "--gen_kwargs", GEN_KWARGS),
        *("--output_path", str(tmp_path / "one"), "--log_samples"),
    )
    assert list(tmp_path.glob("one/*/*_results.json")), out  # lmms_eval ends with 0 after a failure, too
    assert len((folder / "reports" / "rank0.jsonl").read_text().split("\n")) == 1 + 6
    assert generations(tmp_path / "one") == reports
    one, two = (read_scores(results_file(tmp_path / name)) for name in ("one", "two"))
    for row, columns in one.items():
        assert all(f"|{'' if row == 'model' else f'{row}_'}{metric}" in out for metric in TASK_METRICS)
        assert columns == pytest.approx(two[row], abs=1e-9)
        assert columns == pytest.approx({name: summary["scores"][row][name]["value"] for name in columns}, abs=1e-9)
