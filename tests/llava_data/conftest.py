"""The phantom as a release of MIMIC-CXR, and what is in it. Tests must not change its files."""

import pytest

from llava.data.phantom_release import entries, write_mimic_release
from oracles.phantom_mimic import PATIENTS, SEED


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    return write_mimic_release(tmp_path_factory.mktemp("release") / "mimic", PATIENTS, SEED, size_px=32)


@pytest.fixture(scope="session")
def studies():
    return {str(entry.study.study_id): entry for split, n in PATIENTS.items() for entry in entries(split, n, SEED)}
