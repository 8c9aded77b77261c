"""Images: from a file of any usual kind, DICOM too, to 8-bit RGB, and then to the pixels of SigLIP."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from dllm.program import is_of_file_system
from llava.data.anyres import Grid, Size, best_grid, cut_tiles, is_anyres, num_views, read_grids
from llava.data.dicom import check_dicom, dicom_size, is_dicom, read_dicom

if TYPE_CHECKING:  # converting and checking data needs neither torch nor transformers
    import torch
    from transformers import SiglipImageProcessorPil

# What Pillow may open. Others of its formats start programs (EPS: Ghostscript) or are no images of patients.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "IM")
IMAGE_MODES = ("square", "pad", "anyres", "anyres_max_N")
MIN_SIDE_PX = 16
ALLOW_BLANK = "ALLOW_BLANK_IMAGES"  # environment variable, and in small letters the flag of the programs
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}  # the last bytes of a whole file


def load_image(path: str | Path, keep_grey: bool = False) -> Image.Image:
    """Read the image at `path` as 8-bit RGB, or as it is if it is grey and may stay so; upright (EXIF orientation
    applied).

    An image with more than 8 bits is scaled from its own darkest to its own brightest value: such files hold 10, 12
    or 16 bits of data without saying which, so a fixed divisor would turn a 12-bit image almost black.
    Transparent parts become black, like the surround of a radiograph.

    Raises ValueError with one line that names the file: missing, empty, truncated, not an image, a side under 16 px,
    too many pixels for Pillow, or of one colour throughout, unless `allow_blank_images` was called.
    """
    with _open(path) as image:
        return _decode(image, path, keep_grey)


def check_image(path: str | Path, decode_dicom: bool = True) -> None:
    """Raise the ValueError of `load_image`, at the cost of reading the header and the last bytes of a sound file.

    A JPEG or PNG that ends with its end marker was written to its end and is not decoded, unless its pixels take so few
    bytes, repeat so, or are so transparent that it may show nothing. Any other file is, but for DICOM files without
    `decode_dicom`: each takes tenths of a second, and convert_data.py has decoded them.
    """
    if not decode_dicom and is_dicom(_check_file(path)):
        check_dicom(path)
        return
    with _open(path) as image:
        if _must_be_decoded(path, image):
            _decode(image, path)


def image_size(path: str | Path) -> Size:
    """Width and height of the upright image at `path`, from its header. Raises the ValueError of `load_image`."""
    if is_dicom(_check_file(path)):
        return dicom_size(path)
    with _open(path) as image:
        width, height = image.size
        try:
            if image.format == "PNG" and _has_metadata_at_end(path):
                image.load()
            # PngImageFile would decode every PNG without EXIF data to look for it behind the pixels.
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        except Exception as error:  # parsers raise errors of many types
            raise _damaged(path, error, "damaged") from error
    upright = image.format == "TIFF" and ExifTags.Base.Orientation in image.tag_v2  # Pillow has turned the size itself
    return (height, width) if orientation in (5, 6, 7, 8) and not upright else (width, height)


def allow_blank_images(allow: bool = True) -> None:
    """Lets images pass that show nothing, in this process and those that it starts."""
    if allow:
        os.environ[ALLOW_BLANK] = "True"


def check_mode(mode: str) -> None:
    """Raises ValueError for an unknown image mode."""
    if mode not in IMAGE_MODES[:2] and not is_anyres(mode):
        raise ValueError(f"unknown --image_aspect_ratio {mode!r}; known: {', '.join(IMAGE_MODES)}")


class ImagePreprocessor:
    """Images to pixels as a model's config says: the same in training, generation and evaluation.

    `processor` must be the PIL one: the torchvision one gives slightly different pixels. Shapes: n square tiles of S
    pixels a side, S that of the vision tower.
    """

    def __init__(self, processor: SiglipImageProcessorPil, config):
        self.processor, self.mode = processor, config.image_aspect_ratio
        self.side = config.vision_config.image_size
        check_processor(processor, self.side)
        self.grids = read_grids(self.mode, config.image_grid_pinpoints, self.side)

    def num_tiles(self, size: Size) -> int:
        """Tiles of an image of this width and height."""
        return num_views(size, self.grids, self.side) if self.grids else 1

    def pixels(self, image: Image.Image | list[Image.Image]) -> torch.Tensor:
        """Normalised pixels [n, 3, S, S] of an image, RGB or grey, or of the frames of a video, one tile each."""
        import torch

        if isinstance(image, list):
            return torch.cat([preprocess_image(frame, self.processor, self.mode) for frame in image])
        return preprocess_image(image, self.processor, self.mode, self.grids)


def check_processor(processor: SiglipImageProcessorPil, side: int) -> None:
    """Raises ValueError if the settings of preprocessor_config.json are none for a tower of `side` pixels a side."""
    size, mean, std = processor.size, processor.image_mean, processor.image_std
    if (size["height"], size["width"]) != (side, side):
        problem = f"images of {size['height']} x {size['width']} px, but the vision tower sees {side} x {side}"
        raise ValueError(f"preprocessor_config.json: {problem}; copy the file that belongs to it")
    numbers = [*mean, *std] if len(mean) == len(std) == 3 else [math.nan]
    if not all(math.isfinite(number) for number in numbers) or min(std) <= 0:
        problem = f"image_mean {mean}, image_std {std}"
        raise ValueError(f"preprocessor_config.json: {problem}: give three numbers each, the latter above 0")


def preprocess_image(
    image: Image.Image, processor: SiglipImageProcessorPil, mode: str, grids: Sequence[Grid] = ()
) -> torch.Tensor:
    """Turn an RGB or a grey image into normalised pixels, float32 [tiles, 3, S, S] with S the processor's size.

    `square` stretches the image to S x S, `pad` first centres it on a square of the mean colour and so keeps its shape.
    The anyres modes stretch it too and append the tiles of the best of `grids`; without grids there is one tile.
    Raises ValueError for an unknown mode.
    """
    check_mode(mode)
    if image.mode == "L":  # resized as it is, where one channel is enough: the same pixels in less than half the time
        if mode == "square":
            image = image.resize((processor.size["width"], processor.size["height"]), processor.resample)
        image = image.convert("RGB")
    views = [_pad_to_square(image, processor.image_mean) if mode == "pad" else image]
    if grids:
        side = processor.size["height"]
        views += cut_tiles(image, best_grid(image.size, grids, side), side, processor.resample)
    return processor(images=views, return_tensors="pt")["pixel_values"]  # [tiles, 3, S, S]


def _open(path: str | Path) -> Image.Image:
    """Open the file and check its size in pixels; the pixels are not decoded yet, but for those of a DICOM file."""
    _check_file(path)
    try:
        image = None if is_dicom(path) else Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image file; convert it to JPEG or PNG") from None
    except Image.DecompressionBombError as error:
        size = str(error).partition(",")[0].replace("Image size", "its size")
        raise ValueError(f"{path}: the image has too many pixels to be read ({size}); give a smaller copy") from None
    except Exception as error:  # header parsers raise errors of many types
        raise _damaged(path, error, "damaged") from error
    image = image or read_dicom(path)
    width, height = image.size
    if min(width, height) < MIN_SIDE_PX:
        image.close()
        raise ValueError(f"{path}: the image is {width}x{height} px; give one of at least {MIN_SIDE_PX} px a side")
    return image


def _damaged(path: str | Path, error: Exception, how: str) -> Exception:
    """What is wrong with an image whose reader raised `error`; a file that may not be read is not damaged."""
    return error if is_of_file_system(error) else ValueError(f"{path}: the image is {how} ({error}); copy it again")


def _check_file(path: str | Path) -> str | Path:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such image file; check the image folder and the record's image_path")
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{path}: the image file is empty (0 bytes); copy it again")
    return path


def _must_be_decoded(path: str | Path, image: Image.Image) -> bool:
    """Whether nothing less tells that a file is whole and that its pixels differ: metadata do not count as pixels."""
    if image.format not in END_MARKERS:
        return True
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        file.seek(-min(4096, size), os.SEEK_END)
        tail = file.read()
    if not tail.endswith(END_MARKERS[image.format]):
        return True
    if image.format == "PNG":
        used = sum(length for kind, length in _png_chunks(path) if kind == b"IDAT")
    else:
        used = size - sum(len(data) for _, data in image.applist)
    repeats = 2 * len(zlib.compress(tail)) < len(tail)  # a PNG that is not compressed
    return used < 8192 + image.width * image.height // 16 or repeats or image.has_transparency_data


def _has_metadata_at_end(path: str | Path) -> bool:
    """Whether a PNG has chunks behind its pixels that may hold the orientation."""
    behind = False
    for kind, _ in _png_chunks(path):
        if behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        behind |= kind == b"IDAT"
    return False


def _png_chunks(path: str | Path) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk of a PNG. Reads their headers only."""
    with open(path, "rb") as file:
        file.seek(8)  # the signature
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            yield kind, length
            file.seek(length + 4, os.SEEK_CUR)  # the data and its checksum


def _decode(image: Image.Image, path: str | Path, keep_grey: bool = False) -> Image.Image:
    """Decode an opened image to RGB or grey, upright; anything that goes wrong becomes a ValueError naming the file."""
    # lmms_eval switches this on for its whole process, which turns the missing part of an image grey without a word.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        decoded = _to_8_bits(image, path)
        if not (keep_grey and decoded.mode == "L"):
            decoded = decoded.convert("RGB")
    except Exception as error:  # decoders raise errors of many types
        raise _damaged(path, error, "truncated or damaged") from error
    spread = np.ptp(np.reshape(decoded.getextrema(), (-1, 2)), axis=1)  # of every channel
    if not spread.any() and os.environ.get(ALLOW_BLANK) not in ("True", "1"):
        problem = "every pixel has the same value (empty, transparent, or outside of its window)"
        remedy = f"take it out, or let such images pass with --{ALLOW_BLANK.lower()} ({ALLOW_BLANK}=1 of the scripts)"
        raise ValueError(f"{path}: the image shows nothing, {problem}; {remedy}")
    return decoded


def _to_8_bits(image: Image.Image, path: str | Path) -> Image.Image:
    if (samples := _deep_samples(image, path)) is not None:
        exif, image = image.getexif().tobytes(), _scale_colour(samples)
        image.info["exif"] = exif
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    elif image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return image


def _deep_samples(image: Image.Image, path: str | Path) -> np.ndarray | None:
    """The samples [height, width, channels] of a colour image of 16 bits, else None.

    Pillow reads the upper 8 bits of each; with the order of bytes turned round, the lower ones.
    """
    tiles = getattr(image, "tile", [])
    rawmode = (tiles[0].args if isinstance(tiles[0].args, str) else str(tiles[0].args[0])) if tiles else ""
    if not rawmode.startswith(("LA;16", "RGB;16", "RGBA;16")):
        return None
    if rawmode.startswith("LA"):  # four bytes a pixel, which Pillow can read as such
        values = _read_as(path, rawmode, "RGBA")
        return values[..., ::2] << 8 | values[..., 1::2]
    turned = rawmode[:-1] + ("L" if rawmode.endswith("B") else "B")
    return np.asarray(image, np.uint16) << 8 | _read_as(path, rawmode, turned)


def _read_as(path: str | Path, rawmode: str, other: str) -> np.ndarray:
    """The bytes of an image file [height, width, channels] as Pillow reads them in another raw mode, as uint16."""
    with Image.open(path, formats=FORMATS) as image:
        arguments = [other if tile.args == rawmode else (other, *tile.args[1:]) for tile in image.tile]
        image.tile = [tile._replace(args=args) for tile, args in zip(image.tile, arguments, strict=True)]
        return np.asarray(image, np.uint16)


def _scale_colour(samples: np.ndarray) -> Image.Image:
    """Colour samples as 8-bit RGB: scaled as grey ones are, over black where an alpha channel says so."""
    colour, alpha = samples, np.ones(samples.shape[:2], np.float32)
    if samples.shape[-1] in (2, 4):
        colour, alpha = samples[..., :-1], samples[..., -1] / max(samples[..., -1].max(), 1)
    visible = colour[alpha > 0].astype(np.float32)
    low, high = (visible.min(), visible.max()) if visible.size else (0, 0)
    scaled = (colour - low) * (255 / (high - low) if high > low else 0.0) * alpha[..., None]
    scaled = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3)).copy())


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)  # [height, width]
    if not np.isfinite(values).all():
        raise ValueError("a pixel is not a finite number")
    low, high = values.min(), values.max()
    scale = 255 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((values - low) * scale).astype(np.uint8))


def _pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    width, height = image.size
    side = max(width, height)
    # Normalisation makes the mean colour almost 0.
    square = Image.new("RGB", (side, side), tuple(int(255 * channel) for channel in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
