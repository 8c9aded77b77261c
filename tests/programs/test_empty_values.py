"""An empty value, of a shell variable that is not set, is an error that names the flag or variable in every program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dllm.program import check_no_empty_argument, run_program
from llava import distill
from llava.model import tiny
from llava.train import pretrain_tower

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
PROGRAMS = {
    "demo image": (["generate_demo.py"], "--image"),
    "convert": (["convert_data.py"], "--annotation"),
    "quickstart": (["scripts/quickstart.py"], "--out"),
    "phantom": (["-m", "llava.phantom.generate", "--train", "1"], "--out"),
    "training": (["train/llava/train/train_mem.py", "--output_dir", "x"], "--vision_tower"),
}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_empty_flag_is_named(name):
    program, flag = PROGRAMS[name]
    done = run(PYTHON, *program, flag, "")
    last = done.stderr.strip().split("\n")[-1]
    assert done.returncode == 1 and f"error: {flag} is empty" in last, done.stderr


@pytest.mark.parametrize("main", [tiny.main, distill.main, pretrain_tower.main])
def test_an_empty_flag_of_a_module_is_named(main, monkeypatch):
    names = ("--model_path", "--vision_tower", "--data_path", "--image_folder", "--out")
    monkeypatch.setattr(sys, "argv", ["program", *(part for name in names for part in (name, ""))])
    with pytest.raises(SystemExit, match="error: --model_path is empty"):
        run_program(main)


@pytest.mark.parametrize("script", ["llada_v_pretrain.sh", "llada_v_finetune.sh"])
@pytest.mark.parametrize("name", ["LM_PATH", "OUTPUT_DIR", "LEARNING_RATE"])
def test_an_empty_variable_of_a_stage_is_named(script, name):
    done = run("bash", f"train/scripts/{script}", "1", "1", VISION_TOWER="", DEEPSPEED="", **{name: ""})
    assert done.returncode == 1 and f"{name} is empty" in done.stderr.strip().split("\n")[-1], done.stderr


@pytest.mark.parametrize("name", ["MODEL_PATH", "MODEL_PATHS", "MIMIC_CXR_DATA", "LIMIT", "OUTPUT_PATH", "PYTHON"])
def test_an_empty_variable_of_the_evaluation_is_named(name):
    done = run("bash", "eval/scripts/evaluate.sh", **{name: ""})
    expected = f"error: {name} is empty; give it a value, or unset it for its default\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_an_empty_checkpoint_of_the_evaluation_is_named():
    done = run("bash", "eval/scripts/evaluate.sh", "")
    assert done.returncode == 1 and done.stderr.startswith("error: an argument is empty")


def test_an_empty_setting_of_the_quickstart_is_named():
    done = run(PYTHON, "scripts/quickstart.py", ATTENTION_PATTERN="")
    assert done.returncode == 2 and "ATTENTION_PATTERN is empty" in done.stderr


@pytest.mark.parametrize("arguments", [["--a", "b", "--image", ""], ["--image="], ["--image", "", "--a", "b"]])
def test_each_form_of_an_empty_value_is_named(arguments):
    with pytest.raises(ValueError, match="^--image is empty"):
        check_no_empty_argument(arguments)


def test_what_is_not_empty_passes():
    check_no_empty_argument(["--image", "a.png", "--template", " ", "--tf32=False", "x=", "--out", "="])
