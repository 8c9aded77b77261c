"""Runs a command for a script: a signal reaches it once, nobody is left behind, and the cause of a failure comes last.

    python -m dllm.launch [--log FILE] COMMAND ...      # FILE gets all that the command prints, stderr is shown too

SIGTERM, SIGINT or SIGHUP, to this process or to its whole group, ends the command by SIGTERM, on which a training run
writes a checkpoint first; what is left of it after GRACE seconds is killed, and so it is when a second signal comes. If
this process is killed, its command gets SIGTERM too. Exit status: 0, 1, or 128 + the number of the signal.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from dllm.data.files import Lock
from dllm.program import ERROR_FILE, argument_parser, boundary, end_with_parent, prctl, quiet

GRACE, TORCHRUN_GRACE = 55, 45  # seconds
TWICE = 5  # seconds within which two signals are one: to a process, and to its group
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_CHILD_SUBREAPER = 36
KEPT = 1 << 16  # last bytes of what the command printed
CAUSE = re.compile(rb"(?:train: )?error: [^\r\n]*")


def launch(
    command: list[str], env: dict[str, str] | None = None, cwd: str | None = None, log: Path | None = None
) -> tuple[int, str]:
    """Runs a command, whose output is passed on. Returns its exit status and, if it failed, the cause in a line.
    Processes that this one had started before are left alone.
    """
    with tempfile.TemporaryDirectory() as folder, open(log or os.devnull, "wb") as copy, _Stop() as stop:
        error_file = Path(folder) / "error"
        env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(TORCHRUN_GRACE)} | quiet() | (env or os.environ)
        env[ERROR_FILE] = str(error_file)
        pipes = {"stdout": subprocess.PIPE if log else None, "stderr": subprocess.PIPE}
        # In a session of its own: a signal to the group of the script comes here alone.
        child = {"env": env, "cwd": cwd, "start_new_session": True, "preexec_fn": end_with_parent}
        process = subprocess.Popen(command, **pipes, **child)
        stop.follow(process.pid)
        tail = bytearray()
        streams = {process.stderr: (sys.stderr.buffer, copy), process.stdout: (copy,)}
        readers = [Thread(target=_pass_on, args=(s, files, tail)) for s, files in streams.items() if s]
        for reader in readers:
            reader.start()
        status = process.wait()
        if status or stop.signal:
            stop.end()
        for reader in readers:
            reader.join()  # once nobody has the other end
        if not status:
            return 0, ""
        return 128 + stop.signal if stop.signal else 1, _cause(error_file, bytes(tail), stop.signal, status)


class _Stop:
    """Sends the first signal on to `child` as SIGTERM; the next one kills all that comes from it.

    Inside, processes whose own parent ends become children of this one (Linux), which can then end them.
    """

    def __init__(self):
        self.signal, self.child, self.since = 0, None, 0.0
        self.others = _children(os.getpid())  # what runs already

    def __enter__(self):
        # One that is ignored already, SIGHUP under nohup say, stays so.
        heard = {number: self._receive for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN}
        heard[signal.SIGALRM] = lambda *_: self.kill()
        self.before = {number: signal.signal(number, handler) for number, handler in heard.items()}
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(self, *_):
        prctl(PR_SET_CHILD_SUBREAPER, 0)
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if not self.signal:
            self.signal, self.since = number, time.monotonic()
            signal.alarm(GRACE)
            if self.child:
                _send(self.child, signal.SIGTERM)
        elif time.monotonic() > self.since + TWICE:
            self.kill()

    def follow(self, child: int) -> None:
        """`child` is the command from now on; a signal that came while it was started is sent on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.before)  # one that comes in here would be sent on twice
        self.child = child
        if self.signal:
            _send(child, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.before)

    def children(self) -> list[int]:
        """The command and its orphans."""
        return [pid for pid in _children(os.getpid()) if pid not in self.others]

    def left(self) -> list[int]:
        """The processes that come from the command and have not ended."""
        found = self.children()
        for pid in found:
            found += _children(pid)
        return [pid for pid in found if not _has_ended(pid)]

    def kill(self) -> None:
        for pid in self.left():
            _send(pid, signal.SIGKILL)

    def end(self) -> None:
        """Tells what the command left behind to end, and kills it after a while."""
        deadline = (self.since if self.signal else time.monotonic()) + GRACE
        for pid in self.children():  # orphans, which stop what comes from them
            _send(pid, signal.SIGTERM)
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()
        for pid in self.children():  # what has ended is a zombie until it is asked for
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pass_on(source: BinaryIO, files: tuple[BinaryIO, ...], tail: bytearray) -> None:
    """Copies all of `source` to the files until it ends, the last of it to `tail`."""
    while part := os.read(source.fileno(), 1 << 16):
        tail += part
        del tail[:-KEPT]
        for file in files:
            with contextlib.suppress(OSError):  # a terminal that is gone, a full disk: the command goes on
                file.write(part)
                file.flush()


def _cause(error_file: Path, tail: bytes, stopped_by: int, status: int) -> str:
    """What the command's processes left in ERROR_FILE; those of other nodes printed it; a killed one could not."""
    if error_file.is_file() and (line := error_file.read_text(errors="replace").partition("\n")[0]):
        return line
    if found := CAUSE.search(tail):
        return found[0].decode(errors="replace")
    if stopped_by:
        return f"error: stopped by {signal.Signals(stopped_by).name}; start again to go on"
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    return f"train: error: the run ended without a word, {how} (killed? out of memory?); start again to go on"


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # gone in the meantime
        return []


def _has_ended(pid: int) -> bool:
    """Whether a process is gone, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def main() -> None:
    """The command line."""
    command, log, lock = sys.argv[1:], None, None
    if command[:1] in ([], ["--help"]):
        sys.exit(argument_parser(__doc__).print_help())
    with boundary():
        if command[0] == "--log":
            log, command = Path(command[1]), command[2:]
            lock = Lock(log.with_name(".lock"), f"writes into {log.parent}")
        print(*command, flush=True)
        status, cause = launch(command, log=log)
        if status:
            print(cause, file=sys.stderr, flush=True)
        if lock:
            lock.release()
    sys.exit(status)


if __name__ == "__main__":
    main()
