"""Inputs and faults of the kinds that made programs lie, hang or end in a traceback: a file a kind."""

import os
import sys
from pathlib import Path

import pytest

from dllm.program import run_program
from evaluation.conftest import data  # noqa: F401, a fixture
from faults.checkpoints import arguments
from oracles.tiny import build_trainer, widen


@pytest.fixture(scope="session")
def model(world, tmp_path_factory) -> Path:
    """A whole checkpoint. Tests must not change its files."""
    folder = tmp_path_factory.mktemp("faults") / "model"
    parts = world.build(mm_resampler_type="none")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finished(world, tmp_path_factory) -> Path:
    """An output folder with checkpoints of three steps. Tests must not change its files."""
    out = tmp_path_factory.mktemp("finished") / "run"
    build_trainer(arguments(world, out)).train()
    return out


@pytest.fixture
def line(monkeypatch, capsys):
    """What a program says when it ends with status 1: the one line, and nothing of a traceback."""

    def line(main, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_program(main)
        assert isinstance(end.value.code, str) and end.value.code.startswith("error: "), end.value.code
        assert "\n" not in end.value.code and "this is a bug" not in end.value.code
        assert "Traceback" not in capsys.readouterr().err
        return end.value.code

    return line


@pytest.fixture
def as_nobody():
    """A test of permissions, which root would pass: it runs as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)
