"""anyres: the grid of an image, its tiles, and that counting them by the header and cutting them never disagree."""

import io
import math
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

from llava.data.anyres import best_grid, check_pinpoints, num_views, read_grids
from llava.data.images import image_size, load_image, preprocess_image
from oracles.films import noise

ALL = "(1x1),...,(6x6)"
SETTINGS = {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": ALL}
SIZES = [(20, 20), (48, 48), (90, 30), (30, 100), (70, 64), (300, 300)]  # 2, 5, 4, 5, 5, 5 tiles of 32 px
TILES = [2, 5, 4, 5, 5, 5]


def test_a_range_is_every_grid_between_its_corners():
    assert read_grids("anyres", "(1x2), ..., (2x3)", 32) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert len(read_grids("anyres", ALL, 32)) == 36


@pytest.mark.parametrize("pinpoints", ["[[384, 768], [768, 384]]", "[(384,768),(768,384)]", "((384, 768), (768, 384))"])
def test_a_list_holds_width_and_height_in_pixels(pinpoints):
    assert read_grids("anyres", pinpoints, 384) == [(1, 2), (2, 1)]
    assert read_grids("anyres", pinpoints, 192) == [(2, 4), (4, 2)]


def test_max_n_leaves_grids_of_at_most_n_tiles():
    grids = read_grids("anyres_max_4", ALL, 32)
    assert sorted(grids) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
    assert read_grids("square", None, 32) == read_grids("pad", None, 32) == []


@pytest.mark.parametrize(
    "mode, pinpoints, message",
    [
        ("anyres", None, "--image_aspect_ratio anyres with --image_grid_pinpoints None: give e.g."),
        ("anyres_max_4", "", "--image_aspect_ratio anyres_max_4 with --image_grid_pinpoints : give e.g."),
        ("square", ALL, "--image_aspect_ratio square with .*: leave them out"),
        *(("anyres", text, "cannot be read; give e.g.") for text in ("x", "[]", "[1]", "[[1, 2, 3]]", "[[0, 5]]", "5")),
        ("anyres", "[[384.0, 384]]", "cannot be read; give e.g."),
        ("anyres", "[[384, 384]", "cannot be read; give e.g."),
    ],
)
def test_pinpoints_that_do_not_serve_are_named(mode, pinpoints, message):
    with pytest.raises(ValueError, match=message) as error:
        check_pinpoints(mode, pinpoints)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "mode, pinpoints, message",
    [
        ("anyres", "[[384, 700]]", r"\[384, 700\] is no multiple of the tower's 384 pixels"),
        ("anyres_max_3", "[[768, 768]]", "has no grid for anyres_max_3"),
        ("anyres", "(3x3),...,(2x2)", "has no grid for anyres"),
    ],
)
def test_pinpoints_that_do_not_fit_the_tower_or_the_limit_are_named(mode, pinpoints, message):
    with pytest.raises(ValueError, match=message):
        read_grids(mode, pinpoints, 384)


@pytest.mark.parametrize(
    "size, grid",
    [
        ((384, 384), (1, 1)),
        ((512, 512), (2, 2)),
        ((1024, 768), (3, 2)),
        ((2544, 3056), (5, 6)),
        ((336, 1000), (1, 3)),
    ],
)
def test_the_grid_is_the_choice_of_llava(size, grid):
    """What LLaVA-NeXT chooses among 36 grids of 384 pixels, read back from its numbers of visual tokens."""
    assert best_grid(size, read_grids("anyres", ALL, 384), 384) == grid


def literal_choice(size, resolutions):
    """The loop as LLaVA-NeXT describes it: keep the most of the image, then waste the least."""
    best, best_kept, best_wasted = None, 0, math.inf
    for width, height in resolutions:
        scale = min(width / size[0], height / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        wasted = width * height - kept
        if kept > best_kept or (kept == best_kept and wasted < best_wasted):
            best, best_kept, best_wasted = (width, height), kept, wasted
    return best


def test_the_grid_is_that_of_the_literal_loop_for_any_size():
    numbers = random.Random(0)
    for mode, side in [("anyres", 32), ("anyres_max_9", 224)]:
        grids = read_grids(mode, ALL, side)
        for _ in range(300):
            size = numbers.randint(16, 8 * side), numbers.randint(16, 8 * side)
            columns, rows = best_grid(size, grids, side)
            assert (columns * side, rows * side) == literal_choice(size, [(c * side, r * side) for c, r in grids])


@pytest.fixture(scope="module")
def processor():
    return SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_tiles_are_the_whole_and_then_the_grid_row_by_row(processor):
    image = noise(96, 64)  # just three by two tiles
    tiles = preprocess_image(image, processor, "anyres", [(3, 2)])
    assert tiles.shape == (7, 3, 32, 32)
    assert torch.equal(tiles[:1], preprocess_image(image, processor, "square"))
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 127.5 - 1
    for number, (row, column) in enumerate((row, column) for row in (0, 1) for column in (0, 1, 2)):
        expected = pixels[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        torch.testing.assert_close(tiles[1 + number], expected, rtol=0, atol=1e-6)


def test_an_image_of_another_shape_lies_in_the_middle_of_black(processor):
    tiles = preprocess_image(Image.new("RGB", (80, 20), "white"), processor, "anyres", [(2, 1)])
    assert tiles.shape == (3, 3, 32, 32)
    grid = torch.cat([tiles[1], tiles[2]], dim=2)[0]  # [32, 64]: 64 x 16 white pixels
    assert torch.equal(grid[8:24], torch.ones(16, 64)) and torch.equal(grid[:8], -torch.ones(8, 64))
    assert torch.equal(grid[24:], -torch.ones(8, 64))


def test_without_grids_there_is_one_tile(processor):
    image = noise(50, 40)
    assert torch.equal(preprocess_image(image, processor, "anyres"), preprocess_image(image, processor, "square"))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_orientation(path, image, orientation, where):
    """Saves an image whose metadata say how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if where == "header":
        image.save(path, exif=exif)
        return
    xmp = f'<x tiff:Orientation="{orientation}"/>'.encode()
    if where == "XMP of a TIFF":
        image.save(path, tiffinfo={700: xmp})
        return
    image.save(file := io.BytesIO(), "PNG")
    behind = {
        "eXIf behind the pixels": chunk(b"eXIf", exif.tobytes()[6:]),
        "XMP behind the pixels": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    }[where]
    content, end = file.getvalue()[:-12], file.getvalue()[-12:]
    path.write_bytes(content + behind + end)


KINDS = [
    ("jpg", "header"),
    ("png", "header"),
    ("tif", "header"),
    ("webp", "header"),
    ("tif", "XMP of a TIFF"),
    ("png", "eXIf behind the pixels"),
    ("png", "XMP behind the pixels"),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix, where", KINDS)
def test_the_header_tells_the_size_and_tiles_that_the_upright_image_has(
    tmp_path, processor, suffix, where, orientation
):
    path = tmp_path / f"film.{suffix}"
    with_orientation(path, noise(130, 40), orientation, where)
    image = load_image(path)
    assert image.size == ((40, 130) if orientation > 4 else (130, 40))
    assert image_size(path) == image.size
    grids = [(4, 1), (1, 2)]  # another number of tiles if the image lay on its side
    tiles = preprocess_image(image, processor, "anyres", grids)
    assert len(tiles) == num_views(image_size(path), grids, 32) == (3 if orientation > 4 else 5)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_size_is_told_without_decoding(tmp_path, monkeypatch, suffix):
    noise(70, 50).save(tmp_path / f"film.{suffix}")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: (_ for _ in ()).throw(AssertionError("decoded")))
    assert image_size(tmp_path / f"film.{suffix}") == (70, 50)


def test_the_size_of_a_file_that_is_no_image_is_not_told(tmp_path):
    (tmp_path / "film.png").write_text("text")
    with pytest.raises(ValueError, match="film.png: not an image file"):
        image_size(tmp_path / "film.png")
