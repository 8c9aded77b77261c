"""Images that a visitor uploads, and images in the page."""

import io

from PIL import Image

from dllm.web.uploads import data_uri, take
from llava.data.images import image_size, load_image

MAX_PIXELS = 40_000_000  # of one image: a radiograph has at most 20 million pixels of 16 bits


def take_image(path: str) -> Image.Image:
    """The uploaded image, whose file is removed whatever happens.

    Raises ValueError with one sentence that names the file as the visitor knows it.
    """
    return take(path, _read)


def _read(path: str) -> Image.Image:
    width, height = image_size(path)
    if width * height > MAX_PIXELS:
        raise ValueError(f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}; give a smaller copy")
    return load_image(path)


def jpeg_uri(image: Image.Image, side: int) -> str:
    """The image as a data URI of a JPEG of at most `side` pixels a side."""
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((side, side))
    image.save(file, "JPEG", quality=80)
    return data_uri("image/jpeg", file.getvalue())
