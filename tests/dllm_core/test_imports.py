"""The direction of imports, read from the source of the packages."""

import ast
import re
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[2] / "train"


def imports_of(file: Path) -> set[str]:
    """Full names of all modules that a file imports, anywhere in it."""
    package = list(file.relative_to(TRAIN).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def offences(folder: str, *forbidden: str) -> list[str]:
    """Imports below `folder` of one of the forbidden packages."""
    files = sorted((TRAIN / folder).rglob("*.py"))
    assert files, f"nothing in {folder}"
    return [
        f"{file.relative_to(TRAIN)} imports {name}"
        for file in files
        for name in sorted(imports_of(file))
        if any(name == package or name.startswith(package + ".") for package in forbidden)
    ]


FLOOR = ("dllm/core", "dllm/training", "dllm/inference", "dllm/data")


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("dllm", ("llava", "diffa")),
        ("dllm/core", ("dllm.training", "dllm.inference", "dllm.data", "dllm.pipelines")),
        *((folder, ("dllm.pipelines", "dllm.evaluation", "dllm.web")) for folder in FLOOR),
        ("dllm/web", ("dllm.pipelines", "dllm.evaluation", "dllm.training")),
        ("dllm/pipelines", ("dllm.evaluation",)),
        ("llava", ("diffa",)),
        ("diffa", ("llava",)),
        ("diffa/model", ("diffa.phantom", "diffa.evaluation", "diffa.train")),
        ("diffa/evaluation", ("diffa.phantom", "diffa.train")),
        ("llava/data", ("llava.radiology", "llava.phantom", "llava.train")),
        ("llava/model", ("llava.radiology", "llava.phantom", "llava.train")),
        ("llava/radiology", ("llava.phantom", "llava.train")),
    ],
)
def test_the_direction_of_imports(folder, forbidden):
    assert offences(folder, *forbidden) == []


@pytest.mark.parametrize("folder", FLOOR)
def test_the_floor_does_not_speak_of_what_stands_on_it(folder):
    words = re.compile(r"image|report(?!_to)|radiolog|film|x-?ray", re.IGNORECASE)
    lines = ((file, line) for file in (TRAIN / folder).rglob("*.py") for line in file.read_text().splitlines())
    assert [f"{file.name}: {line}" for file, line in lines if words.search(line)] == []


def test_the_packages_import_no_tests_or_programs():
    for package in ("dllm", "llava"):
        assert offences(package, "oracles", "tests", "convert_data", "generate_demo", "lmms_eval") == []


def test_every_kind_of_import_is_found(tmp_path, monkeypatch):
    """The reader itself: absolute, relative, aliased, and inside a function."""
    monkeypatch.setitem(globals(), "TRAIN", tmp_path)
    file = tmp_path / "dllm" / "core" / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text("def f():\n    import llava.model as m\nfrom ..pipelines import a2d\nfrom dllm import data\n")
    assert {"llava.model", "dllm.pipelines", "dllm.pipelines.a2d", "dllm.data"} <= imports_of(file)
    assert len(offences("dllm", "llava", "dllm.pipelines.a2d", "dllm.data")) == 3
