"""How a program starts and ends: a mistake that its user can mend is one line on stderr and exit status 1; anything
else is a traceback that asks for a report.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

ERROR_FILE = "ERROR_FILE"  # environment variable of a script that starts programs
PR_SET_PDEATHSIG = 1
BUG = "this is a bug, please report it with the lines above"
REMEDIES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its permissions, and those of its folders"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and start again"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "check the path"),
    errno.EROFS: "choose a folder that can be written",
    errno.EISDIR: "give a file",
    errno.ELOOP: "a link leads to itself; name the file itself",
    errno.ENAMETOOLONG: "give a shorter path",
}


def has_no_default(value: object) -> bool:
    """Whether an option's default is none that --help need tell."""
    return value is None or value is False or value in ("", argparse.SUPPRESS, dataclasses.MISSING)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """An option a line, with its default where it has one."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.required:
            return f"{action.help} (required)"
        told = has_no_default(action.default) or "default" in action.help
        return action.help if told else f"{action.help} (default: %(default)s)"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {int: "N", float: "X"}.get(action.type, "VALUE")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = [name for name in action.option_strings if "-" not in name[2:]]  # transformers has both forms
        values = self._format_args(action, self._get_default_metavar_for_optional(action)) if action.nargs != 0 else ""
        return f"{', '.join(names)} {values}".strip()


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The parser of a program whose docstring says what it is for, with an example."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)


def run_program(main: Callable[[], None]) -> None:
    """Runs `main` behind the boundary; an empty value on the command line is a mistake."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text
    os.environ |= quiet() | os.environ
    with boundary():
        check_no_empty_argument(sys.argv[1:])
        main()


def quiet() -> dict[str, str]:
    """Environment variables that switch off the bars of libraries, where they cannot be drawn over."""
    names = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
    return {} if sys.stderr.isatty() else dict.fromkeys(names, "1")


@contextlib.contextmanager
def boundary(end: Callable[[str], None] | None = None) -> Iterator[None]:
    """Every error inside ends the process, by `end` (default: `fail`) with its line (`describe`). SystemExit passes
    through libraries that catch every Exception, lmms_eval among them.
    """
    end = end or fail
    try:
        yield
    except KeyboardInterrupt:
        leave_error("error: interrupted")
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        end(f"error: {explain(error)}")


def explain(error: Exception) -> str:
    """`describe`, or for any other error, which is a bug, a line below its traceback."""
    line = describe(error)
    if line is None:
        traceback.print_exception(error)
        line = f"{one_line(error)} ({type(error).__name__}); {BUG}"
    return line


def describe(error: Exception) -> str | None:
    """What a user's file, folder, environment or flag did, and the remedy, in one line; None for any other error.

    A ValueError says it itself.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return f"out of memory ({one_line(error) or 'of the machine'}); lower the batch size or the lengths"
    if is_of_file_system(error):
        path = f"{error.filename}: " if error.filename else ""
        remedy = REMEDIES.get(error.errno)
        return f"{path}{error.strerror}" + (f"; {remedy}" if remedy else "")
    return one_line(error) if isinstance(error, ValueError | OSError) else None


def is_of_file_system(error: Exception) -> bool:
    """Whether it says why a file cannot be read or written, which is no damage of its content."""
    return isinstance(error, OSError) and error.errno is not None


def one_line(error: Exception) -> str:
    """The message of an error in one line; of an error in a DataLoader worker the message that the worker met."""
    return " ".join(str(error).rsplit("\nValueError: ", 1)[-1].split())


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


def end_with_parent() -> None:
    """This process gets SIGTERM when the one that started it ends, however that ends (Linux): a worker whose launcher
    was killed would otherwise wait for its peers for half an hour.
    """
    parent = os.getppid()
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended in between
        sys.exit(1)


def prctl(option: int, value: int) -> None:
    """Sets an option of this process, where the kernel is Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value)
