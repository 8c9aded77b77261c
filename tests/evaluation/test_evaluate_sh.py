"""evaluate.sh: it looks before it launches, goes on where it was stopped, and never reports success without complete
scores.

The Python it starts is a stub that stands for the launcher and lmms_eval; what reads the results is real.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oracles.report_runs import write_run

EVALUATE = Path(__file__).resolve().parents[2] / "eval" / "scripts" / "evaluate.sh"
TEXTS = {"model": ["Clear.", "Small effusion.", "No."], "shuffled_images": ["Clear.", "No.", "No."]}
STUB = """#!/bin/bash
case "$*" in
    *device_count*) echo {gpus} ;;
    "-m report_scores "*|"-m dllm.launch "*) exec {python} "$@" ;;
    "-m accelerate"*)
        printf '%s\\n' "$@" >> {folder}/launched
        while [ $# -gt 0 ]; do [ "$1" = --output_path ] && run="$2"; shift; done
        {lmms_eval}
        ;;
esac
"""

PAGE = "/reports.html: 3 studies"
COMPLETE = 'cp -r ../complete/. "$run"'


def finished(script: subprocess.Popen) -> subprocess.CompletedProcess:
    """What a script has said, once it has ended."""
    output, errors = script.communicate()
    return subprocess.CompletedProcess(script.args, script.returncode, output, errors)


@pytest.fixture
def evaluate(data, tmp_path, monkeypatch):
    """Run evaluate.sh from another folder on one whole checkpoint; keywords are environment variables."""
    work = tmp_path / "work"
    model = work / "a model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    write_run(tmp_path / "complete", TEXTS)
    (data / "images" / "train" / "study 0.png").unlink()  # a baseline less, for which Java would have to start

    def run(*models, lmms_eval=COMPLETE, gpus=0, wait=True, **environment):
        stub = tmp_path / "python"
        stub.write_text(STUB.format(python=sys.executable, folder=tmp_path, lmms_eval=lmms_eval, gpus=gpus))
        stub.chmod(0o755)
        environment = {
            "PYTHON": str(stub),
            "OUTPUT_PATH": str(tmp_path / "results"),
            "MODEL_PATH": "a model",
        } | environment
        script = subprocess.Popen(
            [shutil.which("bash"), EVALUATE, *models],
            cwd=work,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return finished(script) if wait else script

    run.launched = tmp_path / "launched"
    run.model = model
    run.results = tmp_path / "results"
    run.complete = tmp_path / "complete"
    return run


def test_complete_scores_are_printed_as_a_table_and_a_run_is_not_repeated(evaluate):
    done = evaluate()
    assert done.returncode == 0, done.stderr
    assert "-m lmms_eval --model llava_oneversion_qwen" in done.stdout
    [run] = evaluate.results.iterdir()
    assert (run / "scores.md").read_text() in done.stdout and (run / "scores.json").exists()
    assert "nearest_image is left out: " in done.stdout and "study 0.png" in done.stdout
    assert done.stdout.endswith(f"{run}/reports.html: 3 studies, 3 images\n") and "finding_F1" not in done.stdout

    again = evaluate(NUM_PROCESSES="2", BATCH_SIZE="3", FINDING_F1="1")  # none of them changes a report
    assert again.returncode == 0, again.stderr
    assert len(evaluate.launched.read_text().split("--model_args")) == 2
    assert again.stdout.startswith(f"a model: complete in {run}\n") and "finding_F1" in again.stdout
    (evaluate.model / "model.safetensors").write_bytes(b"other weights")
    assert evaluate().returncode == 0
    assert len(evaluate.launched.read_text().split("--model_args")) == 3 and len(list(evaluate.results.iterdir())) == 2


@pytest.mark.parametrize("as_arguments", [True, False])
def test_every_model_given_is_scored_and_compared(evaluate, as_arguments):
    shutil.copytree(evaluate.model, evaluate.model.parent / "first")
    shutil.copytree(evaluate.model, evaluate.model.parent / "second")
    done = evaluate("first", "second") if as_arguments else evaluate(MODEL_PATHS="first\n second ")
    assert done.returncode == 0, done.stderr
    pages = [Path(line.split(":")[0]) for line in done.stdout.splitlines() if PAGE in line]
    assert [page.parent.name.split("_")[0] for page in pages] == ["first", "second"]
    assert "# Checkpoints compared" in done.stdout
    assert (evaluate.results / "comparison.md").exists() and (evaluate.results / "comparison.json").exists()


def test_an_interrupted_run_goes_on_in_its_folder(evaluate):
    assert evaluate(lmms_eval='mkdir "$run/reports"; exit 143').returncode == 1
    [run] = evaluate.results.iterdir()
    done = evaluate(lmms_eval=f'[ -d "$run/reports" ] && {COMPLETE}')
    assert done.returncode == 0, done.stderr
    assert list(evaluate.results.iterdir()) == [run]
    assert f"reports={run}/reports" in evaluate.launched.read_text()


@pytest.mark.parametrize(
    ("lmms_eval", "cause"),
    [
        ("true", "no results; the output of lmms_eval says why"),
        (COMPLETE + "; exit 3", "ended without a word, with status 3"),
        (COMPLETE + '; rm "$run"/*/*.jsonl', "no generated reports"),
    ],
)
def test_missing_scores_fail_though_lmms_eval_succeeds(evaluate, lmms_eval, cause):
    done = evaluate(lmms_eval=lmms_eval)
    assert done.returncode == 1
    assert cause in done.stderr.splitlines()[-1]


def test_a_score_that_is_missing_is_named(evaluate):
    [file] = evaluate.complete.glob("*/*_results.json")
    file.write_text(file.read_text().replace('"METEOR,none"', '"other"'))
    done = evaluate()
    assert done.returncode == 1 and "no score for METEOR of task mimic_cxr" in done.stderr


def test_one_failing_model_fails_the_script_and_the_others_are_scored(evaluate):
    shutil.copytree(evaluate.model, evaluate.model.parent / "second")
    done = evaluate("a model", "second", lmms_eval=f"if ! [ -e once ]; then touch once; else {COMPLETE}; fi")
    assert done.returncode == 1 and done.stderr.endswith("error: no complete scores for a model; see above\n")
    assert done.stdout.count(PAGE) == 1


def test_a_page_that_fails_fails_the_script(evaluate):
    done = evaluate(lmms_eval=COMPLETE + '; mkdir "$run/.reports.html.partial"')
    assert done.returncode == 1 and done.stderr.endswith(".reports.html.partial: cannot be written (Is a directory)\n")


def test_the_reason_is_repeated_at_the_end(evaluate):
    done = evaluate(
        lmms_eval="printf 'bar 10%%'; echo 'error: unknown dtype' | tee $ERROR_FILE >&2; echo a table; exit 1"
    )
    assert done.stderr.splitlines()[-1] == "error: unknown dtype" and "a table" not in done.stdout
    [run] = evaluate.results.iterdir()
    assert "a table" in (run / "output.log").read_text()


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
    done = evaluate(gpus=gpus, lmms_eval="exit 1", **({"NUM_PROCESSES": processes} if processes else {}))
    launched = " ".join(evaluate.launched.read_text().split("\n"))
    assert all(flag in launched for flag in expected)
    assert ("--cpu" in launched) == ("--cpu" in expected)
    assert ("--multi_gpu" in launched) == ("--multi_gpu" in expected)
    assert ("ACCELERATE_USE_CPU=true" in done.stdout) == (gpus == 0 and processes == "2")


def test_settings_reach_lmms_eval(evaluate):
    more = {"GEN_KWARGS": "gen_length=64,threshold=0.9", "BATCH_SIZE": "4", "DTYPE": "bfloat16"}
    evaluate(LIMIT="3", lmms_eval="exit 1", **more)
    launched = evaluate.launched.read_text().splitlines()
    settings = dict(zip(launched, launched[1:], strict=False))
    assert settings["--limit"] == "6"  # three studies and their twins
    assert settings["--gen_kwargs"] == "gen_length=64,threshold=0.9"
    assert settings["--batch_size"] == "4"
    [run] = evaluate.results.iterdir()
    reports = f"{run}/reports"
    assert settings["--model_args"] == f"pretrained=a model,conv_template=qwen,dtype=bfloat16,reports={reports}"
    assert settings["--output_path"] == str(run)


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


def test_a_signal_to_the_script_alone_ends_the_evaluation(evaluate, tmp_path):
    """It went on unseen, and the next start wrote beside it. What holds the output open is ended too."""
    waits = f"echo $$ > {tmp_path}/pid; sleep 300"
    script = evaluate(lmms_eval=waits, wait=False)
    for _ in range(3000):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    script.send_signal(signal.SIGTERM)
    _, errors = script.communicate(timeout=60)
    assert script.returncode == 143 and errors.splitlines()[-1] == "error: stopped by SIGTERM; start again to go on"
    assert not Path(f"/proc/{pid}").exists()
