"""anyres: an image as one view of the whole and the tiles of a grid that fits its shape (LLaVA-NeXT, Liu et al. 2024).

Every view is a square of S x S pixels and becomes as many visual tokens as a plain image; the tokens follow one another
view by view, the whole first, then the tiles row by row. `anyres_max_N` allows grids of at most N tiles: a resampler
fixes the tokens of a tile, so the tiles are what can be limited.
"""

import ast
import math
import re
from collections.abc import Sequence

from PIL import Image

ANYRES = re.compile(r"anyres(?:_max_([1-9]\d*))?")
RANGE = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")
EXAMPLE = '"(1x1),...,(6x6)" or "[[384, 768], [768, 384]]"'

Size = tuple[int, int]  # width and height in pixels
Grid = tuple[int, int]  # columns and rows of tiles


def is_anyres(mode: str) -> bool:
    """Whether an image mode is `anyres` or `anyres_max_N`."""
    return ANYRES.fullmatch(mode) is not None


def read_grids(mode: str, pinpoints: str | None, side: int) -> list[Grid]:
    """The grids of an anyres mode for tiles of `side` pixels; none for other modes.

    `pinpoints` are grids from the first to the last, "(1x1),...,(6x6)" (columns x rows), or resolutions in pixels, a
    JSON list of [width, height]. Raises ValueError if they cannot be read or leave no grid.
    """
    if not is_anyres(mode):
        return []
    if corners := RANGE.fullmatch("".join(pinpoints.split())):
        first_column, first_row, last_column, last_row = map(int, corners.groups())
        grids = [(c, r) for c in range(first_column, last_column + 1) for r in range(first_row, last_row + 1)]
    else:
        resolutions = read_resolutions(pinpoints)
        odd = [list(resolution) for resolution in resolutions if any(px % side for px in resolution)]
        if odd:
            raise ValueError(f"--image_grid_pinpoints {odd[0]} is no multiple of the tower's {side} pixels; change it")
        grids = [(width // side, height // side) for width, height in resolutions]
    limit = ANYRES.fullmatch(mode)[1]
    grids = [(c, r) for c, r in grids if c * r and (limit is None or c * r <= int(limit))]
    if not grids:
        raise ValueError(f"--image_grid_pinpoints {pinpoints} has no grid for {mode}; e.g. {EXAMPLE}")
    return grids


def read_resolutions(pinpoints: str) -> list[Size]:
    """Resolutions in pixels from a JSON or Python list of [width, height]. Raises ValueError on anything else."""
    try:
        resolutions = [tuple(resolution) for resolution in ast.literal_eval(pinpoints)]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        resolutions = []
    whole = all(len(each) == 2 and all(type(px) is int and px > 0 for px in each) for each in resolutions)
    if not (resolutions and whole):
        raise ValueError(f"--image_grid_pinpoints {pinpoints!r} cannot be read; give e.g. {EXAMPLE}")
    return resolutions


def check_pinpoints(mode: str, pinpoints: str | None) -> None:
    """Raises ValueError for pinpoints that are missing, not needed or unreadable; the tower is not known yet."""
    if is_anyres(mode) != bool(pinpoints):
        remedy = f"give e.g. {EXAMPLE}" if is_anyres(mode) else "leave them out"
        raise ValueError(f"--image_aspect_ratio {mode} with --image_grid_pinpoints {pinpoints}: {remedy}")
    if pinpoints and not RANGE.fullmatch("".join(pinpoints.split())):
        read_resolutions(pinpoints)


def best_grid(size: Size, grids: Sequence[Grid], side: int) -> Grid:
    """The grid that keeps the most pixels of an image of that size; of several the one that wastes the least."""
    width, height = size

    def fit(grid: Grid) -> tuple[int, int]:
        across, down = grid[0] * side, grid[1] * side
        scale = min(across / width, down / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - across * down

    return max(grids, key=fit)


def num_views(size: Size, grids: Sequence[Grid], side: int) -> int:
    """Views of an image of that size: the whole, and the tiles of its grid."""
    return 1 + math.prod(best_grid(size, grids, side))


def cut_tiles(image: Image.Image, grid: Grid, side: int, resample: int) -> list[Image.Image]:
    """Tiles of an image, row by row: scaled to fit the grid, with black margins like the surround of a radiograph."""
    across, down = grid[0] * side, grid[1] * side
    scale = min(across / image.width, down / image.height)
    size = min(math.ceil(image.width * scale), across), min(math.ceil(image.height * scale), down)
    canvas = Image.new("RGB", (across, down))
    canvas.paste(image.resize(size, resample), ((across - size[0]) // 2, (down - size[1]) // 2))
    corners = [(x, y) for y in range(0, down, side) for x in range(0, across, side)]
    return [canvas.crop((x, y, x + side, y + side)) for x, y in corners]
