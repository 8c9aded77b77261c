"""The quickstart's own steps; the job as a whole is too long for a test and is run by hand."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from dllm.program import run_program

PROGRAM = Path(__file__).resolve().parents[2] / "scripts/quickstart.py"


def load():
    """The program as a module, with the settings of the environment."""
    spec = importlib.util.spec_from_file_location("quickstart", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quickstart():
    return load()


def test_the_summary_has_the_promised_keys(quickstart, tmp_path, monkeypatch, capsys):
    scores = {name: {"BLEU_1": 0.5} for name in ("model", "constant_report", "shuffled_images")}
    truth = "There is a small left pleural effusion."
    texts = {"model": [(truth, truth)], "shuffled_images": [(truth, "The lungs are clear.")]}
    monkeypatch.setattr(quickstart, "results_file", lambda folder: folder)
    monkeypatch.setattr(quickstart, "read_scores", lambda file: scores)
    monkeypatch.setattr(quickstart, "generations", lambda folder: texts)
    for stage in ("stage1", "stage2"):
        (tmp_path / stage).mkdir()
        state = {"global_step": 4, "log_history": [{"train_runtime": 2.0}]}
        (tmp_path / stage / "trainer_state.json").write_text(json.dumps(state))
    whole = {name: {"BLEU_1": {"value": 0.5}, "finding_F1": {"value": 0.25}} for name in quickstart.BASELINES}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/scores.json").write_text(json.dumps({"scores": whole}))
    summary = quickstart.summarise(argparse.Namespace(out=tmp_path, annotation=None), tmp_path / "stage2", tmp_path)
    assert summary["metrics"] == {"BLEU_1": 0.5} and set(summary["floors"]) == {"constant_report", "shuffled_images"}
    assert summary["finding_f1"] == {"model": 1.0, "shuffled_images": 0.0}
    assert summary["report"] == truth and summary["seconds"] == {"stage1": 0.5, "stage2": 0.5}
    assert summary["checkpoint"] == str(tmp_path / "stage2") and {"pattern", "resampler"} <= set(summary)
    quickstart.print_summary(summary)
    assert summary["page"] == str(tmp_path / "run/reports.html")
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "0." in line)
    assert told["nearest_image"].split() == told["constant_report"].split() == ["0.500", "0.250"]
    assert told["model"].split() == ["0.500", "1.000"]


def test_each_round_of_the_distillation_starts_from_the_last_and_only_the_last_has_longer_blocks(
    quickstart, tmp_path, monkeypatch
):
    learnt = []
    monkeypatch.setattr(quickstart, "run", lambda *_, **__: None)
    monkeypatch.setattr(quickstart, "train_tower", lambda *_: None)
    monkeypatch.setattr(quickstart, "stage", lambda title, script, out, data, images, env: learnt.append((out, env)))
    data, towers = tmp_path / "data", tmp_path / "towers/vision_tower"
    towers.mkdir(parents=True)
    (towers / "preprocessor_config.json").touch()
    for rounds, names in {1: ["distilled"], 3: ["distilled_1", "distilled_2", "distilled"]}.items():
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), "--out", str(tmp_path), "--rounds", str(rounds)])
        assert quickstart.train(quickstart.parse_arguments(), data, data) == tmp_path / "distilled"
        outs, environments = zip(*learnt[2:], strict=True)
        assert [out.name for out in outs] == names
        assert [env["LM_PATH"].name for env in environments] == ["stage2", *names[:-1]]
        assert [env["BLOCK_LENGTH"] for env in environments] == [8] * (rounds - 1) + [8 if rounds == 1 else 16]
        assert [env["NOISE_ESTIMATOR"] for env in environments] == ["draft"] * rounds
        learnt.clear()


def test_stages_learn_next_tokens_and_under_other_patterns_blocks(monkeypatch):
    for pattern, block_length, noise in (("causal_block", "1", "draft"), ("prefix", "8", "whole_blocks")):
        monkeypatch.setenv("ATTENTION_PATTERN", pattern)
        module = load()
        assert (module.SETTINGS["ATTENTION_PATTERN"], module.SETTINGS["BLOCK_LENGTH"]) == (pattern, block_length)
        assert module.DISTILL["NOISE_ESTIMATOR"] == noise


def first(folder, more: str) -> str:
    """A search path with `folder` before `more`."""
    return f"{folder}{os.pathsep}{more}"


def program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file.parent


@pytest.fixture
def stops(quickstart, tmp_path, monkeypatch, capfd):
    """The line with which a run stops before it has made anything."""

    def stopped(**environment) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit, match="^error: .*$") as exit:
            run_program(quickstart.main)
        assert capfd.readouterr() == ("", "") and not any((tmp_path / "out").iterdir())
        return exit.value.code

    return stopped


def test_lmms_eval_that_does_not_start_stops_the_run_before_anything_is_made(stops, tmp_path):
    """A library of another version: without the name that lmms_eval imports."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/loguru.py").touch()
    line = stops(PYTHONPATH=first(tmp_path / "shadow", os.environ.get("PYTHONPATH", "")))
    assert "cannot import name 'logger' from 'loguru'" in line and "install" in line


def test_java_that_does_not_answer_stops_the_run_before_anything_is_made(stops, tmp_path):
    tools = program(tmp_path / "tools/java", "echo no memory >&2; exit 3")
    line = stops(PATH=first(tools, os.environ["PATH"]))
    assert "METEOR failed (java exit status 3): no memory" in line and "install" in line


def test_meteor_without_its_jar_stops_the_run_before_anything_is_made(stops, tmp_path):
    (tmp_path / "shadow/pycocoevalcap/meteor").mkdir(parents=True)
    for folder in ("", "meteor"):
        (tmp_path / "shadow/pycocoevalcap" / folder / "__init__.py").touch()
    line = stops(PYTHONPATH=first(tmp_path / "shadow", os.environ.get("PYTHONPATH", "")))
    assert "meteor-1.5.jar" in line and "install" in line


def test_a_full_disk_stops_the_run_before_anything_is_made(quickstart, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "DISK_SPACE", 1e18)
    with pytest.raises(ValueError, match=r"GB are free, a run needs 1e\+09; give another --out"):
        quickstart.check_last_steps(tmp_path)


def test_a_mistake_is_one_line_and_leaves_an_earlier_run_alone(quickstart, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "check_last_steps", lambda out: None)  # not what is tested
    out = tmp_path / "out"

    def stopped(*arguments) -> SystemExit:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            run_program(quickstart.main)
        return exit.value

    ended = stopped("--annotation", tmp_path / "none.json", "--images", tmp_path, "--out", out)
    assert ended.code.startswith("error: ") and "none.json: no such annotation file" in ended.code
    (out / "settings.json").write_text("{}")
    assert "holds a run with other settings" in stopped("--out", out).code
    assert (out / "settings.json").read_text() == "{}"
    assert stopped("--annotation", tmp_path / "none.json").code == 2
    assert "--annotation and --images belong together" in capsys.readouterr().err
    for name in ("--repeat_abnormal", "--rounds"):
        assert stopped(name, 0).code == 2
        assert f"{name} needs at least 1" in capsys.readouterr().err
