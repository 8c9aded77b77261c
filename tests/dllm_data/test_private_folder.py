"""A private folder goes with its process, however that ends."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dllm.data.private_folder import private_folder

PREFIX = "web-"
HOLDS_A_FOLDER = """
import time
from dllm.data.private_folder import private_folder
with private_folder("web-") as folder:
    (folder / "patient.png").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_is_private_and_goes_also_after_an_error(temporary):
    before = tempfile.gettempdir()
    with pytest.raises(RuntimeError), private_folder(PREFIX) as folder:
        assert folder.stat().st_mode & 0o077 == 0 and tempfile.gettempdir() == str(folder)
        (folder / "file").touch()
        raise RuntimeError
    assert not folder.exists() and tempfile.gettempdir() == before


def test_a_killed_server_leaves_a_folder_that_the_next_one_removes_and_a_living_one_keeps_its_own(temporary):
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HOLDS_A_FOLDER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            theirs = Path(server.stdout.readline().strip())
            assert theirs.parent == temporary and theirs.name.startswith(PREFIX)
            with private_folder(PREFIX):
                assert (theirs / "patient.png").exists()
        finally:
            server.kill()
    (temporary / f"{PREFIX}link").symlink_to(temporary)
    assert (theirs / "patient.png").exists()
    with private_folder(PREFIX):
        assert not theirs.exists() and (temporary / f"{PREFIX}link").is_symlink()
