"""What a visitor uploads: read into memory and removed from the disk at once; a dead server leaves nothing of it."""

import base64
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from llava.data.dicom import dicom_size, is_dicom
from llava.data.images import load_image

PREFIX, LOCK = "llada-v-qwen-web-", ".lock"
MAX_PIXELS, MAX_BYTES = 40_000_000, 96 << 20  # of one image: a radiograph has at most 20 million pixels of 16 bits


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, for all temporary files of this process; it goes with the process.

    Folders of servers that were killed are removed first: the lock on a file in it goes with a process, however it
    ends, so a folder that nobody holds is one of those.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        _remove_if_left(folder)
    folder, before = Path(tempfile.mkdtemp(prefix=PREFIX)), tempfile.tempdir
    with open(folder / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # another user's, or one that a server holds
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            with open(folder / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def take_image(path: str) -> Image.Image:
    """The uploaded image, whose file is removed whatever happens.

    Raises ValueError with one sentence that names the file as the visitor knows it.
    """
    try:
        size = _size(path)
        if size and size[0] * size[1] > MAX_PIXELS:
            side = " x ".join(map(str, size))
            raise ValueError(f"{path}: the image has {side} pixels, more than {MAX_PIXELS:,}; give a smaller copy")
        return load_image(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), Path(path).name)) from None
    finally:
        remove(path)


def _size(path: str) -> tuple[int, int] | None:
    """Width and height as the header of a file has them; None if it has none, which `load_image` puts into words."""
    try:
        if is_dicom(path):
            return dicom_size(path)
        with Image.open(path) as image:
            return image.size
    except Exception:  # header parsers raise errors of many types
        return None


def remove(path: str) -> None:
    """Removes an uploaded file, and the folder of its own that it lies in."""
    Path(path).unlink(missing_ok=True)
    with suppress(OSError):
        Path(path).parent.rmdir()


def jpeg_uri(image: Image.Image, side: int) -> str:
    """The image as a data URI of a JPEG of at most `side` pixels a side."""
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "JPEG", quality=80)
    return data_uri("image/jpeg", file.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """A link that holds the data itself, so that nothing is written to the disk for it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
