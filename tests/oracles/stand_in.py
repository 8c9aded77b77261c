"""The stand-in for the interpreter that `oracles.warm_python` writes as `python` into a folder, beside its socket."""

import json
import os
import resource
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
LIMITS = [name for name in dir(resource) if name.startswith("RLIMIT_")]


def main(folder, arguments):
    program = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if not program or (program[0].startswith("-") and program[0] != "-m"):
        cold(arguments)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(os.path.join(folder, "socket"))
    except OSError:
        cold(arguments)
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    held = [number for number in numbers if os.path.exists(f"/proc/self/fd/{number}") and os.get_inheritable(number)]
    umask = os.umask(0)
    os.umask(umask)
    request = {
        "program": program,
        "unbuffered": program != arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": umask,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
        "ignored": [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN],
        "held": held,
    }
    socket.send_fds(server, [b"."], held)
    server.sendall(json.dumps(request).encode() + b"\n")
    answers = server.makefile("r")
    if answers.readline() != "warm\n":
        cold(arguments)
    for number in set(FORWARDED) - set(request["ignored"]):
        signal.signal(number, lambda number, frame: server.send(bytes([number])))
    end(int(answers.readline() or -signal.SIGKILL))


def cold(arguments):
    os.execv(sys.executable, [sys.executable, *arguments])


def end(status):
    """Ends as the program did: with its exit status, or by the signal that ended it, where that is negative."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main(os.path.dirname(os.path.abspath(__file__)), sys.argv[1:])
