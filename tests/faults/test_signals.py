"""Kind 8: a signal ends a run once, with its last words, whoever it was sent to; nobody is left behind.

The command is a light one that does as a training run does; `tests/llava_train/test_survival.py` has real ones.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dllm.launch import launch

pytestmark = pytest.mark.cold_start  # each process must be the child of the one that started it
TRAIN = """
import os, signal, subprocess, sys, time
from dllm.program import end_with_parent, leave_error
end_with_parent()
where = sys.argv[1]
kind = sys.argv[2]
def stop(*_):
    with open(where + "/signals", "a") as file:
        file.write("x")
    if kind == "deaf":
        return
    open(where + "/checkpoint", "w").close()
    leave_error("train: error: stopped, with a checkpoint")
    sys.exit(1)
if kind != "importing":
    signal.signal(signal.SIGTERM, stop)
if kind == "launcher":  # its worker is the one that writes the checkpoint
    worker = subprocess.Popen([sys.executable, __file__, where, "worker"], start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
open(where + "/" + kind, "w").write(str(os.getpid()))
if kind == "launcher":
    sys.exit(worker.wait())
time.sleep(300)
"""


def heard() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Script:
    """`bash script` whose last command is the launcher, as that of a stage is, in a group of its own."""

    def __init__(self, folder: Path, kind: str, prefix: str = "exec"):
        (folder / "train.py").write_text(TRAIN)
        command = f"{prefix} {sys.executable} -m dllm.launch {sys.executable} {folder}/train.py {folder} {kind}"
        self.folder = folder
        self.process = subprocess.Popen(
            ["bash", "-c", command],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=heard,  # whatever the tests were started with
            text=True,
        )
        self.worker = self._pid("worker" if kind == "launcher" else kind)
        self.launcher = self._pid(kind)

    def _pid(self, name: str) -> int:
        for _ in range(3000):
            if text := (self.folder / name).read_text() if (self.folder / name).exists() else "":
                return int(text)
            time.sleep(0.01)
        raise AssertionError(f"{name} did not start")

    def end(self) -> tuple[int, str]:
        """Exit status and last line; the processes of the run are gone."""
        _, errors = self.process.communicate(timeout=60)
        for _ in range(500):
            if not any(Path(f"/proc/{pid}").exists() for pid in (self.worker, self.launcher)):
                return self.process.returncode, errors.splitlines()[-1] if errors else ""
            time.sleep(0.01)
        raise AssertionError("a process is left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True], ids=["script", "group"])
@pytest.mark.parametrize("kind", ["train", "launcher"])
def test_a_signal_to_the_script_or_its_group(tmp_path, number, group, kind):
    script = Script(tmp_path, kind)
    os.killpg(script.process.pid, number) if group else script.process.send_signal(number)
    assert script.end() == (128 + number, "train: error: stopped, with a checkpoint")
    assert (tmp_path / "checkpoint").exists() and (tmp_path / "signals").read_text() == "x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_command_is_started_is_sent_on_once(tmp_path, monkeypatch, number):
    class Slow(subprocess.Popen):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            while not (tmp_path / "train").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    (tmp_path / "train.py").write_text(TRAIN)
    before = signal.signal(number, signal.SIG_DFL)  # a shell in the background has its programs ignore SIGINT
    try:
        found = launch([sys.executable, str(tmp_path / "train.py"), str(tmp_path), "train"])
    finally:
        signal.signal(number, before)
    assert found == (128 + number, "train: error: stopped, with a checkpoint")
    assert (tmp_path / "signals").read_text() == "x"


def test_during_the_imports(tmp_path):
    script = Script(tmp_path, "importing")
    script.process.terminate()
    assert script.end() == (143, "error: stopped by SIGTERM; start again to go on")


@pytest.mark.parametrize("kind", ["train", "launcher"])
def test_a_script_that_is_killed_takes_its_run_along(tmp_path, kind):
    script = Script(tmp_path, kind)
    script.process.kill()
    script.end()
    assert (tmp_path / "checkpoint").exists()


def test_a_launcher_that_is_killed_takes_its_workers_along(tmp_path):
    script = Script(tmp_path, "launcher")
    os.kill(script.launcher, signal.SIGKILL)
    assert script.end()[0] == 1 and (tmp_path / "checkpoint").exists()


def test_a_worker_that_is_killed_ends_the_run(tmp_path):
    script = Script(tmp_path, "launcher")
    os.kill(script.worker, signal.SIGKILL)
    status, last = script.end()
    assert status == 1 and "the run ended without a word" in last


def test_other_children_of_the_process_are_left_alone():
    other = subprocess.Popen(["sleep", "300"])
    status, _ = launch(["bash", "-c", "sleep 300 & exit 3"])
    assert status == 1 and other.poll() is None
    other.kill()
    orphan = int(subprocess.run(["bash", "-c", "sleep 300 >&- 2>&- & echo $!"], capture_output=True, text=True).stdout)
    assert int(Path(f"/proc/{orphan}/stat").read_text().split()[3]) != os.getpid()  # adopted no longer
    os.kill(orphan, signal.SIGKILL)


def test_a_second_signal_kills_what_does_not_listen(tmp_path):
    script = Script(tmp_path, "deaf")
    script.process.terminate()
    time.sleep(5.5)
    script.process.terminate()
    assert script.end()[0] == 143


def test_a_signal_that_comes_twice_at_once_is_one(tmp_path):
    """`timeout` sends one to the group, and a shell that traps it another one."""
    script = Script(tmp_path, "train", "trap 'kill -TERM $!' TERM;")
    os.killpg(script.process.pid, signal.SIGTERM)
    script.end()
    assert (tmp_path / "checkpoint").exists() and (tmp_path / "signals").read_text() == "x"


def test_what_is_ignored_from_the_start_stays_so(tmp_path):
    """As SIGHUP is under nohup, whose run outlives its terminal."""
    script = Script(tmp_path, "train", "trap '' HUP; exec")
    os.killpg(script.process.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert script.process.poll() is None and not (tmp_path / "signals").exists()
    script.process.terminate()
    assert script.end() == (143, "train: error: stopped, with a checkpoint")
