"""Kind 2: folders are walked once, only regular files are opened, and what cannot be read is told and counted."""

import os
import shutil

import pytest

from dllm.data.files import Walk
from faults.test_errors import demo


def names(walk: Walk) -> list[str]:
    return sorted(str((folder / name).relative_to(walk.root)) for folder, _, files in walk for name in files)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).touch()
    return tmp_path


def to_itself(folder):
    (folder / "again").symlink_to(folder)


def to_each_other(folder):
    to_itself(folder)
    (folder / "sub/up").symlink_to(folder)
    (folder / "sub/up2").symlink_to(folder / "sub")


def twice(folder):
    (folder / "sub2").symlink_to(folder / "sub")


def no_files(folder):
    os.mkfifo(folder / "pipe.png")


@pytest.mark.parametrize("add", [to_itself, to_each_other, twice, no_files])
def test_every_file_once(folder, add):
    add(folder)
    walk = Walk(folder)
    found = names(walk)
    assert len(found) == 2 and found[0] == "a.png" and walk.notes() == ()


def test_a_link_to_a_folder_elsewhere_is_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "c.png").touch()
    (folder / "link").symlink_to(elsewhere)
    assert names(Walk(folder)) == ["a.png", "link/c.png", "sub/b.png"]


def test_a_broken_link_is_told(folder):
    (folder / "c.png").symlink_to(folder / "none.png")
    walk = Walk(folder)
    assert names(walk) == ["a.png", "sub/b.png"]
    assert walk.notes() == (f"1 files or folders could not be read: {folder}/c.png (No such file or directory)",)


def test_a_folder_that_may_not_be_read_is_told(folder, request):
    for path in (folder, *folder.parents):
        path.chmod(path.stat().st_mode | 0o055)
    (folder / "sub").chmod(0)
    request.getfixturevalue("as_nobody")
    walk = Walk(folder)
    assert names(walk) == ["a.png"]
    assert walk.notes() == (f"1 files or folders could not be read: {folder}/sub (Permission denied)",)


def test_the_demo_describes_an_image_once(world, folder):
    shutil.copy(next(world.images.rglob("*.jpg")), folder / "c.jpg")
    to_each_other(folder)
    assert demo.image_files(str(folder)) == (["a.png", "c.jpg", "sub/b.png"], 0)
