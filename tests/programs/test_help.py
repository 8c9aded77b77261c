"""Every program and script answers --help: what it is for, an example, every option; at once, and starting nothing.

They are found by looking, so that none can be forgotten; tests and benchmarks are not users' programs.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from dllm.program import has_no_default

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in (".", "scripts", "examples", "train", "eval")
    for path in sorted((ROOT / folder).glob("*" if folder == "." else "**/*"))
    if path.suffix in (".py", ".sh") and not {"build", "exp", ".venv"} & set(path.relative_to(ROOT).parts)
]
PROGRAMS = [name for name in FILES if name.endswith(".py") and '__name__ == "__main__"' in (ROOT / name).read_text()]
SCRIPTS = [name for name in FILES if name.endswith(".sh") and (ROOT / name).read_text().startswith("#!")]
# Whose options need neither torch nor transformers, whose import takes seconds.
LIGHT = ["generate_demo.py", "demo_web.py", "convert_data.py", "train/llava/distill.py", "train/dllm/launch.py"]
KINDS = r"quickstart|examples/(sample|chat|diffa/(inference|mm))|diffa/evaluation"
LIGHT += [name for name in PROGRAMS if re.search(KINDS, name)]


def test_all_are_found():
    assert {"generate_demo.py", "train/llava/train/train.py", "scripts/quickstart.py"} <= {*PROGRAMS}
    assert {"train/scripts/llada_v_pretrain.sh", "scripts/train.slurm.sh", "eval/scripts/evaluate.sh"} <= {*SCRIPTS}


def parser_of(program: str, monkeypatch, flag: str = "--help") -> argparse.ArgumentParser:
    """The parser that answers, in this process."""
    seen = []
    monkeypatch.setattr(argparse.ArgumentParser, "print_help", lambda self, file=None: seen.append(self))
    monkeypatch.setattr(sys, "argv", [str(ROOT / program), flag])
    monkeypatch.setattr(sys, "path", [str(ROOT), str(ROOT / "scripts"), *sys.path])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    assert exit.value.code in (None, 0)
    return seen[0]


@pytest.mark.parametrize("program", sorted({*PROGRAMS} - {"train/dllm/evaluation/__main__.py"}))  # lm_eval's own
def test_a_program_tells_its_purpose_an_example_and_every_option(program, monkeypatch):
    parser = parser_of(program, monkeypatch)
    name = Path(program).parent.name if program.endswith("__main__.py") else Path(program).stem
    name = {"train": "train_mem"}.get(name, name)
    assert re.search(rf"\b{name}\b|quickstart\.sh|evaluate\.sh", parser.description), "no example"
    for action in parser._actions:
        assert action.help, f"{action.option_strings or action.dest} has no help"
        if not has_no_default(action.default):
            assert "default" in parser._get_formatter()._get_help_string(action), action.option_strings


def without_torch(program: str, *arguments: str) -> subprocess.CompletedProcess:
    """A program where the imports that take seconds fail."""
    code = "import runpy, sys; sys.modules['torch'] = sys.modules['transformers'] = None; sys.argv = sys.argv[1:]; "
    code += "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code, ROOT / program, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("program", LIGHT)
def test_help_does_not_wait_for_torch(program):
    done = without_torch(program, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


MISTAKES = {
    "generate_demo.py --image none.png": "none.png: no such image file",
    "generate_demo.py --threshold 2": "threshold must be in (0, 1], not 2.0",
    "generate_demo.py --images none --out reports.jsonl": "none: no such image folder",
    "demo_web.py --threshold 2": "threshold must be in (0, 1], not 2.0",
    "demo_web.py --model_path none": "model folder none does not exist",
    "examples/sample.py --model_name_or_path none --prompt x --factor -1": "factor must be a number above 0, not -1.0",
    "train/llava/distill.py --model_path x --data_path none.json --image_folder x --out y": "none.json",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_does_not_wait_for_torch(line):
    done = without_torch(*line.split())
    assert done.returncode == 1
    (told,) = done.stderr.splitlines()
    assert told.startswith("error: ") and MISTAKES[line] in told


def test_training_tells_its_own_options_first_and_transformers_on_demand(monkeypatch):
    parser = parser_of("train/llava/train/train.py", monkeypatch)
    options = re.findall(r"^  --(\w+)", parser.format_help(), re.MULTILINE)
    assert options.index("mm_resampler_type") < options.index("noise_estimator") < options.index("learning_rate")
    assert "hub_token" not in options and len(options) < 80
    whole = parser_of("train/llava/train/train.py", monkeypatch, "--help_all").format_help()
    assert "--hub_token" in whole and set(options) <= set(re.findall(r"--(\w+)", whole))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_tells_its_head_and_starts_nothing(script, tmp_path):
    started = tmp_path / "started"
    for name in ("python", "python3", "torchrun", "accelerate", "srun"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {started}\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", script, "--help"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and not started.exists()
    comments = re.match(r"#!.*\n(?:#SBATCH.*\n)*((?:#.*\n)+)", (ROOT / script).read_text())[1]
    assert done.stdout.startswith(re.sub(r"(?m)^# ?", "", comments))
    assert re.search(rf"^    .*{Path(script).name}", done.stdout, re.MULTILINE), "no example"


STAGES = [name for name in SCRIPTS if re.search(r"llada_v_\w+\.sh|train_stage\d\.sh", name)]
SOURCED = {"train": ["train/scripts/stage.sh"], "examples": ["examples/diffa/stage.sh"]}


@pytest.mark.parametrize("script", STAGES)
def test_a_stage_script_tells_every_variable_with_its_default(script):
    told = subprocess.run(["bash", ROOT / script, "--help"], capture_output=True, text=True).stdout
    sources = [script, *SOURCED[script.split("/")[0]], "train/scripts/launch.sh"]
    code = "".join(re.sub(r"(?m)^#.*", "", (ROOT / name).read_text()) for name in sources)
    lines = {name: line for line in told.splitlines() for name in re.findall(r"\b[A-Z][A-Z0-9_]+\b", line[:33])}
    wanted = set(re.findall(r"\$\{([A-Z]\w+):?[-+]", code)) - {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
    wanted -= {"PRETRAIN_MM_MLP_ADAPTER"} if "pretrain" in script else set()  # of stage 2
    assert wanted <= set(lines), wanted - set(lines)
    defaults = dict(re.findall(r"\$\{([A-Z0-9_]+):?-([^}$]+)\}", "".join(reversed(code.splitlines(True)))))
    for name in wanted & set(defaults) - {"CUDA_VISIBLE_DEVICES", "BF16", "TF32"}:
        shown = told if script.startswith("examples") else lines[name]
        assert defaults[name] in shown, (name, defaults[name], lines[name])
