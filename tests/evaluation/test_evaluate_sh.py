"""evaluate.sh: it looks before it launches, and it never reports success without complete scores.

The Python it starts is a stub that stands for the launcher and lmms_eval; only the check of the results is real.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EVALUATE = Path(__file__).resolve().parents[2] / "eval" / "scripts" / "evaluate.sh"
METRICS = ("BLEU_1", "BLEU_4", "METEOR", "ROUGE_L")
STUB = """#!/bin/bash
case "$*" in
    *device_count*) echo {gpus} ;;
    "-m report_results"*) exec {python} "$@" ;;
    "-m accelerate"*)
        printf '%s\\n' "$@" > {folder}/launched
        while [ $# -gt 0 ]; do [ "$1" = --output_path ] && run="$2"; shift; done
        {lmms_eval}
        ;;
esac
"""


def results(*left_out: str) -> str:
    """Shell that writes a results file without some scores."""
    names = [f"{row}{metric}" for row in ("", "shuffled_images_", "constant_report_") for metric in METRICS]
    scores = ", ".join(f'"{name},none": 0.25' for name in names if name not in left_out)
    return f"""mkdir "$run/m"; echo '{{"results": {{"mimic_cxr": {{{scores}}}}}}}' > "$run/m/1_results.json" """


COMPLETE = results()


@pytest.fixture
def evaluate(data, tmp_path):
    """Run evaluate.sh from another folder on one whole checkpoint; keywords are environment variables."""
    model = tmp_path / "a model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")

    def run(*models, lmms_eval=COMPLETE, gpus=0, **environment):
        stub = tmp_path / "python"
        stub.write_text(STUB.format(python=sys.executable, folder=tmp_path, lmms_eval=lmms_eval, gpus=gpus))
        stub.chmod(0o755)
        environment = {
            "PYTHON": str(stub),
            "OUTPUT_PATH": str(tmp_path / "results"),
            "MODEL_PATH": "a model",
        } | environment
        return subprocess.run(
            [shutil.which("bash"), EVALUATE, *models],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    run.launched = tmp_path / "launched"
    run.model = model
    return run


def test_complete_scores_are_printed_as_a_table(evaluate):
    done = evaluate()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-3:]] == [
        "model",
        "shuffled_images",
        "constant_report",
    ]
    assert "-m lmms_eval --model llava_oneversion_qwen" in done.stdout


def test_every_model_given_is_scored(evaluate):
    shutil.copytree(evaluate.model, evaluate.model.parent / "second")
    done = evaluate("a model", "second")
    assert done.returncode == 0 and done.stdout.count("constant_report") == 2


@pytest.mark.parametrize(
    "lmms_eval", ["true", "exit 3", results("METEOR"), results("constant_report_BLEU_4") + "; true"]
)
def test_missing_scores_fail_though_lmms_eval_succeeds(evaluate, lmms_eval):
    assert evaluate().returncode == 0  # results of an earlier run lie beside
    done = evaluate(lmms_eval=lmms_eval)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: no complete scores for a model"


def test_one_failing_model_fails_the_script_and_the_others_are_scored(evaluate):
    shutil.copytree(evaluate.model, evaluate.model.parent / "second")
    done = evaluate("a model", "second", lmms_eval=f"if ! [ -e once ]; then touch once; else {COMPLETE}; fi")
    assert done.returncode == 1 and done.stderr.endswith("error: no complete scores for a model\n")
    assert done.stdout.count("constant_report") == 1


def test_the_reason_is_repeated_at_the_end(evaluate):
    done = evaluate(lmms_eval="echo 'error: unknown dtype' >&2; echo a long table; exit 1")
    assert done.stderr.splitlines()[-2:] == ["error: unknown dtype", "error: no complete scores for a model"]


@pytest.mark.parametrize(
    "gpus, processes, expected",
    [
        (0, None, ["--num_processes 1", "--cpu"]),
        (0, "2", ["--num_processes 2", "--multi_gpu"]),
        (1, None, ["--num_processes 1"]),
        (4, None, ["--num_processes 4", "--multi_gpu"]),
        (4, "1", ["--num_processes 1"]),
    ],
)
def test_number_of_processes(evaluate, gpus, processes, expected):
    done = evaluate(gpus=gpus, **({"NUM_PROCESSES": processes} if processes else {}))
    assert done.returncode == 0, done.stderr
    launched = " ".join(evaluate.launched.read_text().split("\n"))
    assert all(flag in launched for flag in expected)
    assert ("--cpu" in launched) == ("--cpu" in expected)
    assert ("--multi_gpu" in launched) == ("--multi_gpu" in expected)
    assert ("ACCELERATE_USE_CPU=true" in done.stdout) == (gpus == 0 and processes == "2")


def test_settings_reach_lmms_eval(evaluate):
    done = evaluate(LIMIT="3", GEN_KWARGS="gen_length=64,threshold=0.9", BATCH_SIZE="4", DTYPE="bfloat16")
    assert done.returncode == 0, done.stderr
    launched = evaluate.launched.read_text().splitlines()
    settings = dict(zip(launched, launched[1:], strict=False))
    assert settings["--limit"] == "6"  # three studies and their twins
    assert settings["--gen_kwargs"] == "gen_length=64,threshold=0.9"
    assert settings["--batch_size"] == "4"
    assert settings["--model_args"] == "pretrained=a model,conv_template=qwen,dtype=bfloat16"


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"MODEL_PATH": "no model"}, "no model: no config.json"),
        ({"MIMIC_CXR_DATA": "nowhere"}, "nowhere/test_llava_llada.json: no such file"),
        ({"MIMIC_CXR_IMAGES": "nowhere"}, "nowhere: no such image folder"),
        ({"GEN_KWARGS": '{"temperature": 0}'}, "write k=v,k=v"),
        ({"LIMIT": "0.5"}, "LIMIT=0.5: give a whole number"),
        ({"NUM_PROCESSES": "0"}, "NUM_PROCESSES=0: give a whole number"),
        ({"PYTHON": "/nowhere/python"}, "/nowhere/python"),
    ],
)
def test_what_is_missing_is_one_line_before_the_launch(evaluate, environment, message):
    done = evaluate(**environment)
    assert done.returncode == 1 and not evaluate.launched.exists()
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_weights_and_training_reports_are_looked_for(evaluate, data):
    (data / "train_llava_llada.json").unlink()
    assert "train_llava_llada.json: no such file" in evaluate().stderr
    (evaluate.model / "model.safetensors").unlink()
    assert "a model: no weights" in evaluate().stderr


def test_java_is_looked_for(evaluate, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    done = evaluate(PATH=str(tools))
    assert (
        done.returncode == 1 and done.stderr == "error: METEOR needs Java: install it (apt: openjdk-17-jre-headless)\n"
    )
