"""Runs pytest where open_clip and timm can be imported: `python tests/oracles/towers.py FILE...`.

Both import torchvision, whose wheels are built for one build of torch, and a torchvision that does not fit breaks
transformers. So they are installed into a folder of their own, off the path. Beside another torch it is enough to
declare the two operators that torchvision registers itself for, before anything imports it.
"""

import sys
from pathlib import Path

import pytest
import torch

TOWERS = Path(sys.prefix) / "towers"
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def prepare() -> None:
    try:
        torch.ops.load_library(TOWERS / "torchvision/_C.so")
    except OSError:  # built for another torch
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + SCHEMA)
        torch.ops.torchvision.library = library  # it lasts as long as it is referred to
    sys.path.insert(0, str(TOWERS))


if __name__ == "__main__":
    prepare()
    sys.exit(pytest.main(sys.argv[1:]))
