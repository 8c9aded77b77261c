"""How many full-size radiographs a second the workers of a training run read, and what 16 of them would.

    python benchmarks/images.py --json FILE

JPEGs of 2,544 x 3,056 grey pixels, as MIMIC-CXR-JPG has them, drawn from smooth noise and grain; from file to the
pixels of a tower of 384 px, in one and in two processes. `as RGB` reads and resizes three channels, which gives the
same pixels; `grey` is what training does. The number for 16 workers is eight times that of two: an extrapolation, not a
measurement.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dllm.data.files import write_json
from llava.data.images import ImagePreprocessor, load_image

WIDTH, HEIGHT, SIDE = 2544, 3056, 384
WORKERS = (1, 2)


def write_image(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 20), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    grain = rng.normal(0, 6, (HEIGHT, WIDTH))
    Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)).save(path, quality=95)


def pixels(path: Path, keep_grey: bool) -> torch.Tensor:
    config = SimpleNamespace(
        image_aspect_ratio="square", image_grid_pinpoints=None, vision_config=SimpleNamespace(image_size=SIDE)
    )
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return ImagePreprocessor(processor, config).pixels(load_image(path, keep_grey))


def images_per_second(paths: list[Path], keep_grey: bool, workers: int) -> float:
    with get_context("forkserver").Pool(workers, torch.set_num_threads, (1,)) as pool:
        read = partial(_shape, keep_grey=keep_grey)
        pool.map(read, paths[:workers], 1)  # imports
        begun = time.perf_counter()
        pool.map(read, paths, 1)
        return len(paths) / (time.perf_counter() - begun)


def _shape(path: Path, keep_grey: bool) -> torch.Size:
    return pixels(path, keep_grey).shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="images that are read")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        paths = [Path(root) / f"{number}.jpg" for number in range(args.images)]
        for seed, path in enumerate(paths):
            write_image(path, seed)
        megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
        assert torch.equal(pixels(paths[0], True), pixels(paths[0], False))
        found = {
            name: {workers: images_per_second(paths, keep_grey, workers) for workers in WORKERS}
            for name, keep_grey in {"as RGB": False, "grey": True}.items()
        }
    print(f"{args.images} JPEGs of {megabytes:.1f} MB; images a second")
    for name, rates in found.items():
        print(f"{name:8}", *(f"{rate:6.1f} in {n}" for n, rate in rates.items()), f"-> {8 * rates[2]:.0f} in 16")
    if args.json:
        write_json(args.json, {"images": args.images, "megabytes": megabytes, "images_per_second": found})


if __name__ == "__main__":
    main()
