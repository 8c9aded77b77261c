"""A temporary folder whose files do not outlive the process, even one that is killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dllm.data.files import Lock

LOCK = ".lock"


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """A folder that only this user can read, for all temporary files of this process; it goes with the process.

    Folders with this prefix of processes that were killed are removed first: the lock on a file in it goes with a
    process, however it ends, so a folder that nobody holds is one of those.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_if_left(folder)
    folder, before = Path(tempfile.mkdtemp(prefix=prefix)), tempfile.tempdir
    lock = Lock(folder / LOCK, "keeps its files there")
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError, ValueError):  # another user's, or one that a process holds
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            lock = Lock(folder / LOCK, "keeps its files there")
            shutil.rmtree(folder)
            lock.release()
