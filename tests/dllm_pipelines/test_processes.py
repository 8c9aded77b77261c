"""Every decoder family in two processes: DDP, ZeRO-3 and FSDP2 take the steps that one process takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracles import family_runs, forks
from oracles.families import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
FSDP = ["-m", "accelerate.commands.launch", "--config_file", "scripts/accelerate_configs/fsdp.yaml"]
FSDP += ["--num_machines", "1", "--num_processes", "2", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def alone():
    return {variant: family_runs.steps(variant) for variant in VARIANTS}


@pytest.mark.parametrize("split", ["not at all", "ZeRO-3", "FSDP2"])  # how the weights are split
def test_steps_are_those_of_one_process(split, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "compiled"))
    program, out = family_runs.__file__, str(tmp_path / "out.json")
    if split == "FSDP2":
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        command = [sys.executable, *FSDP, program, out]
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    else:
        arguments = [out, *[ROOT / "train/scripts/zero3.json"] * (split == "ZeRO-3")]
        process = forks.completed(program, arguments, processes=2)
    assert process.returncode == 0, process.stderr[-3000:]
    assert not (tmp_path / "compiled").exists()  # DeepSpeed would, for a minute
    together = json.loads((tmp_path / "out.json").read_text())
    assert together.keys() == VARIANTS.keys()
    for variant, found in together.items():
        assert found["split"] == split
        assert found["loss"] == pytest.approx(alone[variant]["loss"], rel=0, abs=1e-5), variant
        assert found["grad_norm"] == pytest.approx(alone[variant]["grad_norm"], rel=1e-4), variant
