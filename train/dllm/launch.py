"""Runs a command for a script: a signal reaches it once, nobody is left behind, and the cause of a failure comes last.

    python -m dllm.launch [--log FILE] COMMAND ...      # FILE gets all that the command prints, stderr is shown too

SIGTERM, SIGINT or SIGHUP, to this process or to its whole group, ends the command by SIGTERM, on which a training run
writes a checkpoint first; what is left of it after GRACE seconds is killed, and so it is when a second signal comes. If
this process is killed, its command gets SIGTERM too. Exit status: 0, 1, or 128 + the number of the signal.
"""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import BinaryIO

from dllm.data.files import Lock
from dllm.program import ERROR_FILE, argument_parser, boundary, end_with_parent, quiet

GRACE, TORCHRUN_GRACE = 55, 45  # seconds
TWICE = 5  # seconds within which two signals are one: to a process, and to its group
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KEPT = 1 << 16  # last bytes of what the command printed
CAUSE = re.compile(rb"(?:train: )?error: [^\r\n]*")


def launch(
    command: list[str], env: dict[str, str] | None = None, cwd: str | None = None, log: Path | None = None
) -> tuple[int, str]:
    """Runs a command, whose output is passed on. Returns its exit status and, if it failed, the cause in a line.
    Processes that this one had started before are left alone.
    """
    with tempfile.TemporaryDirectory() as folder, open(log or os.devnull, "wb") as copy:
        error_file = Path(folder) / "error"
        env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(TORCHRUN_GRACE)} | quiet() | (env or os.environ)
        env[ERROR_FILE] = str(error_file)
        with _adopted_orphans(), _Stop() as stop:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdout=subprocess.PIPE if log else None,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a signal to the group of the script comes here alone
                preexec_fn=end_with_parent,
            )
            stop.follow(process.pid)
            tail = bytearray()
            streams = {process.stderr: (sys.stderr.buffer, copy), process.stdout: (copy,)}
            readers = [Thread(target=_pass_on, args=(s, files, tail)) for s, files in streams.items() if s]
            for reader in readers:
                reader.start()
            status = process.wait()
            if status or stop.signal:
                _end(stop)
            for reader in readers:
                reader.join()  # once nobody has the other end
        if not status:
            return 0, ""
        return 128 + stop.signal if stop.signal else 1, _cause(error_file, bytes(tail), stop.signal, status)


def shown(command: list[str], log: Path | None = None) -> int:
    """The exit status of a command that is printed before it runs; the last line on stderr is why it failed."""
    print(*command, flush=True)
    status, cause = launch(command, log=log)
    if status:
        print(cause, file=sys.stderr, flush=True)
    return status


class _Stop:
    """Sends the first signal on to `child` as SIGTERM; the next one kills all that comes from it."""

    def __init__(self):
        self.signal, self.child, self.since = 0, None, 0.0
        self.others = _children(os.getpid())  # what runs already

    def __enter__(self):
        # One that is ignored already, SIGHUP under nohup say, stays so.
        heard = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self._receive) for number in heard}
        self.alarm = signal.signal(signal.SIGALRM, lambda *_: self.kill())
        return self

    def __exit__(self, *_):
        signal.alarm(0)
        for number, handler in {**self.before, signal.SIGALRM: self.alarm}.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _) -> None:
        if not self.signal:
            self.signal, self.since = number, time.monotonic()
            signal.alarm(GRACE)
            self._send_on()
        elif time.monotonic() > self.since + TWICE:
            self.kill()

    def follow(self, child: int) -> None:
        """`child` is the command from now on; a signal that came while it was started is sent on."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.before)  # one that comes in here would be sent on twice
        self.child = child
        if self.signal:
            self._send_on()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.before)

    def _send_on(self) -> None:
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)

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
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pass_on(source: BinaryIO, files: tuple[BinaryIO, ...], tail: bytearray) -> None:
    """Copies all of `source` to the files until it ends, the last of it to `tail`."""
    while part := os.read(source.fileno(), 1 << 16):
        tail += part
        del tail[:-KEPT]
        for file in files:
            with contextlib.suppress(OSError):  # a terminal that is gone, a full disk: the command goes on
                file.write(part)
                file.flush()


def _end(stop: _Stop) -> None:
    """Tells what the command left behind to end, and kills it after a while."""
    deadline = time.monotonic() + (GRACE if not stop.signal else max(0.0, stop.since + GRACE - time.monotonic()))
    for pid in stop.children():  # orphans, which stop what comes from them
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while stop.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.kill()
    for pid in stop.children():  # what has ended is a zombie until it is asked for
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


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


@contextlib.contextmanager
def _adopted_orphans() -> Iterator[None]:
    """Processes whose own parent ends become children of this one meanwhile (Linux), which can then end them."""
    _set_subreaper(1)
    try:
        yield
    finally:
        _set_subreaper(0)


def _set_subreaper(on: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, on)  # PR_SET_CHILD_SUBREAPER


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
    command = sys.argv[1:]
    if command[:1] in ([], ["--help"]):
        sys.exit(argument_parser(__doc__).print_help())
    if command[:1] != ["--log"]:
        sys.exit(shown(command))
    log = Path(command[1])
    with boundary():
        lock = Lock(log.with_name(".lock"), f"writes into {log.parent}")
        status = shown(command[2:], log)
        lock.release()
    sys.exit(status)


if __name__ == "__main__":
    main()
