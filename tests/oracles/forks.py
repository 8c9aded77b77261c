"""Training programs as processes of their own that need not import the libraries again, eight seconds of a core each:
they are forks of one process that has imported them, and so are torchrun and its ranks. The repository's own modules
are imported by every fork, since some look at the process that they are in. Unlike those of `oracles.warm_python`
they are children of the process that starts them, so that a test can kill one and see who goes along.

All have that one process's seed of hashes: that nothing hangs on the order of a set is left to tests that start new
interpreters, as `reference` in llava_train/test_survival.py does.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from oracles.warm_python import LIBRARIES

TRAIN = Path(__file__).resolve().parents[2] / "train"


class Fork:
    """`python program arguments` in the folder train, or torchrun of that with so many `processes`; what it prints goes
    to the end of the files `out` and `err`. No file gets more than `most_bytes`: writing more fails, as on a full disk.
    """

    def __init__(
        self,
        program: str | Path,
        arguments: list,
        processes: int,
        out: Path,
        err: Path,
        most_bytes: int = resource.RLIM_INFINITY,
    ):
        command = [str(part) for part in (program, *arguments)]
        if processes:
            command = ["--standalone", "--nproc_per_node", str(processes), *command]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        start = _torchrun if processes else _program
        self.process = context.Process(target=_set_up, args=(start, command, environment, out, err, most_bytes))
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill

    def poll(self) -> int | None:
        """As that of subprocess.Popen."""
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def completed(program: str | Path, arguments: list, processes: int = 0) -> subprocess.CompletedProcess:
    """A `Fork` after its end, as subprocess.run returns it."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        status = Fork(program, arguments, processes, out, err).wait()
        return subprocess.CompletedProcess(arguments, status, out.read_text(), err.read_text())


def _set_up(start, command: list[str], environment: dict[str, str], out: Path, err: Path, most_bytes: int) -> None:
    os.chdir(TRAIN)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    _become(start, command, environment)


def _torchrun(command: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
    from torch.distributed.run import main

    def rank(self, args: tuple, env: dict[str, str]):
        command = list(args[args.index("-u") + 1 :])
        process = multiprocessing.get_context("fork").Process(target=_rank, args=(command, env))
        process.start()
        return process._popen  # has what torchrun asks of one of subprocess

    SubprocessHandler._popen = rank
    main(command)


def _rank(command: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # torchrun's own handlers
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _become(_program, command, environment)


def _program(command: list[str]) -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(command[0])))
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def _become(start, command: list[str], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    start(command)
