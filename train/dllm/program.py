"""How a program starts and ends: a mistake that its user can mend is one line on stderr and exit status 1."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

ERROR_FILE = "ERROR_FILE"  # environment variable of a script that starts programs


def run_program(main: Callable[[], None]) -> None:
    """Runs `main`; a ValueError, which says what is wrong and the remedy, or a failing file ends it with one line."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text
    try:
        check_no_empty_argument(sys.argv[1:])
        main()
    except ValueError as error:
        fail(f"error: {error}")
    except OSError as error:
        fail(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")


def fail(line: str) -> NoReturn:
    """Ends the process with a line on stderr (`leave_error`) and exit status 1."""
    leave_error(line)
    sys.exit(line)


def leave_error(line: str) -> None:
    """Adds the line to the file that ERROR_FILE names, if it does: there the script that started this process finds the
    cause, whatever launchers and other processes print. The first line counts. Where the file cannot be written, on a
    full disk say, stderr alone has it.
    """
    if path := os.environ.get(ERROR_FILE):
        with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def check_no_empty_argument(arguments: list[str]) -> None:
    """Raises ValueError for an empty value on a command line, which is a shell variable that is not set, most likely:
    a default would take its place without a word.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = before if not argument else argument[:-1] if argument.endswith("=") else ""
        if name.startswith("--") or not argument:
            what = name if name.startswith("--") else "an argument"
            raise ValueError(f"{what} is empty (a variable that is not set?); give it a value, or leave it out")
