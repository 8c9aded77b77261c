"""Training runs in the background, as real processes that can be killed."""

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from oracles.forks import Fork


class Run:
    """A started `program`, plain or with `processes` under torchrun; what it prints goes to the file `log`.

    `most_bytes` is the most that a file may have: writing more fails, as on a full disk.
    """

    def __init__(
        self,
        arguments: list[str],
        processes: int,
        log: Path,
        most_bytes: int = resource.RLIM_INFINITY,
        program: str | Path = "llava/train/train_mem.py",
    ):
        self.log = log
        self.launcher = Fork(program, arguments, processes, log, log, most_bytes)

    def members(self) -> list[int]:
        """The launcher and all processes that come from it."""
        found = [self.launcher.pid]
        for pid in found:
            found += _children(pid)
        return found

    def trainer(self, rank: int) -> int:
        """The process of a rank under torchrun."""
        return sorted(_children(self.launcher.pid))[rank]

    def until(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        """Waits for the condition; raises if the run ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.launcher.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"waited in vain; the run printed\n{self.text()[-3000:]}")
            time.sleep(0.001)

    def kill(self) -> None:
        """kill -9 of all its processes."""
        for pid in self.members():
            os.kill(pid, signal.SIGKILL)
        self.launcher.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return self.launcher.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")

    def error_lines(self) -> list[str]:
        return [line for line in self.text().splitlines() if line.startswith("train: error: ")]


def _children(pid: int) -> list[int]:
    """Child processes (Linux)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # gone in the meantime
        return []
