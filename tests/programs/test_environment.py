"""scripts/environment.sh: it names what is missing, installs once, and starts again after an interruption.

pip itself is replaced by a stub that writes down its arguments, so nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
HASHED = [*REQUIREMENTS, "requirements.lock", "scripts/environment.sh"]
HASHED += ["train/pyproject.toml", "eval/lmms-eval/pyproject.toml"]
LOCKED = "-c requirements.lock --build-constraint requirements.lock"
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


def test_installs_once_and_only_what_the_lock_names(checkout):
    first = checkout.source()
    assert first.returncode == 0 and first.stdout.endswith("activated: yes\n"), first.stderr
    pip, pinned, in_place, towers = checkout.pip_calls()
    assert pip.endswith("install --upgrade -c requirements.lock pip setuptools")
    assert pinned.endswith(f"install {LOCKED} -r requirements.txt")
    assert in_place.endswith(f"{LOCKED} --no-deps -r requirements-no-deps.txt -e ./train -e ./eval/lmms-eval")
    assert towers.endswith(f"{LOCKED} --no-deps --target {checkout.venv}/towers -r requirements-towers.txt")

    assert checkout.source().stdout == "activated: yes\n"
    assert len(checkout.pip_calls()) == 4


@pytest.mark.parametrize("name", [*REQUIREMENTS, "requirements.lock"])
def test_installs_again_when_a_version_changes(checkout, name):
    assert checkout.source().returncode == 0
    (checkout.venv / "towers/timm-0.9.dist-info").mkdir(parents=True)
    with open(checkout.root / name, "a") as file:
        file.write("another==1.0\n")
    assert checkout.source().returncode == 0
    assert len(checkout.pip_calls()) == 8
    assert not (checkout.venv / "towers").exists()  # pip would leave an older version's traces there


def test_failed_installation_fails_and_is_tried_again(checkout):
    checkout.status.write_text("1")
    failed = checkout.source()
    assert failed.returncode == 1 and "activated" not in failed.stdout
    checkout.status.write_text("0")
    assert checkout.source().returncode == 0
    assert len(checkout.pip_calls()) == 5  # one that failed, then the four of a whole installation


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


def test_the_active_environment_of_a_cluster_gets_the_versions_of_the_lock_too(tmp_path):
    stub = tmp_path / "python"
    stub.write_text(STUB_PYTHON.format(log=tmp_path / "pip.log", status=tmp_path / "status"))
    stub.chmod(0o755)
    (tmp_path / "status").write_text("0")
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", ROOT / "train/init_env.sh"], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    lock = "../requirements.lock"
    assert (tmp_path / "pip.log").read_text().splitlines() == [
        f"-m pip install --upgrade -c {lock} pip",
        f"-m pip install -c {lock} --build-constraint {lock} -e .[train]",
    ]
