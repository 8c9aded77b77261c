"""Random dropping of patches while training; has no parameters."""

import torch
from torch import Tensor, nn


def num_kept(patches: int, ratio: float) -> int:
    """Patches of an image that are kept in training."""
    return max(int(patches * ratio), 1)


class MaskedDrop(nn.Module):
    """[n, N, D] -> [n, num_kept, D] in training, the patches kept in their order; all of them otherwise.

    `ratio` is the share of patches that is kept. Which ones is a function of each image's key, so that one process and
    many ranks keep the same.
    """

    def __init__(self, width: int, ratio: float):
        super().__init__()
        if not 0 < ratio <= 1:
            raise ValueError(f"mm_mask_drop_ratio must be in (0, 1], not {ratio}")
        self.width, self.ratio = width, ratio

    def forward(self, features: Tensor, keys: Tensor | None = None) -> Tensor:
        if not self.training:
            return features
        n, N, D = features.shape
        generators = [torch.Generator().manual_seed(int(key)) for key in keys]
        count = num_kept(N, self.ratio)
        kept = torch.stack([torch.randperm(N, generator=generator)[:count] for generator in generators])
        kept = kept.sort(dim=1).values.to(features.device)  # [n, count]
        return features.gather(1, kept[..., None].expand(-1, -1, D))
