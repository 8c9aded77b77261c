"""What is uploaded leaves nothing behind, whatever happens."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from llava.web.uploads import MAX_PIXELS, PREFIX, jpeg_uri, private_folder, take_image

HOLDS_A_FOLDER = """
import time
from llava.web.uploads import private_folder
with private_folder() as folder:
    (folder / "patient.png").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def upload(tmp_path):
    """A file as Gradio leaves it: in a folder of its own."""

    def write(name: str, content: bytes | Image.Image) -> Path:
        path = tmp_path / "hash" / name
        path.parent.mkdir(exist_ok=True)
        content.save(path) if isinstance(content, Image.Image) else path.write_bytes(content)
        return path

    return write


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_an_image_is_read_and_its_file_is_gone(upload):
    path = upload("film.png", Image.effect_noise((40, 30), 50))
    assert take_image(str(path)).size == (40, 30)
    assert not path.parent.exists()


def test_what_is_no_image_is_one_sentence_without_the_folder_and_its_file_is_gone(upload, tmp_path):
    cases = {
        "not an image file": ("notes.png", b"text"),
        "is empty": ("none.png", b""),
        "DICOM": ("film.dcm", b"text"),
        "shows nothing": ("blank.png", Image.new("L", (64, 64), 9)),
        "more than 40,000,000": ("large.png", Image.new("1", (MAX_PIXELS // 1000, 1001))),
    }
    for said, (name, content) in cases.items():
        path = upload(name, content)
        with pytest.raises(ValueError, match=said) as error:
            take_image(str(path))
        assert str(error.value).startswith(f"{name}: ") and str(tmp_path) not in str(error.value)
        assert not path.parent.exists()


def test_a_picture_on_the_page_is_small_and_in_the_page():
    assert len(jpeg_uri(Image.effect_noise((2000, 1500), 50).convert("RGB"), 64)) < 5000


def test_the_folder_is_private_and_goes_also_after_an_error(temporary):
    before = tempfile.gettempdir()
    with pytest.raises(RuntimeError), private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0 and tempfile.gettempdir() == str(folder)
        (folder / "file").touch()
        raise RuntimeError
    assert not folder.exists() and tempfile.gettempdir() == before


def test_a_killed_server_leaves_a_folder_that_the_next_one_removes_and_a_living_one_keeps_its_own(temporary):
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HOLDS_A_FOLDER]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        theirs = Path(server.stdout.readline().strip())
        assert theirs.parent == temporary and theirs.name.startswith(PREFIX)
        with private_folder():
            assert (theirs / "patient.png").exists()
        server.kill()
    (temporary / f"{PREFIX}link").symlink_to(temporary)
    assert (theirs / "patient.png").exists()
    with private_folder():
        assert not theirs.exists() and (temporary / f"{PREFIX}link").is_symlink()
