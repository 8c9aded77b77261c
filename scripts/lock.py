"""Prints requirements.lock: what the running environment and its folder of towers hold, and what pip's builds took.

scripts/lock.sh runs it in a fresh environment, with the log that pip wrote while it made that environment.

    python scripts/lock.py pip.log
"""

import platform
import re
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from dllm.program import argument_parser, run_program

OWN = ("llada-v-qwen", "lmms-eval-llada-v-qwen")
CUDA = Path(__file__).resolve().parents[1] / "requirements-cuda.txt"
HEADER = """\
# The exact version of every distribution that scripts/environment.sh installs: in the environment, in its folder of
# towers, and in pip's isolated builds of sdists. Made by `bash scripts/lock.sh` on Python {python}; do not edit.
# pip reads it as constraints (-c, --build-constraint), so it serves a GPU machine too: what torch brings there is taken
# over from requirements-cuda.txt, and a CPU machine installs none of it. Versions are without a local part (+cpu).
"""


def lockable(distributions: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Name and version as the lock writes them, of all distributions but our own."""
    pins = {(canonicalize_name(name), version.partition("+")[0]) for name, version in distributions}
    return {(name, version) for name, version in pins if name not in OWN}


def installed() -> set[tuple[str, str]]:
    """What the running environment and its folder of towers hold."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(Path(sys.prefix, "towers"))}
    return lockable((each.metadata["Name"], each.version) for each in distributions(path=list(folders)))


def logged(log: str) -> set[tuple[str, str]]:
    """What pip installed according to its log, for its builds too."""
    found = " ".join(re.findall(r"Successfully installed (.*)", log)).split()
    return lockable(each.rsplit("-", 1) for each in found)


def for_gpus() -> set[tuple[str, str]]:
    """What torch brings on a GPU machine."""
    lines = CUDA.read_text().splitlines()
    return lockable(line.split("==") for line in lines if not line.startswith("#"))


def lock(pins: set[tuple[str, str]]) -> str:
    """The text of requirements.lock; ValueError if a distribution came at two versions."""
    names = [name for name, _ in pins]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two versions of {', '.join(twice)} came: pin one in requirements.txt")
    return HEADER.format(python=platform.python_version()) + "".join(f"{n}=={version}\n" for n, version in sorted(pins))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("log", type=Path, help="file that pip wrote with --log")
    print(lock(installed() | logged(parser.parse_args().log.read_text()) | for_gpus()), end="")


if __name__ == "__main__":
    run_program(main)
