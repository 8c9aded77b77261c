"""What a visitor uploads: read into memory and removed from the disk at once; what is shown is in the page itself."""

import base64
import io
from contextlib import suppress
from pathlib import Path

from PIL import Image

from llava.data.images import image_size, load_image

MAX_PIXELS, MAX_BYTES = 40_000_000, 96 << 20  # of one image: a radiograph has at most 20 million pixels of 16 bits


def take_image(path: str) -> Image.Image:
    """The uploaded image, whose file is removed whatever happens.

    Raises ValueError with one sentence that names the file as the visitor knows it.
    """
    try:
        width, height = image_size(path)
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}; give a smaller copy")
        return load_image(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), Path(path).name)) from None
    finally:
        remove(path)


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
