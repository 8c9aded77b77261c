"""Kind 10: what is half written is not taken for whole, and what one model wrote not for another's."""

import json
import os
import shutil

import numpy as np
import pytest

from dllm.data.files import weights_sha256
from dllm.inference.results_file import ResultsFile
from dllm.inference.writer import Response
from faults.test_errors import demo
from faults.test_numbers import spoiled
from llava.distill import own_reports
from oracles.report_runs import write_run
from oracles.tiny import build_trainer
from report_scores.lmms_eval_output import check_complete, results_file
from report_scores.results import _read, score_run
from report_scores.scorer import METRICS, Scorer

TEXTS = {"model": ["Clear.", "Small effusion.", "No."], "shuffled_images": ["Clear.", "No.", "No."]}


@pytest.fixture
def run(data, tmp_path):
    write_run(tmp_path / "run", TEXTS)
    file = results_file(tmp_path / "run")
    content = json.loads(file.read_text())
    content["n-samples"] = {"mimic_cxr": {"original": 6, "effective": 6}}
    file.write_text(json.dumps(content))
    return tmp_path / "run"


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_samples_that_were_cut_at_a_line_are_not_complete(run, kept):
    check_complete(run)
    (samples,) = run.rglob("*_samples_*.jsonl")
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(sorted(lines, key=lambda line: json.loads(line)["doc_id"])[:kept]))
    with pytest.raises(ValueError, match=f"{kept} of 6 documents; evaluate again"):
        check_complete(run)


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_files_that_were_cut_within_a_line_are_not_complete(run, part):
    for path in (*run.rglob("*_samples_*.jsonl"), results_file(run)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ValueError, match="was not written to its end"):
            check_complete(run)
        path.write_bytes(whole)
    check_complete(run)


@pytest.mark.parametrize("size", [0, 10, 500])
def test_statistics_that_were_cut_are_made_again(tmp_path, size):
    (tmp_path / "scores.json").write_text('{"made_from": "a", "left_out": {}}')
    with open(tmp_path / "statistics.npz", "wb") as file:
        np.savez(file, model=np.ones((50, 4)))
    assert _read(tmp_path, "a") is not None
    os.truncate(tmp_path / "statistics.npz", size)
    assert _read(tmp_path, "a") is None


def test_scores_are_made_again_and_equal(run, data):
    shutil.rmtree(data / "images" / "train")  # a baseline less
    scorer = Scorer([metric for metric in METRICS if metric.name != "METEOR"])
    first = score_run(run, scorer)
    os.truncate(run / "statistics.npz", 100)
    assert score_run(run, scorer).summary == first.summary


@pytest.mark.parametrize(
    "values", [{"max_steps": 0}, {"max_steps": -1, "num_train_epochs": 0}, {"num_train_epochs": -1}]
)
def test_no_step_replaces_no_model(world, tmp_path, values):
    with pytest.raises(ValueError, match="no step would be taken, and an untrained model written"):
        build_trainer(world.arguments(tmp_path, **{"max_steps": -1} | values))


def test_reports_of_two_models_are_not_one_file(world, model, tmp_path, line, monkeypatch):
    folder = shutil.copytree(model, tmp_path / "model")
    films = tmp_path / "films"
    films.mkdir()
    shutil.copy(next(world.images.rglob("*.jpg")), films)
    arguments = ("--model_path", folder, "--images", films, "--out", tmp_path / "a.jsonl")
    monkeypatch.setattr("sys.argv", ["generate_demo.py", *map(str, arguments)])
    demo.main()
    before = (tmp_path / "a.jsonl").read_bytes()
    spoiled(folder, "norm", 2.0)
    assert "was written with weights " in line(demo.main, *arguments)
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_own_reports_of_two_models_are_not_one_file(world, model, tmp_path, monkeypatch):
    settings = {"model_path": os.path.realpath(model), "data_path": os.path.realpath(world.train), "dtype": "float32"}
    settings |= {"weights": "those of before", "data": "that of before"}
    ResultsFile(tmp_path / "own.json.reports", settings, ("image", "report")).add("a", Response("Clear.", 3, 3))
    with pytest.raises(ValueError, match="was written with weights 'those of before', not '[0-9a-f]{64}'"):
        own_reports(model, str(world.train), str(world.images), tmp_path / "own.json", 2, 2, "cpu", "float32")


def test_the_weights_of_a_model_in_several_files_are_one_hash(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    whole = weights_sha256(folder)
    shutil.copy(folder / "model.safetensors", folder / "model-00002.safetensors")
    assert weights_sha256(folder) != whole and weights_sha256(model) == whole
