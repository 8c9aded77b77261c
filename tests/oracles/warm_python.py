"""Programs as processes of their own that need not import the libraries again, eight seconds of a core each.

In the tests `sys.executable` is a stand-in (`oracles/stand_in.py`) in a folder that holds the environment's console
scripts too. Called with a script or a module it hands arguments, environment, folder, limits and open files to one
process that has imported the libraries; a fork of that runs the program, and the stand-in ends as the program does.
What a program starts by `sys.executable` is a fork as well, torchrun's ranks among them. All else (`-c`, other options)
goes to the real interpreter, and so does every program of a test marked `cold_start`.

What differs from a start of its own: `LIBRARIES` are imported already, METEOR's jar knows few paraphrases, all programs
share one seed of hashes, and a program is in a session of its own, which is killed when its stand-in is.
"""

import atexit
import fcntl
import gc
import gzip
import importlib
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from itertools import islice
from pathlib import Path

from oracles import stand_in
from oracles.stand_in import end

LIBRARIES = ["torch.distributed.run", "transformers.trainer", "deepspeed", "peft", "matplotlib.pyplot"]
# What libraries read when they are imported: with other values a program starts cold.
READ_ONCE = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_ENDPOINT", "PYTHONHASHSEED")
PARAPHRASES = "lib/*/site-packages/pycocoevalcap/meteor/data/paraphrase-en.gz"
PARAPHRASE_LINES = 30_000  # three make one


def start(folder: Path) -> subprocess.Popen:
    """Makes the stand-ins in `folder` and the process behind them, which ends with this one; until it has imported the
    libraries, programs start cold.
    """
    real = Path(sys.executable)
    _write_program(folder / "python", f"#!{real} -IS\n{Path(stand_in.__file__).read_text()}")
    (folder / "python3").symlink_to("python")
    for script in real.parent.iterdir():
        first, _, rest = script.read_bytes().partition(b"\n") if script.is_file() else (b"", b"", b"")
        if first == f"#!{real}".encode():
            _write_program(folder / script.name, f"#!{folder / 'python'}\n{rest.decode()}")
    java, tables = shutil.which("java"), list(real.parents[1].glob(PARAPHRASES))
    if java and tables:
        _write_java(folder, java, tables[0])
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = (real, "-m", "oracles.warm_python", folder)
    log = (folder / "log").open("w")
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=Path(__file__).parents[1]
    )


def _write_java(folder: Path, java: str, table: Path) -> None:
    """A stand-in for Java with which METEOR's jar reads a small table of paraphrases: the whole takes ten seconds."""
    with gzip.open(table) as lines, gzip.open(folder / table.name, "w") as few:
        few.writelines(islice(lines, PARAPHRASE_LINES))
    _write_program(
        folder / "java",
        f"""#!/bin/sh
for argument; do
    shift
    [ "${{argument##*/}}" != {table.name} ] || argument={folder / table.name}
    set -- "$@" "$argument"
done
exec {java} "$@"
""",
    )


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def serve(folder: Path) -> None:
    """Takes programs until standard input ends; returns in the fork that is to run one."""
    for library in LIBRARIES:
        importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the monitors
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    gc.freeze()
    imported_with = _read_once(os.environ)
    while True:
        if 0 in map(_number, select.select([listener, 0], [], [])[0]):
            os._exit(0)
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _take(connection, folder, imported_with)
        connection.close()


def _number(file) -> int:
    return file if isinstance(file, int) else file.fileno()


def _read_once(environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in READ_ONCE}


def _take(connection: socket.socket, folder: Path, imported_with: dict) -> None:
    """Forks the program that the stand-in asks for, and watches both; returns in the program."""
    _, files, _, _ = socket.recv_fds(connection, 1, 253)
    request = json.loads(connection.makefile("r").readline())
    if (settings := _read_once(request["environment"])) != imported_with:
        print("cold:", *request["program"][:3], dict(settings.items() ^ imported_with.items()), file=sys.stderr)
        connection.sendall(b"cold\n")
        os._exit(0)
    program = os.fork()
    if not program:
        connection.close()
        return _become(request, files, folder)
    for file in files:
        os.close(file)
    connection.sendall(b"warm\n")
    ended = os.pidfd_open(program)
    watched = [ended, connection]
    while ended not in select.select(watched, [], [])[0]:
        if number := connection.recv(1):
            os.kill(program, number[0])
        else:
            os.killpg(program, signal.SIGKILL)
            watched.remove(connection)
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    try:
        connection.sendall(b"%d\n" % status)
    finally:
        os._exit(0)


def _become(request: dict, files: list[int], folder: Path) -> None:
    """Makes this process the one that the request describes, runs the program and ends."""
    _take_over(request, files)
    program, environment = request["program"], os.environ
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")
    sys.stdout.reconfigure(write_through=request["unbuffered"] or "PYTHONUNBUFFERED" in environment)
    sys.executable = str(folder / "python")
    first = os.getcwd() if program[0] == "-m" else str(Path(program[0]).resolve().parent)
    sys.path[:1] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    importlib.invalidate_caches()
    tempfile.tempdir = None  # TMPDIR may be another
    import torch  # as late as here: pytest's own process does without

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", os.cpu_count())))
    _end(_status(program))


def _take_over(request: dict, files: list[int]) -> None:
    """Session, folder, signals, open files, limits and environment."""
    os.setsid()
    os.chdir(request["folder"])
    os.umask(request["umask"])
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    above = [fcntl.fcntl(file, fcntl.F_DUPFD, max(request["held"]) + 1) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(above, request["held"], strict=True):
        os.dup2(file, number)
        os.close(file)
    for name, limits in request["limits"].items():
        resource.setrlimit(getattr(resource, name), limits)
    os.environ.clear()
    os.environ.update(request["environment"])


def _status(program: list[str]) -> int:
    """The exit status of a program, `-m MODULE` or a script, with its arguments; negative: the signal it ends by."""
    try:
        if program[0] == "-m":
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = program
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(status: int) -> None:
    """Ends without taking the libraries apart object by object, which would take seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    end(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
