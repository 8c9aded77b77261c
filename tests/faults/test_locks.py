"""Kind 9: of two at once the second is refused, by a lock that dies with its process."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from dllm.data.files import Lock
from dllm.inference.results_file import ResultsFile
from faults.checkpoints import start
from oracles.tiny import CHECKOUT

HOLD = """
import os, sys
from dllm.data.files import Lock
lock = Lock(sys.argv[1], "trains")
if sys.argv[2] == "forked" and os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()  # until the test ends
"""


@pytest.fixture
def hold():
    """Starts a process that holds a lock."""
    processes = []

    def hold(path, how="held"):
        command = [sys.executable, "-c", HOLD, str(path), how]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "held\n"
        return processes[-1]

    yield hold
    for process in processes:
        process.stdin.close()  # ends its fork as well
        process.kill()
        process.wait()


def test_a_lock_is_refused_until_its_process_ends(tmp_path, hold):
    other = hold(tmp_path / ".lock")
    with pytest.raises(
        ValueError, match=r"another process trains \(.*\.lock is locked\); wait for it, or choose another"
    ):
        Lock(tmp_path / ".lock", "trains")
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = Lock(tmp_path / ".lock", "trains")
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_processes_that_load_data_do_not_hold_it_after_their_parent(tmp_path, hold):
    hold(tmp_path / ".lock", "forked").wait()
    lock = Lock(tmp_path / ".lock", "trains")
    assert lock.file is not None
    lock.release()


def test_a_lock_file_that_was_removed_in_the_meantime_is_none(tmp_path, hold):
    hold(tmp_path / ".lock")
    (tmp_path / ".lock").unlink()
    lock = Lock(tmp_path / ".lock", "trains")
    assert (tmp_path / ".lock").exists()
    lock.release()
    assert not (tmp_path / ".lock").exists()


def test_two_trainings(world, finished, tmp_path, hold):
    out = shutil.copytree(finished, tmp_path / "run")
    hold(out / ".lock")
    with pytest.raises(ValueError, match="another process trains into it"):
        start(world, out)
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (1, 2, 3)]


def test_two_demos(tmp_path, hold):
    hold(tmp_path / ".reports.jsonl.lock")
    with pytest.raises(ValueError, match=f"another process writes {tmp_path}/reports.jsonl"):
        ResultsFile(tmp_path / "reports.jsonl", {}, ("image", "report"))


def test_two_evaluations(tmp_path, hold):
    hold(tmp_path / ".lock")
    command = [
        sys.executable,
        "-m",
        "dllm.launch",
        "--log",
        str(tmp_path / "output.log"),
        "touch",
        str(tmp_path / "ran"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and f"error: another process writes into {tmp_path}" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_two_quickstarts(tmp_path, hold):
    hold(tmp_path / ".lock")
    command = [sys.executable, "scripts/quickstart.py", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 1 and f"error: another process runs in {tmp_path}" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
