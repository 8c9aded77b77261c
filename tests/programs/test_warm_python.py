"""The stand-in for the interpreter, with which the tests start programs, does as the interpreter does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif("STAND_INS_OF_PYTHON" not in os.environ, reason="programs start cold without -n")
TELLS = """
import os, resource, sys, tempfile
print(sys.argv, os.getcwd(), sys.path[0], tempfile.gettempdir(), os.environ.get("ANSWER"), input())
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.path.basename(sys.executable), "torch" in sys.modules)
os.write(int(sys.argv[1]), b"written")
print("said", file=sys.stderr)
sys.exit(int(sys.argv[2]))
"""
WAITS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
time.sleep(60)
"""


def program(folder: Path, text: str) -> Path:
    (folder / "program.py").write_text(text)
    return folder / "program.py"


@pytest.mark.parametrize("status", [0, 3])
def test_it_has_the_folder_environment_files_and_status_of_its_caller(tmp_path, status):
    read, write = os.pipe()
    environment = os.environ | {"ANSWER": "42", "TMPDIR": str(tmp_path)}
    command = ["bash", "-c", 'ulimit -n 300; "$@" < <(echo in); exit', "-", sys.executable, program(tmp_path, TELLS)]
    done = subprocess.run(
        [*map(str, command), str(write), str(status)],
        env=environment,
        cwd=tmp_path,
        pass_fds=[write],
        capture_output=True,
        text=True,
    )
    first, second = done.stdout.splitlines()
    arguments = [str(tmp_path / "program.py"), str(write), str(status)]
    assert first == f"{arguments} {tmp_path} {tmp_path} {tmp_path} 42 in"
    assert second == "300 python True"
    assert done.stderr == "said\n" and done.returncode == status and os.read(read, 100) == b"written"
    os.close(read), os.close(write)


def test_an_error_is_told_with_status_1(tmp_path):
    done = subprocess.run([sys.executable, program(tmp_path, "1 / 0")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_signal_reaches_the_program_and_its_end_the_caller(tmp_path):
    path = program(tmp_path, WAITS)
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.terminate()
        assert process.wait() == 7
    with subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True) as process:
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_program_ends_with_its_stand_in(tmp_path):
    with subprocess.Popen([sys.executable, program(tmp_path, WAITS)], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
        assert process.stdout.read() == ""  # the program held its end of the pipe
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
