"""Films of every usual kind become the RGB image that was meant; broken ones give one line that names the file."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from transformers import SiglipImageProcessorPil

from llava.data.images import (
    ALLOW_BLANK,
    MIN_SIDE_PX,
    allow_blank_images,
    check_image,
    image_size,
    load_image,
    preprocess_image,
)

WIDTH, HEIGHT = 40, 60
GREY = np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH)).astype(np.uint8)  # 0 .. 216, every corner different


def pixels(path):
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey_rgb(grey):
    return np.repeat(np.asarray(grey, dtype=np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "RGBA", "LA"])
def test_8_bit_kinds_keep_their_values(tmp_path, kind):
    path = tmp_path / "a film with spaces.png"
    Image.fromarray(GREY).convert(kind).save(path)
    assert Image.open(path).mode == kind
    check_image(path)
    np.testing.assert_array_equal(pixels(path), grey_rgb(GREY))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("darkest, brightest", [(0, 65535), (100, 4195)], ids=["16 bits used", "12 bits used"])
def test_16_bit_film_fills_the_8_bit_range(tmp_path, suffix, darkest, brightest):
    path = tmp_path / f"film.{suffix}"
    film = (darkest + GREY.astype(np.int64) * (brightest - darkest) // GREY.max()).astype(np.uint16)
    Image.fromarray(film).save(path)
    assert Image.open(path).mode == "I;16"
    check_image(path)
    assert np.abs(pixels(path).astype(float) - grey_rgb(GREY) * (255 / GREY.max())).max() < 1


def test_32_bit_integer_and_float_films_fill_the_range(tmp_path):
    for values in (GREY.astype(np.int32) * 1000, GREY.astype(np.float32) / GREY.max()):
        path = tmp_path / f"{values.dtype}.tif"
        Image.fromarray(values).save(path)
        assert np.abs(pixels(path).astype(float) - grey_rgb(GREY) * (255 / GREY.max())).max() < 1


def test_uniform_16_bit_film_is_black(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW_BLANK, "1")
    Image.fromarray(np.full((HEIGHT, WIDTH), 1234, dtype=np.uint16)).save(tmp_path / "film.png")
    assert pixels(tmp_path / "film.png").max() == 0


def test_float_film_with_nan_is_refused(tmp_path):
    values = GREY.astype(np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "film.tif")
    with pytest.raises(ValueError, match=r"film\.tif.*not a finite number"):
        load_image(tmp_path / "film.tif")


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_transparent_parts_become_black(tmp_path, kind):
    path = tmp_path / "film.png"
    white = Image.new("L", (WIDTH, HEIGHT), 255)
    alpha = Image.new("L", (WIDTH, HEIGHT), 255)
    alpha.paste(0, (0, 0, 10, HEIGHT))
    if kind == "P":  # index 0 is white but declared transparent, index 1 is grey
        image = Image.fromarray((np.asarray(alpha) // 255).astype(np.uint8))
        image.putpalette([255, 255, 255, 90, 90, 90])
        image.save(path, transparency=0)
    else:
        image = Image.merge("LA", (white, alpha)).convert(kind)
        image.save(path)
    seen = pixels(path)
    assert Image.open(path).mode == kind
    assert (seen[:, :10] == 0).all()
    assert (seen[:, 10:] == (90 if kind == "P" else 255)).all()


def test_1_bit_film_is_black_and_white(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "film.png")
    assert Image.open(tmp_path / "film.png").mode == "1"
    np.testing.assert_array_equal(pixels(tmp_path / "film.png"), grey_rgb((GREY > 100) * 255))


def test_cmyk_film_keeps_its_greys(tmp_path):
    Image.fromarray(GREY).convert("RGB").convert("CMYK").save(tmp_path / "film.jpg", quality=95)
    assert Image.open(tmp_path / "film.jpg").mode == "CMYK"
    assert np.abs(pixels(tmp_path / "film.jpg").astype(int) - grey_rgb(GREY)).max() <= 6


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: a quarter turn clockwise sets it upright
    Image.fromarray(np.rot90(GREY)).save(tmp_path / "film.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "film.png"), grey_rgb(GREY))


def test_landscape_film_keeps_its_shape(tmp_path):
    Image.fromarray(GREY.T).save(tmp_path / "film.png")
    assert load_image(tmp_path / "film.png").size == (HEIGHT, WIDTH)


def make_missing(path):
    pass


def make_empty(path):
    path.write_bytes(b"")


def make_text(path):
    path.write_text("not a film")


def make_one_pixel(path):
    Image.new("L", (1, 1)).save(path)


def make_too_narrow(path):
    Image.new("L", (MIN_SIDE_PX - 1, 100)).save(path)


def make_folder(path):
    path.mkdir()


def make_truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


BROKEN = [
    (make_missing, "no such image file"),
    (make_folder, "no such image file"),
    (make_empty, "is empty"),
    (make_text, "not an image file"),
    (make_one_pixel, "1x1 px"),
    (make_too_narrow, "15x100 px"),
    (make_truncated, "truncated or damaged"),
]


@pytest.mark.parametrize("read", [load_image, check_image])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("make, problem", BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_broken_file_is_one_line_that_names_it(tmp_path, make, problem, suffix, read):
    path = tmp_path / f"film.{suffix}"
    make(path)
    with pytest.raises(ValueError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and problem in message and "\n" not in message


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_film_of_many_bytes_is_refused_too_if_its_end_is_missing(tmp_path, suffix):
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)).save(path)
    check_image(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        check_image(path)


def test_truncated_film_is_refused_where_a_library_allows_truncated_files(tmp_path, monkeypatch):
    make_truncated(tmp_path / "film.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as `import lmms_eval.api.task` does
    with pytest.raises(ValueError, match="truncated"):
        load_image(tmp_path / "film.jpg")


def test_smallest_allowed_film_loads(tmp_path):
    image = Image.new("L", (MIN_SIDE_PX, MIN_SIDE_PX), 9)
    image.putpixel((0, 0), 8)
    image.save(tmp_path / "film.png")
    assert (pixels(tmp_path / "film.png")[1:] == 9).all()


@pytest.fixture(scope="module")
def processor():
    return SiglipImageProcessorPil(size={"height": 32, "width": 32})


def test_square_stretches_the_film(processor):
    image = Image.fromarray(grey_rgb(GREY))
    out = preprocess_image(image, processor, "square")
    assert out.shape == (1, 3, 32, 32) and out.dtype == torch.float32
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 127.5 - 1
    torch.testing.assert_close(out[0], torch.from_numpy(expected).permute(2, 0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 16), (16, 32)], ids=["landscape", "portrait"])
def test_pad_centres_the_film_on_grey(processor, size):
    out = preprocess_image(Image.new("RGB", size, (255, 255, 255)), processor, "pad")[0]
    if size == (16, 32):
        out = out.transpose(1, 2)  # [3, 32, 32], the film now lies across
    grey, white = out[:, [0, 1, 2, 29, 30, 31]], out[:, 12:20]
    torch.testing.assert_close(grey, torch.full_like(grey, 127 / 127.5 - 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(white, torch.ones_like(white), atol=1e-5, rtol=0)


def test_pad_leaves_a_square_film_alone(processor):
    image = Image.fromarray(grey_rgb(GREY[:WIDTH]))
    assert torch.equal(preprocess_image(image, processor, "pad"), preprocess_image(image, processor, "square"))


@pytest.mark.parametrize("mode, kind", [("square", "L"), ("square", "I;16"), ("pad", "L"), ("square", "RGB")])
def test_a_grey_film_that_stays_grey_gives_the_same_pixels(tmp_path, processor, mode, kind):
    samples = np.random.default_rng(0).integers(0, 60000 if kind == "I;16" else 256, (90, 70, 3))
    samples = samples.astype(np.uint16 if kind == "I;16" else np.uint8)
    Image.fromarray(samples if kind == "RGB" else samples[..., 0]).save(tmp_path / "film.png")
    kept = load_image(tmp_path / "film.png", keep_grey=True)
    assert kept.mode == ("RGB" if kind == "RGB" else "L")
    expected = preprocess_image(load_image(tmp_path / "film.png"), processor, mode)
    assert torch.equal(preprocess_image(kept, processor, mode), expected)


def test_unknown_mode_names_the_known_ones(processor):
    with pytest.raises(ValueError, match="'round'.*square, pad"):
        preprocess_image(Image.new("RGB", (32, 32)), processor, "round")


def test_reading_images_needs_neither_torch_nor_transformers():
    code = "import sys, llava.data.images; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def png(path, samples: np.ndarray) -> None:
    """Writes samples [height, width, channels] as a PNG of 16 bits, grey with alpha, RGB or RGBA."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("brightest", [4095, 65535])
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_colour_of_16_bits_is_scaled_as_grey_is(tmp_path, kind, brightest):
    grey = np.linspace(0, brightest, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    samples = [grey] * len(kind.rstrip("A")) + [np.full_like(grey, brightest)] * kind.endswith("A")
    png(tmp_path / "film.png", np.stack(samples, axis=-1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.abs(pixels(tmp_path / "film.png").astype(int) - pixels(tmp_path / "grey.png")).max() <= 1
    assert (pixels(tmp_path / "film.png").min(), pixels(tmp_path / "film.png").max()) == (0, 255)


def test_transparent_parts_of_16_bits_are_black_and_do_not_count(tmp_path):
    samples = np.stack([np.full((20, 30), 60000), np.full((20, 30), 4095)], axis=-1)
    samples[:, :10, 1] = 0
    samples[:, 10:, 0] = np.arange(20) * 100
    png(tmp_path / "film.png", samples)
    shown = pixels(tmp_path / "film.png")
    assert shown[:, :10].max() == 0 and shown[:, 10:].max() == 255


def test_orientation_of_16_bits_is_applied(tmp_path):
    samples = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    samples[0] = 4095
    png(tmp_path / "film.png", samples)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter to the right
    content = (tmp_path / "film.png").read_bytes()
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    (tmp_path / "film.png").write_bytes(content[:33] + chunk + content[33:])
    shown = pixels(tmp_path / "film.png")
    assert shown.shape[:2] == (WIDTH, HEIGHT) and (shown[:, -1] == 255).all() and shown[:, :-1].max() == 0


@pytest.mark.parametrize("read", [load_image, check_image])
@pytest.mark.parametrize("kind", ["grey.png", "white.jpg", "transparent.png", "large.png", "large.jpg", "deep.png"])
def test_an_image_that_shows_nothing_is_refused_unless_it_is_allowed(tmp_path, monkeypatch, kind, read):
    monkeypatch.delenv(ALLOW_BLANK, raising=False)
    path = tmp_path / kind
    if kind == "transparent.png":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
        noise[..., 3] = 0
        Image.fromarray(noise).save(path)
    elif kind == "deep.png":
        png(path, np.full((32, 32, 3), 3000, np.uint16))
    else:
        side = 2000 if kind.startswith("large") else 64
        Image.new("L", (side, side), 255 if kind == "white.jpg" else 77).save(path)
    with pytest.raises(
        ValueError,
        match=rf"{kind}: the image shows nothing, .* pass with --allow_blank_images \(ALLOW_BLANK_IMAGES=1 of",
    ):
        read(path)
    monkeypatch.setenv(ALLOW_BLANK, "0")  # restored after the test
    allow_blank_images()
    read(path)


@pytest.mark.parametrize(
    "kind, option",
    [("png", "icc_profile"), ("png", "exif"), ("png", "compress_level"), ("jpg", "icc_profile"), ("jpg", "exif")],
)
def test_metadata_and_stored_pixels_do_not_hide_that_an_image_shows_nothing(tmp_path, monkeypatch, kind, option):
    """They make the file as large as one with something to see, and the run ended at the image's turn."""
    monkeypatch.delenv(ALLOW_BLANK, raising=False)
    noise, exif = np.random.default_rng(0).bytes(60_000), Image.Exif()
    exif[0x927C] = noise  # the maker's note
    values = {"icc_profile": noise, "exif": exif, "compress_level": 0}
    Image.new("L", (512, 512), 77).save(tmp_path / f"film.{kind}", **{option: values[option]})
    with pytest.raises(ValueError, match="the image shows nothing"):
        check_image(tmp_path / f"film.{kind}")


@pytest.mark.parametrize("read", [load_image, check_image, image_size])
def test_an_image_of_too_many_pixels_says_so(tmp_path, monkeypatch, read):
    Image.new("1", (400, 300)).save(tmp_path / "film.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(ValueError) as error:
        read(tmp_path / "film.png")
    assert "film.png: the image has too many pixels to be read (its size (120000 pixels)" in str(error.value)
    assert str(error.value).endswith("; give a smaller copy") and "damaged" not in str(error.value)
