"""What a visitor uploads: read into memory and removed from the disk at once; what is shown is in the page itself."""

import base64
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 96 << 20  # of one file


def take(path: str, read: Callable):
    """What `read` makes of an uploaded file, which is removed whatever happens.

    Raises ValueError with one sentence that names the file as the visitor knows it.
    """
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from None
    finally:
        remove(path)


def remove(path: str) -> None:
    """Removes an uploaded file, and the folder of its own that it lies in."""
    Path(path).unlink(missing_ok=True)
    with suppress(OSError):
        Path(path).parent.rmdir()


def data_uri(kind: str, data: bytes) -> str:
    """A link that holds the data itself, so that nothing is written to the disk for it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
