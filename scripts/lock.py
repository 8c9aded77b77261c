"""Prints requirements.lock: what the running environment and its folder of towers hold, and what pip's builds took.

scripts/lock.sh runs it in a fresh environment, with the log that pip wrote while it made that environment.
"""

import platform
import re
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

OWN = {"llada-v-qwen", "lmms-eval-llada-v-qwen"}
TORCHS = re.compile("nvidia-|cuda-|triton$")  # on a GPU machine torch brings them, at versions of its own
HEADER = """\
# The exact version of every distribution that scripts/environment.sh installs: in the environment, in its folder of
# towers, and in pip's isolated builds of sdists. Made by `bash scripts/lock.sh` on Python {python}; do not edit.
# pip reads it as constraints (-c, --build-constraint), so it also serves a GPU machine: torch's CUDA packages (nvidia-*,
# cuda-*, triton) are not here, the metadata of this exact torch pins them. Versions are without a local part (+cpu).
"""


def installed(folder: Path) -> dict[str, str]:
    """Name and version of each distribution in `folder` that a lock can name: not our own, nor torch's CUDA packages."""
    found = {canonicalize_name(each.metadata["Name"]): each.version for each in distributions(path=[str(folder)])}
    return {
        name: version.partition("+")[0] for name, version in found.items() if name not in OWN and not TORCHS.match(name)
    }


def taken(log: str) -> set[tuple[str, str]]:
    """Name and version of each distribution that a pip installed according to its log, builds included."""
    lines = re.findall(r"Successfully installed (.*)", log)
    pairs = (each.rsplit("-", 1) for line in lines for each in line.split())
    return {(canonicalize_name(name), version.partition("+")[0]) for name, version in pairs}


def everywhere() -> dict[str, dict[str, str]]:
    """What the running environment holds, and what its folder of towers does."""
    return {"environment": installed(Path(sysconfig.get_path("purelib"))), "towers": installed(Path(sys.prefix, "towers"))}


def main() -> None:
    pins = set().union(*(found.items() for found in everywhere().values()))
    pins |= {(name, version) for name, version in taken(Path(sys.argv[1]).read_text()) if name not in OWN}
    pins = {pin for pin in pins if not TORCHS.match(pin[0])}
    names = [name for name, _ in pins]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        sys.exit(f"error: one lock cannot hold two versions of {', '.join(twice)}; pin it in requirements.txt")
    print(HEADER.format(python=platform.python_version()), end="")
    print(*(f"{name}=={version}" for name, version in sorted(pins)), sep="\n")


if __name__ == "__main__":
    main()
