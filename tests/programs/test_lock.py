"""requirements.lock: it names all that is installed, and nothing that the requirements or a range do not allow."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("lock", ROOT / "scripts/lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def wanted(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def disagreements(requirements: list[Requirement]) -> list[str]:
    locked = pins()
    return [
        f"{each} (locked: {locked.get(canonicalize_name(each.name))})"
        for each in requirements
        if not each.specifier.contains(locked.get(canonicalize_name(each.name), "0"), prereleases=True)
    ]


def test_the_running_environment_holds_what_the_lock_names(program):
    if not Path(sys.prefix, "installed.txt").is_file():
        pytest.skip(f"scripts/environment.sh did not make {sys.prefix}")
    others = sorted(f"{name}=={version}" for name, version in program.installed() - set(pins().items()))
    assert not others, (
        "not in requirements.lock: install again (scripts/environment.sh) or lock again (scripts/lock.sh)"
    )


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_and_lock_agree(name):
    requirements = wanted(name)
    assert requirements and not disagreements(requirements), "bash scripts/lock.sh"


@pytest.mark.parametrize("folder", ["train", "eval/lmms-eval"])
def test_every_range_of_our_own_packages_holds_its_pin(folder):
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].items()
    extras = {name: part for name, part in optional if name not in ("clinical", "speech")}  # not installed by us
    texts = project["project"]["dependencies"] + sum(extras.values(), []) + project["build-system"]["requires"]
    assert not disagreements([Requirement(text) for text in texts])


def test_what_breaks_transformers_without_a_gpu_is_in_no_file_that_pip_resolves():
    names = {canonicalize_name(each.name) for each in wanted("requirements.txt")}
    assert not {"torchvision", "timm", "open-clip-torch", "lmms-eval"} & names


def test_a_lock_names_what_is_there_and_what_builds_took(program):
    log = "T1   Successfully installed setuptools-84.2.1\nT2 Successfully installed Jinja2-3.1.6 llada_v_qwen-0.1.0\n"
    found = program.logged(log) | program.lockable([("torch", "2.13.0+cpu")])
    lines = [line for line in program.lock(found).splitlines() if not line.startswith("#")]
    assert lines == ["jinja2==3.1.6", "setuptools==84.2.1", "torch==2.13.0"]
    assert program.for_gpus() <= set(pins().items())


def test_two_versions_of_one_distribution_are_refused(program):
    with pytest.raises(ValueError, match="two versions of numpy"):
        program.lock({("numpy", "1"), ("numpy", "2"), ("torch", "2")})
