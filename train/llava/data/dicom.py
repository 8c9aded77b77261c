"""DICOM files as 8-bit images; pydicom reads them, GDCM decodes compressed ones. Both are loaded with the first file.

A grey image goes through the steps of the standard (PS3.3 C.7.6.3, C.11.1, C.11.2): stored values; rescale slope and
intercept, or a table; for display the first table, or else the first window; and MONOCHROME1 is turned, so that bone is
bright. Without a table or window for display, values of more than 8 bits are scaled from their own minimum to their own
maximum. Pixels that hold the padding value are no part of the image: they do not count in this, and become black.
"""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dllm.program import is_of_file_system, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # as Pillow's
MOST_HEADER = 1 << 20  # bytes
PIXEL_DATA = 0x7FE00010  # tag
MARK, MARK_AT = b"DICM", 128  # every DICOM file holds the mark behind an unused preamble


def is_dicom(path: str | Path) -> bool:
    """Whether the file is a DICOM file by its name (.dcm) or by its mark."""
    if Path(path).suffix.lower() == ".dcm":
        return True
    with open(path, "rb") as file:
        file.seek(MARK_AT)
        return file.read(len(MARK)) == MARK


def read_dicom(path: str | Path) -> Image.Image:
    """The image in a DICOM file, with 8 bits, grey ("L") or colour ("RGB").

    Raises ValueError with one line that names the file and the remedy: pydicom is missing, the file is unreadable, has
    no pixels or several frames, is in colours of another kind, or compressed or encrypted in a way without a decoder.
    """
    data = _read(path)
    _check_decoder(data, path)
    try:
        stored = _decoded(data)
        image = _grey(stored, data) if data.PhotometricInterpretation in GREY else _colour(stored, data)
    except Exception as error:  # decoders raise errors of many types
        if is_of_file_system(error):
            raise
        problem = f"truncated or damaged ({one_line(error)})"
        raise ValueError(f"{path}: the DICOM file is {problem}; copy or export it again") from error
    return Image.fromarray(image)


def check_dicom(path: str | Path) -> None:
    """Raises ValueError as `read_dicom` does, for what can be told without decoding the pixels."""
    _check_decoder(_read(path), path)


def dicom_size(path: str | Path) -> tuple[int, int]:
    """Width and height of the image in pixels, from the header. Raises ValueError as `read_dicom` does."""
    data = _read(path, header_only=True)
    return int(data.Columns), int(data.Rows)


def _read(path: str | Path, header_only: bool = False) -> Dataset:
    """The data set of one image, with its pixels still encoded."""
    try:
        import pydicom
    except ImportError:
        raise ValueError(f'{path}: reading DICOM files needs pydicom; pip install -e "train[dicom]"') from None
    try:
        with warnings.catch_warnings(action="ignore"):  # of fields that play no part here, or of faults that are found
            _check_inflated_size(path)
            data = pydicom.dcmread(path, stop_before_pixels=header_only)
            int(data.get("NumberOfFrames") or 1), data.get("PhotometricInterpretation")  # are parsed when asked for
    except pydicom.errors.InvalidDicomError:
        raise ValueError(f"{path}: not a DICOM file (no mark DICM at byte {MARK_AT}); export it again") from None
    except Exception as error:  # header parsers raise errors of many types
        if is_of_file_system(error) or str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: the DICOM file cannot be read ({one_line(error)}); copy it again") from error
    _check_header(data, path, header_only or "PixelData" in data)
    return data


def _check_inflated_size(path: str | Path) -> None:
    """Raises ValueError if a deflated file inflates to more than the image that its header promises; pydicom inflates
    all of it, whatever that is.
    """
    from pydicom.filereader import read_dataset, read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    with open(path, "rb") as file:
        file.seek(MARK_AT + len(MARK) + 12 + meta.FileMetaInformationGroupLength)  # 12: of that element itself
        inflate, deflated = zlib.decompressobj(-zlib.MAX_WBITS), file.read()
    start = BytesIO(inflate.decompress(deflated, MOST_HEADER))
    header = read_dataset(start, False, True, stop_when=lambda tag, *_: tag == PIXEL_DATA)
    _check_header(header, path)
    pixels = header.Rows * header.Columns * header.SamplesPerPixel * header.BitsAllocated // 8
    inflate.decompress(inflate.unconsumed_tail, pixels + MOST_HEADER)
    if not inflate.eof:
        raise ValueError(f"it does not end after the {pixels:,} bytes of pixels that its header promises")


def _check_header(data: Dataset, path: str | Path, has_pixels: bool = True) -> None:
    """Raises ValueError if the file is not one image of a kind that can be read."""
    kind, frames = data.get("PhotometricInterpretation"), int(data.get("NumberOfFrames") or 1)
    if not has_pixels or not all(isinstance(data.get(side), int) for side in ("Rows", "Columns")):
        raise ValueError(f"{path}: the DICOM file holds no pixels, or is cut off; copy it again or name another file")
    if data.Rows * data.Columns > MOST_PIXELS:
        size = f"{data.Columns} x {data.Rows} pixels"
        raise ValueError(f"{path}: the DICOM file has {size}, too many; give a smaller copy")
    if frames > 1:
        raise ValueError(f"{path}: the DICOM file holds {frames} frames; export the one that is meant as its own file")
    if kind not in GREY + COLOUR:
        raise ValueError(f"{path}: the DICOM file is {kind}, not grey, RGB or YBR; convert it to PNG")


def _check_decoder(data: Dataset, path: str | Path) -> None:
    """Raise ValueError if nothing can decode the image's pixels."""
    from pydicom.pixels import get_decoder

    syntax, remedy = data.file_meta.get("TransferSyntaxUID", ""), "export it uncompressed and without encryption"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        pass
    else:
        if decoder.is_available:
            return
        if any(plugin.startswith("gdcm") for plugin in decoder.missing_dependencies):
            remedy = 'pip install -e "train[dicom]"'
    name = getattr(syntax, "name", "") or "without a name"
    raise ValueError(f"{path}: no decoder for the DICOM transfer syntax {name}; {remedy}")


def _decoded(data: Dataset) -> np.ndarray:
    """The stored values, [height, width], or in RGB, whatever the file has, [height, width, 3]."""
    from pydicom.pixels import pixel_array

    with warnings.catch_warnings(action="ignore"):  # of more bytes than the image needs
        return pixel_array(data)


def _grey(stored: np.ndarray, data: Dataset) -> np.ndarray:
    """The image for display, uint8 [height, width]."""
    visible = ~_padding(stored, data)
    if not visible.any():
        raise ValueError("every pixel holds the padding value")
    values = _rescaled(stored, data)
    if data.get("VOILUTSequence"):
        table = _table(data.VOILUTSequence[0], data)
        grey, low, high = _looked_up(values, table, data.VOILUTSequence[0]), table.min(), table.max()
    elif data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        grey, low, high = _windowed(values, data), 0.0, 1.0
    elif data.BitsStored <= 8 and values.dtype.kind == "u":
        grey, low, high = values, 0, 2**data.BitsStored - 1
    else:
        grey, low, high = values, values[visible].min(), values[visible].max()
    grey = (grey.astype(np.float64) - low) / max(high - low, 1e-9)
    if data.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return np.rint(255 * np.where(visible, grey, 0)).astype(np.uint8)


def _colour(stored: np.ndarray, data: Dataset) -> np.ndarray:
    """The image for display, uint8 [height, width, 3]."""
    return np.rint(stored * (255 / (2**data.BitsStored - 1))).astype(np.uint8)


def _padding(stored: np.ndarray, data: Dataset) -> np.ndarray:
    """Which pixels hold the padding value, or one of its range, bool [height, width]."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, data.get("PixelPaddingRangeLimit", value)))
    return (stored >= low) & (stored <= high)


def _rescaled(stored: np.ndarray, data: Dataset) -> np.ndarray:
    if data.get("ModalityLUTSequence"):
        item = data.ModalityLUTSequence[0]
        return _looked_up(stored, _table(item, data), item)
    slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def _table(item: Dataset, data: Dataset) -> np.ndarray:
    """The entries of a lookup table."""
    entries, count = item.LUTData, item.LUTDescriptor[0] or 2**16
    if isinstance(entries, bytes):
        order = "<" if data.original_encoding[1] else ">"
        entries = np.frombuffer(entries, np.uint8 if len(entries) == count else f"{order}u2")
    return np.asarray(entries)[:count]


def _looked_up(values: np.ndarray, table: np.ndarray, item: Dataset) -> np.ndarray:
    """The values through a table; its first and last entry hold for what lies beyond them."""
    places = np.rint(values).astype(np.int64) - item.LUTDescriptor[1]
    return table[np.clip(places, 0, len(table) - 1)]


def _windowed(values: np.ndarray, data: Dataset) -> np.ndarray:
    """The values through the first window, from 0 (black) to 1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    center, width = (np.atleast_1d(data[name].value).astype(float)[0] for name in ("WindowCenter", "WindowWidth"))
    function = data.get("VOILUTFunction") or "LINEAR"
    if width < (1 if function == "LINEAR" else 1e-9):
        raise ValueError(f"the window has width {width:g}")
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - center) / width)) / 2
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if function == "LINEAR":
        return np.clip((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5, 0, 1)
    raise ValueError(f"the window has the unknown function {function}")
