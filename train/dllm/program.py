"""How a program starts and ends: a mistake that its user can mend is one line on stderr and exit status 1."""

import sys
from collections.abc import Callable


def run_program(main: Callable[[], None]) -> None:
    """Runs `main`; a ValueError, which says what is wrong and the remedy, or a failing file ends it with one line."""
    try:
        check_no_empty_argument(sys.argv[1:])
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")


def check_no_empty_argument(arguments: list[str]) -> None:
    """Raises ValueError for an empty value on a command line, which is a shell variable that is not set, most likely:
    a default would take its place without a word.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = before if not argument else argument[:-1] if argument.endswith("=") else ""
        if name.startswith("--") or not argument:
            what = name if name.startswith("--") else "an argument"
            raise ValueError(f"{what} is empty (a variable that is not set?); give it a value, or leave it out")
