"""What every program has in common: how it starts and ends."""

import os
import subprocess
import sys

import pytest

from dllm.program import BUG

SCRIPT = """
from dllm.program import run_program
def main():
    {body}
run_program(main)
"""


def run(body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SCRIPT.format(body=body), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "body, line",
    [
        ("raise ValueError('a.json is empty; copy it again')", "error: a.json is empty; copy it again"),
        ("open('/nowhere/a.json')", "error: /nowhere/a.json: No such file or directory; check the path"),
    ],
)
def test_a_mistake_is_one_line_and_left_in_the_error_file(tmp_path, body, line):
    done = run(body, ERROR_FILE=str(tmp_path / "error"))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{line}\n")
    assert (tmp_path / "error").read_text() == f"{line}\n"
    assert run(body, ERROR_FILE="").stderr == f"{line}\n"


@pytest.mark.parametrize("path", ["/dev/full", "/nowhere/error"])
def test_an_error_file_that_cannot_be_written_does_not_hide_the_mistake(path):
    """On a full disk the cause ended in a traceback about its own file."""
    done = run("raise ValueError('a.json is empty')", ERROR_FILE=path)
    assert (done.returncode, done.stderr) == (1, "error: a.json is empty\n")


def test_another_error_keeps_its_traceback():
    done = run("1 / 0")
    assert (
        done.returncode == 1
        and "Traceback" in done.stderr
        and done.stderr.endswith(f"division by zero (ZeroDivisionError); {BUG}\n")
    )


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_name_that_is_no_text_can_be_printed(locale):
    done = run(r"print(__import__('os').fsdecode(b'a\xff.png'), 'Größe')", LC_ALL=locale)
    assert done.returncode == 0 and done.stdout == "a\\udcff.png Größe\n", done.stderr
