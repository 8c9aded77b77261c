"""What all tests share: real films and reports for those marked `real_data`, which are skipped and say so without them,
and ports of their own for tests that run side by side.
"""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
RADIOLOGY_DATA = Path(os.environ.get("RADIOLOGY_DATA") or CHECKOUT.parent / "shared" / "data")

# The stage scripts use one port unless told otherwise; pytest-xdist calls its workers gw0, gw1 ...
os.environ["MASTER_PORT"] = str(29199 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def pytest_collection_modifyitems(items):
    if RADIOLOGY_DATA.is_dir():
        return
    absent = pytest.mark.skip(reason=f"no real data in {RADIOLOGY_DATA}: set RADIOLOGY_DATA to its folder")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(absent)


@pytest.fixture(scope="session")
def radiology_data() -> Path:
    """The folder of the real data; only for tests marked `real_data`."""
    return RADIOLOGY_DATA


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The `TinyWorld`: phantom films and random towers. Tests must not change its files."""
    from oracles.tiny import make_world  # takes seconds to import, and many tests do without it

    return make_world(tmp_path_factory.mktemp("world"))
