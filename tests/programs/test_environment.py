"""scripts/environment.sh: it names what is missing, installs once, and starts again after an interruption.

pip itself is replaced by a stub that writes down its arguments, so nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
HASHED = ["requirements.txt", "scripts/environment.sh", "train/pyproject.toml", "eval/lmms-eval/pyproject.toml"]
STUB_PYTHON = """#!/bin/sh
[ "$1" = -m ] || exit 0
echo "$@" >> {log}
exit $(cat {status})
"""


class Checkout:
    """A copy of the files that environment.sh reads, with a stub environment beside it."""

    def __init__(self, folder):
        self.root, self.venv, self.log = folder / "a checkout", folder / "venv", folder / "pip.log"
        self.status = folder / "status"
        for name in HASHED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        self.site = self.venv / "lib/python3.11/site-packages"
        self.site.mkdir(parents=True)
        (self.venv / "bin").mkdir()
        (self.venv / "bin/activate").write_text("export ACTIVATED=yes\n")
        (self.venv / "bin/python").write_text(STUB_PYTHON.format(log=self.log, status=self.status))
        (self.venv / "bin/python").chmod(0o755)
        self.status.write_text("0")

    def source(self, **environment):
        """Source environment.sh as the scripts do; returns the finished process."""
        script = 'set -euo pipefail; source scripts/environment.sh; echo "activated: $ACTIVATED"'
        environment = os.environ | {"VENV": str(self.venv)} | environment
        return subprocess.run(
            [shutil.which("bash"), "-c", script], cwd=self.root, env=environment, capture_output=True, text=True
        )

    def pip_calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_installs_once_and_again_when_the_pins_change(checkout):
    first = checkout.source()
    assert first.returncode == 0 and first.stdout.endswith("activated: yes\n"), first.stderr
    pinned, in_place, towers = checkout.pip_calls()
    assert pinned.endswith(f"install -r {checkout.root}/requirements.txt")
    assert "--no-deps lmms_eval==0.7.3" in in_place and f"-e {checkout.root}/train" in in_place
    assert f"--no-deps --upgrade --target {checkout.venv}/towers open_clip_torch==" in towers

    assert checkout.source().stdout == "activated: yes\n"
    assert len(checkout.pip_calls()) == 3

    with open(checkout.root / "requirements.txt", "a") as file:
        file.write("another==1.0\n")
    assert checkout.source().returncode == 0
    assert len(checkout.pip_calls()) == 6


def test_failed_installation_fails_and_is_tried_again(checkout):
    checkout.status.write_text("1")
    failed = checkout.source()
    assert failed.returncode == 1 and "activated" not in failed.stdout
    checkout.status.write_text("0")
    assert checkout.source().returncode == 0
    assert len(checkout.pip_calls()) == 4  # one that failed, then the three of a whole installation


def test_package_that_pip_left_half_installed_is_forgotten(checkout):
    for name in ("whole-1.0.dist-info", "half-1.0.dist-info"):
        (checkout.site / name).mkdir()
        (checkout.site / name / "METADATA").write_text("Name: x\n")
    (checkout.site / "whole-1.0.dist-info/RECORD").write_text("")
    assert checkout.source().returncode == 0
    assert [path.name for path in checkout.site.iterdir()] == ["whole-1.0.dist-info"]


def test_each_missing_tool_is_one_line_with_its_package(checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    done = checkout.source(PATH=str(tools))
    assert done.returncode == 1 and done.stdout == "" and checkout.pip_calls() == []
    python, compiler, java = done.stderr.splitlines()
    assert python == "error: Python 3.11 or newer is missing: apt-get install python3.11 python3-venv"
    assert "g++" in compiler and compiler.endswith("apt-get install g++")
    assert "Java" in java and java.endswith("apt-get install openjdk-17-jre-headless")


def test_python_without_venv_and_headers_is_named(checkout, tmp_path):
    stub = tmp_path / "stub/python3"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 0;; *) exit 1;; esac\n')
    stub.chmod(0o755)
    done = checkout.source(PATH=f"{stub.parent}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert re.findall("apt-get install (.*)", done.stderr) == ["python3-venv", "python3-dev"]


def test_every_range_holds_its_pin():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert not {"torchvision", "timm", "open_clip_torch", "lmms_eval", "lmms-eval"} & set(pins)
    (towers,) = re.findall(r"^TOWERS=\((.*)\)", (ROOT / "scripts/environment.sh").read_text(), re.MULTILINE)
    pins |= dict(pin.split("==") for pin in towers.split())
    project = tomllib.loads((ROOT / "train/pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + sum(project["optional-dependencies"].values(), []):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[wanted.name]), text
