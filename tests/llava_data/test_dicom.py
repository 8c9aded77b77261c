"""DICOM films: every pixel as a computation by hand has it, and one line for each file that cannot be read."""

import json
import math
import subprocess
import sys
from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from generate_demo import image_files
from llava.data.images import ALLOW_BLANK, check_image, image_size, load_image
from llava.radiology.annotation import convert_annotation

WIDTH, HEIGHT = 20, 30
RAMP = np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH))  # 0 .. 106, every corner different
TABLE = np.arange(16) ** 2 * 4  # 0 .. 900, 16 entries


def write(path, stored, syntax=ExplicitVRLittleEndian, **attributes):
    """Writes a film of the stored values [height, width] or [height, width, 3]; attributes have DICOM's names."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    bits = attributes.pop("bits", 8 * stored.itemsize)
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * stored.itemsize, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    private = {"implicit_vr": False, "little_endian": True} if UID(syntax).is_private else {}
    data.save_as(path, enforce_file_format=True, **private)
    return path


def table(entries, first, bits, kind="OW"):
    """A lookup table whose first entry belongs to the value `first`; its entries are written as bytes or numbers."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", kind, entries.astype("<u2").tobytes() if kind == "OW" else entries.tolist())
    return [item]


def compress(path, kind):
    """Compresses the pixels of a file with GDCM, without loss."""
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def shown(path):
    """The grey values of a film, [height, width]."""
    check_image(path)
    image = load_image(path)
    assert image.mode == "RGB" and image.size == image_size(path)
    pixels = np.asarray(image)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0]


def by_hand(stored, function):
    """The film when each stored value becomes 255 * function(value), one by one."""
    return np.array([[round(255 * function(int(value))) for value in row] for row in stored])


def clip(value):
    return min(max(value, 0), 1)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("name", ["a film.dcm", "A FILM.DCM", "film without ending"])
def test_8_bit_film_keeps_its_values(tmp_path, name, syntax):
    path = write(tmp_path / name, RAMP.astype(np.uint8), syntax)
    np.testing.assert_array_equal(shown(path), RAMP)


@pytest.mark.parametrize("bits, scale, offset", [(16, 600, 1000), (12, 30, 100), (10, 9, 0)])
def test_film_without_window_fills_the_range(tmp_path, bits, scale, offset):
    stored = (RAMP * scale + offset).astype(np.uint16)
    path = write(tmp_path / "film.dcm", stored, bits=bits)
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: value / RAMP.max()))


def test_monochrome1_is_turned(tmp_path):
    path = write(tmp_path / "film.dcm", (RAMP * 30).astype(np.uint16), bits=12, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: 1 - value / RAMP.max()))


def test_uniform_film_is_black_where_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW_BLANK, "1")
    assert shown(write(tmp_path / "film.dcm", np.full((16, 16), 700, np.uint16), bits=12)).max() == 0


def test_signed_values_with_slope_and_intercept(tmp_path):
    stored = (RAMP * 20 - 1000).astype(np.int16)
    path = write(
        tmp_path / "film.dcm", stored, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=-800, WindowWidth=1001
    )
    expected = by_hand(stored, lambda value: clip((2 * value - 100 + 800.5) / 1000 + 0.5))
    assert expected.min() == 0 and expected.max() == 255 and 50 < expected.mean() < 200
    np.testing.assert_array_equal(shown(path), expected)


def test_8_bit_film_with_a_slope_is_scaled(tmp_path):
    path = write(tmp_path / "film.dcm", RAMP.astype(np.uint8), RescaleSlope=3, RescaleIntercept=7)
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: value / RAMP.max()))


@pytest.mark.parametrize("dtype, low", [(np.uint16, 0), (np.int16, -1600)])
def test_unused_high_bits_do_not_count(tmp_path, dtype, low):
    values = RAMP * 30 + low
    with_other_bits = ((values & 0xFFF) | ((RAMP % 3) << 12)).astype(np.uint16).view(dtype)
    path = write(tmp_path / "film.dcm", with_other_bits, bits=12)
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: value / RAMP.max()))


WINDOWS = {
    None: lambda value: clip((value - 1499.5) / 999 + 0.5),
    "LINEAR": lambda value: clip((value - 1499.5) / 999 + 0.5),
    "LINEAR_EXACT": lambda value: clip((value - 1500) / 1000 + 0.5),
    "SIGMOID": lambda value: 1 / (1 + math.exp(-4 * (value - 1500) / 1000)),
}


@pytest.mark.parametrize("several", [False, True], ids=["one window", "several windows"])
@pytest.mark.parametrize("function", WINDOWS)
def test_window(tmp_path, function, several):
    stored = (RAMP * 30).astype(np.uint16)
    attributes = {"WindowCenter": [1500, 40] if several else 1500, "WindowWidth": [1000, 80] if several else 1000}
    attributes |= {"VOILUTFunction": function} if function else {}
    path = write(tmp_path / "film.dcm", stored, bits=12, **attributes)
    expected = by_hand(stored, WINDOWS[function])
    assert expected.min() < 5 and expected.max() > 250
    np.testing.assert_array_equal(shown(path), expected)
    data = pydicom.dcmread(path)
    data.PhotometricInterpretation = "MONOCHROME1"
    data.save_as(path)
    np.testing.assert_array_equal(shown(path), by_hand(stored, lambda value: 1 - WINDOWS[function](value)))


def test_narrowest_window_is_a_step(tmp_path):
    path = write(tmp_path / "film.dcm", RAMP.astype(np.uint8), WindowCenter=50, WindowWidth=1)
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: value >= 50))


@pytest.mark.parametrize("bits, kind", [(8, "OW"), (10, "OW"), (10, "US")])
def test_table_for_display(tmp_path, bits, kind):
    """The least entry is black and the greatest white. The table beats a window."""
    entries = TABLE // 4 if bits == 8 else TABLE
    path = write(
        tmp_path / "film.dcm",
        RAMP.astype(np.uint8),
        WindowCenter=9,
        WindowWidth=5,
        VOILUTSequence=table(entries, 40, bits, kind),
    )
    np.testing.assert_array_equal(shown(path), by_hand(RAMP, lambda value: (min(max(value - 40, 0), 15) / 15) ** 2))


def test_table_for_stored_values_and_a_window(tmp_path):
    path = write(
        tmp_path / "film.dcm",
        RAMP.astype(np.uint16),
        ModalityLUTSequence=table(TABLE, 30, 16),
        WindowCenter=450.5,
        WindowWidth=901,
    )
    expected = by_hand(RAMP, lambda value: TABLE[min(max(value - 30, 0), 15)] / 900)
    np.testing.assert_array_equal(shown(path), expected)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 65000])
def test_padding_is_black_and_does_not_count(tmp_path, kind, limit):
    stored = (RAMP * 30 + 200).astype(np.uint16)
    stored[:, :3], stored[:, 3] = 65535, 65535 if limit is None else 65000
    padding = {"PixelPaddingValue": 65535} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    path = write(tmp_path / "film.dcm", stored, PhotometricInterpretation=kind, **padding)
    film = RAMP[:, 4:]
    expected = by_hand(film, lambda value: (value - film.min()) / (film.max() - film.min()))
    seen = shown(path)
    assert (seen[:, :4] == 0).all()
    np.testing.assert_array_equal(
        seen[:, 4:],
        expected
        if kind == "MONOCHROME2"
        else by_hand(film, lambda value: 1 - (value - film.min()) / (film.max() - film.min())),
    )


def colour():
    return np.stack([RAMP, RAMP * 2, 255 - RAMP], axis=2).astype(np.uint8)  # [height, width, 3]


def test_rgb_film_keeps_its_colours(tmp_path):
    path = write(tmp_path / "film.dcm", colour())
    np.testing.assert_array_equal(np.asarray(load_image(path)), colour())
    planes = np.ascontiguousarray(colour().transpose(2, 0, 1)).tobytes()
    path = write(tmp_path / "planes.dcm", colour(), PlanarConfiguration=1, PixelData=planes)
    np.testing.assert_array_equal(np.asarray(load_image(path)), colour())


def test_16_bit_colours_become_8_bit(tmp_path):
    path = write(tmp_path / "film.dcm", colour().astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.asarray(load_image(path)), colour())


def test_ybr_film_becomes_rgb(tmp_path):
    """PS3.3 C.7.6.3.1.2: R = Y + 1.402 Cr, G = Y - .344 Cb - .714 Cr, B = Y + 1.772 Cb, with Cb and Cr less 128."""
    stored = np.stack([RAMP + 60, np.full_like(RAMP, 138), np.full_like(RAMP, 148)], axis=2).astype(np.uint8)
    path = write(tmp_path / "film.dcm", stored, PhotometricInterpretation="YBR_FULL")
    luma = RAMP[:, :, None] + 60
    expected = luma + np.array([1.402 * 20, -0.344136 * 10 - 0.714136 * 20, 1.772 * 10])
    assert np.abs(np.asarray(load_image(path)) - expected).max() <= 1


def test_jpeg_with_halved_colours_becomes_rgb(tmp_path):
    file = BytesIO()
    Image.fromarray(colour()).save(file, "JPEG", quality=95, subsampling="4:2:2")
    film = encapsulate([file.getvalue()])
    path = write(
        tmp_path / "film.dcm", colour(), JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422", PixelData=film
    )
    assert np.abs(np.asarray(load_image(path)).astype(int) - colour()).mean() < 4


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=str)
def test_compressed_film_is_the_same(tmp_path, syntax, kind):
    import gdcm

    kinds = {
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
        JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
        RLELossless: gdcm.TransferSyntax.RLELossless,
    }
    path = write(tmp_path / "film.dcm", (RAMP * 30).astype(np.uint16), bits=12, PhotometricInterpretation=kind)
    plain = shown(path)
    compress(path, kinds[syntax])
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(shown(path), plain)


def make_text(path):
    path.write_text("no film, but a text that is longer than a DICOM preamble " * 5)


def make_empty(path):
    path.write_bytes(b"")


def make_cut(path, keep):
    write(path, (RAMP * 30).astype(np.uint16), bits=12)
    path.write_bytes(path.read_bytes()[:keep])


def make_compressed_and_cut(path):
    import gdcm

    noise = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    compress(write(path, noise, bits=12), gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    path.write_bytes(path.read_bytes()[:-4000])


def make_without(path, *names):
    write(path, RAMP.astype(np.uint8))
    data = pydicom.dcmread(path)
    for name in names:
        delattr(data, name)
    data.save_as(path)


FILM = RAMP.astype(np.uint8)
BROKEN = {
    "missing": (lambda path: None, "no such image file"),
    "empty": (make_empty, "is empty"),
    "text": (make_text, "not a DICOM file (no mark DICM at byte 128); export it again"),
    "cut in the pixels": (lambda path: make_cut(path, -20), "is truncated or damaged"),
    "cut in the header": (lambda path: make_cut(path, 400), "holds no pixels, or is cut off"),
    "compressed and cut": (make_compressed_and_cut, "holds no pixels, or is cut off"),
    "no pixels": (lambda path: make_without(path, "PixelData"), "holds no pixels"),
    "no size": (lambda path: make_without(path, "Rows"), "holds no pixels"),
    "two frames": (
        lambda path: write(path, FILM, NumberOfFrames=2, PixelData=FILM.tobytes() * 2),
        "holds 2 frames; export",
    ),
    "palette": (
        lambda path: write(path, FILM, PhotometricInterpretation="PALETTE COLOR"),
        "is PALETTE COLOR, not grey, RGB or YBR; convert it to PNG",
    ),
    "private syntax": (
        lambda path: write(path, FILM, "1.2.826.0.1.3680043.8.498.1", PixelData=b"12"),
        "no decoder for the DICOM transfer syntax 1.2.826.0.1.3680043.8.498.1; export it uncompressed",
    ),
    "syntax of no decoder here": (
        lambda path: write(path, FILM, HTJ2K, PixelData=encapsulate([b"12"])),
        "no decoder for the DICOM transfer syntax High-Throughput JPEG 2000 Image Compression; export it uncompressed",
    ),
    "window of no width": (lambda path: write(path, FILM, WindowCenter=5, WindowWidth=0), "the window has width 0"),
    "unknown window": (
        lambda path: write(path, FILM, WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBIC"),
        "the unknown function CUBIC",
    ),
    "padding only": (
        lambda path: write(path, np.full((16, 16), 9, np.uint8), PixelPaddingValue=9),
        "every pixel holds the padding value",
    ),
    "too small": (lambda path: write(path, FILM[:15]), "the image is 20x15 px"),
}


@pytest.mark.parametrize("read", [load_image, check_image])
@pytest.mark.parametrize("make, problem", BROKEN.values(), ids=BROKEN)
def test_broken_file_is_one_line_that_names_it(tmp_path, make, problem, read):
    path = tmp_path / "film.dcm"
    make(path)
    with pytest.raises(ValueError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and problem in message and "\n" not in message
    assert message.count(str(path)) == 1


def test_size_comes_from_the_header(tmp_path):
    path = tmp_path / "film.dcm"
    make_cut(path, -20)
    assert image_size(path) == (WIDTH, HEIGHT)
    make_without(path, "Columns")
    with pytest.raises(ValueError, match="holds no pixels"):
        image_size(path)


def test_conversion_checks_dicom_films(tmp_path):
    write(tmp_path / "film.dcm", FILM)
    record = {"id": "a1", "report": "The lungs are clear.", "image_path": ["film.dcm"]}
    (tmp_path / "in.json").write_text(json.dumps({"train": [record]}))
    assert "1 studies, 1 images" in convert_annotation(tmp_path / "in.json", tmp_path / "out", "first", tmp_path)
    make_cut(tmp_path / "film.dcm", -20)
    with pytest.raises(ValueError, match=r"film\.dcm: the DICOM file is truncated or damaged"):
        convert_annotation(tmp_path / "in.json", tmp_path / "new", "first", tmp_path)


def test_demo_takes_dicom_files_of_a_folder(tmp_path):
    write(tmp_path / "film.dcm", FILM)
    (tmp_path / "notes.txt").write_text("no film")
    assert image_files(str(tmp_path)) == (["film.dcm"], 1)
    for hidden in ("._film.dcm", "__MACOSX/film.dcm", ".cache/film.dcm"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\5\26\7")
    assert image_files(str(tmp_path)) == (["film.dcm"], 4)


def test_pydicom_is_loaded_with_the_first_dicom_file(tmp_path):
    Image.fromarray(FILM).save(tmp_path / "film.png")
    write(tmp_path / "film.dcm", FILM)
    code = "import sys; from llava.data.images import load_image; print('pydicom' in sys.modules)\n"
    code += "for path in sys.argv[1:]: load_image(path); print('pydicom' in sys.modules)"
    command = [sys.executable, "-c", code, tmp_path / "film.png", tmp_path / "film.dcm"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True"], done.stderr


def test_missing_pydicom_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "film.dcm", FILM)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        ValueError, match=r'film\.dcm: reading DICOM files needs pydicom; pip install -e "train\[dicom\]"'
    ):
        load_image(path)


def test_missing_gdcm_is_named(tmp_path, monkeypatch):
    from pydicom.pixels import get_decoder

    path = write(tmp_path / "film.dcm", FILM, JPEGLosslessSV1, PixelData=encapsulate([b"12"]))
    decoder = get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    with pytest.raises(ValueError, match=r'no decoder for .*JPEG Lossless.*; pip install -e "train\[dicom\]"'):
        load_image(path)


@pytest.mark.parametrize("read", [load_image, check_image])
def test_a_window_that_leaves_nothing_is_refused(tmp_path, monkeypatch, read):
    monkeypatch.delenv(ALLOW_BLANK, raising=False)
    path = write(tmp_path / "film.dcm", RAMP.astype(np.uint16), WindowCenter=50000, WindowWidth=10)
    with pytest.raises(ValueError, match="film.dcm: the image shows nothing, .* outside of its window"):
        read(path)
