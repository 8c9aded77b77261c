"""What all tests share: how their programs start, and the real films and reports of those marked `real_data`, which are
skipped visibly without.
"""

import gc
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

import pytest

from oracles import warm_python

CHECKOUT = Path(__file__).resolve().parent.parent
RADIOLOGY_DATA = Path(os.environ.get("RADIOLOGY_DATA") or CHECKOUT.parent / "shared" / "data")
# They start first, so that the processes of scripts/test.sh end together.
LONGEST = ["programs/test_paths.py", "llava_train", "programs", "evaluation", "dllm_pipelines"]
REAL = {"python": sys.executable, "path": os.environ["PATH"]}
STAND_INS = "STAND_INS_OF_PYTHON"  # the folder, for the processes of pytest-xdist


def pytest_configure(config):
    """Tests share a cache of the hub, empty at first. With pytest-xdist all programs that they start are forks of one
    process (`oracles.warm_python`).
    """
    if hasattr(config, "workerinput"):
        multiprocessing.set_executable(sys.executable)
        start_programs(warm=True)
        return
    cache = tempfile.TemporaryDirectory(prefix="hub")
    os.environ["HF_HOME"] = cache.name
    config.add_cleanup(cache.cleanup)
    if getattr(config.option, "numprocesses", None) and " " not in sys.executable:  # "#!" takes no such path
        folder = tempfile.TemporaryDirectory(prefix="python")
        os.environ[STAND_INS] = folder.name
        server = warm_python.start(Path(folder.name))
        config.add_cleanup(lambda: (server.stdin.close(), server.wait(), folder.cleanup()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    start_programs(warm=not item.get_closest_marker("cold_start"))


def start_programs(warm: bool) -> None:
    """Settles how what the tests start by `sys.executable` or by its name is started."""
    folder = os.environ.get(STAND_INS) if warm else None
    sys.executable = f"{folder}/python" if folder else REAL["python"]
    os.environ["PATH"] = f"{folder}{os.pathsep}{REAL['path']}" if folder else REAL["path"]


def pytest_collection_modifyitems(items):
    folders = [CHECKOUT / "tests" / path for path in LONGEST]
    items.sort(key=lambda item: [item.path.is_relative_to(folder) for folder in folders], reverse=True)
    if RADIOLOGY_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no real data in {RADIOLOGY_DATA}: set RADIOLOGY_DATA to its folder")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(absent)


def pytest_collection_finish():
    """What is imported by now stays; every collection of garbage, as a training run asks for, would look through it."""
    gc.freeze()


@pytest.fixture(scope="session")
def radiology_data() -> Path:
    """The folder of the real data; only for tests marked `real_data`."""
    return RADIOLOGY_DATA


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The `TinyWorld`: phantom films and random towers. Tests must not change its files."""
    from oracles.tiny import make_world  # takes seconds to import, and many tests do without it

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """The `SoundWorld`: clips of tones, a random LLaDA and Whisper. Tests must not change its files."""
    from oracles.sounds import make_world

    return make_world(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The phantom as a release of MIMIC-CXR. Tests must not change its files."""
    from oracles.mimic_release import write_mimic_release
    from oracles.phantom_mimic import PATIENTS, SEED

    return write_mimic_release(tmp_path_factory.mktemp("release") / "mimic", PATIENTS, SEED, size_px=32)


@pytest.fixture(scope="session")
def studies():
    """What is in `release`, by study id."""
    from oracles.mimic_release import entries
    from oracles.phantom_mimic import PATIENTS, SEED

    return {str(entry.study.study_id): entry for split, n in PATIENTS.items() for entry in entries(split, n, SEED)}
