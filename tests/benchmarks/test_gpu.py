"""`gpu.sh --dry`: every part runs on a CPU at tiny sizes, says what it found and loses nothing when a check fails."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import correctness
from benchmarks.gpu.record import Record

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/gpu.sh"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a part of gpu.sh in this process and returns its record."""

    def part(name: str) -> dict:
        monkeypatch.setattr(sys, "argv", [name, "--dry", "--json", str(tmp_path / "out.json")])
        importlib.import_module(f"benchmarks.gpu.{name}").main()
        return json.loads((tmp_path / "out.json").read_text())

    yield part
    torch.compiler.set_stance("default")


def test_the_script_runs_its_parts_and_says_how_they_ended(tmp_path):
    command = ["bash", str(SCRIPT), "--dry", "--out", "out", "--parts"]
    refused = subprocess.run([*command, "environment,nonsense"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2 and "unknown part nonsense" in refused.stderr and not refused.stdout
    done = subprocess.run([*command, "environment"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "== environment: status 0" in done.stdout
    checks = json.loads((tmp_path / "out/environment.json").read_text())
    assert {check["state"] for check in checks.values()} == {"done"}
    assert checks["versions"]["torch"] == torch.__version__ and checks["imports of llava"]["modules"] > 40
    assert not any("Error" in str(check) for check in checks.values()), "every module can be imported"


def test_rounding_is_all_that_differs(run):
    checks = run("correctness")
    assert {check["state"] for check in checks.values()} == {"done"}
    steps = {name: check for name, check in checks.items() if name.startswith("step")}
    for name, check in steps.items():
        assert check["gradient"] < (1e-5 if "float32" in name else 0.1) and check["losses"] > 0, name
    tokens = [check for name, check in checks.items() if name.startswith("tokens")]
    assert len(tokens) == 10 and all(check["equal"] == 1 and check["masks_left"] == 0 for check in tokens)


def test_a_wrong_gradient_is_seen():
    expected = torch.ones(2), {"a": torch.ones(3), "b": torch.ones(1)}
    found = torch.ones(2), {"a": torch.ones(3), "b": 2 * torch.ones(1)}
    off = correctness.compare_steps(found, expected)
    assert (off["losses"], off["gradient"], off["worst"], off["worst_of"]) == (0, 0.5, 1, "b")


def test_recorded_steps_are_compared_and_timed(run):
    checks = run("graphs")
    tokens = [check for name, check in checks.items() if name.startswith("tokens")]
    assert len(tokens) == 10 and all(check["equal"] == [1, 1] for check in tokens)
    assert {"block exact, batch 1", "block exact compile, batch 2", "denoising step, recorded, batch 1"} < set(checks)
    assert {check["state"] for check in checks.values()} == {"done"}


def test_reports_are_timed(run):
    timed = [check for check in run("generation").values() if "reports_per_s" in check]
    assert len(timed) == 2 * 3
    assert all(check["ms_per_report"] * check["reports_per_s"] == pytest.approx(1000) for check in timed)


def test_training_steps_are_timed(run):
    checks = run("training")
    assert list(checks)[:4] == [
        f"{mode}, batch 2" for mode in ("block", "prefix", "bidirectional", "reference indexed")
    ]
    assert all(check["state"] == "done" and check["tokens_per_s"] > 0 for check in checks.values())


def test_a_profile_adds_up(run):
    checks = run("profile")
    assert len(checks) == 4
    for check in checks.values():
        shares = [kernel["share"] for kernel in check["top"]]
        assert 0 < sum(shares) < 1.001 and shares == sorted(shares, reverse=True)
        assert [kernel["ms"] / check["kernels_ms"] for kernel in check["top"]] == pytest.approx(shares)


def test_a_check_that_fails_is_told_and_the_next_one_runs(tmp_path, capsys):
    record = Record(tmp_path / "out.json")
    with record.check("first") as found:
        found["before"] = 1
        raise RuntimeError("no such kernel")
    with record.check("second"):
        told = json.loads((tmp_path / "out.json").read_text())
        assert told["first"]["before"] == 1 and told["first"]["state"] == "failed"
        assert "no such kernel" in told["first"]["traceback"] and told["second"]["state"] == "running"
    assert json.loads((tmp_path / "out.json").read_text())["second"]["state"] == "done"
    assert "no such kernel" in capsys.readouterr().out
