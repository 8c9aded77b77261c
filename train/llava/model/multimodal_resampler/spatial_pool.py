"""Spatial pooling of the patch grid; has no parameters."""

import torch.nn.functional as F
from torch import Tensor, nn

MODES = ("average", "max", "bilinear")


def pooled_side(side: int, stride: int) -> int:
    """Side of the pooled grid; a remainder of the patches gets a cell of its own."""
    return -(-side // stride)


class SpatialPool(nn.Module):
    """[n, side * side, D] -> [n, ceil(side / stride) ** 2, D]."""

    def __init__(self, width: int, side: int, stride: int, mode: str):
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"unknown mm_spatial_pool_mode {mode!r}; known: {', '.join(MODES)}")
        if not 1 <= stride <= side:
            raise ValueError(f"mm_spatial_pool_stride {stride} does not fit a grid of {side} x {side} patches")
        self.width, self.side, self.stride, self.mode = width, side, stride, mode

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        grid = features.transpose(1, 2).unflatten(2, (self.side, self.side))  # [n, D, side, side]
        if self.mode == "average":
            grid = F.avg_pool2d(grid, self.stride, ceil_mode=True)
        elif self.mode == "max":
            grid = F.max_pool2d(grid, self.stride, ceil_mode=True)
        else:
            side = pooled_side(self.side, self.stride)
            grid = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
        return grid.flatten(2).transpose(1, 2)
