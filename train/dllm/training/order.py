"""The order in which a run sees its samples. Everything random about a sample is keyed by its place in that order."""

import torch
from torch.utils.data import Dataset, Sampler

WINDOW = 64  # global batches among which samples are sorted by length


class Positioned(Dataset):
    """A dataset addressed by (position in the run, index); its samples carry the position that keys their noise."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        position, index = key
        return self.dataset[index] | {"position": position}


class Repeated(Dataset):
    """Every sample of a dataset `times` over, one after another, in order; for validation."""

    def __init__(self, dataset: Dataset, times: int):
        self.dataset, self.times = dataset, times

    def __len__(self) -> int:
        return len(self.dataset) * self.times

    def __getitem__(self, position: int) -> dict:
        return self.dataset[position // self.times] | {"position": position}


class PositionSampler(Sampler):
    """Yields (position in the run, index) over one epoch; the order is a function of (seed, epoch).

    An epoch is filled up from its start to a multiple of `batch`, the samples of a global batch: the weight of a sample
    in a partial batch would depend on the number of processes. With `lengths` the samples of a global batch have
    similar lengths: within a window of batches the shuffled samples are sorted, then the batches are shuffled.
    Without a seed nothing is shuffled.
    """

    def __init__(self, num_samples: int, seed: int | None, batch: int = 1, lengths: list[int] | None = None):
        self.num_samples, self.seed, self.batch, self.lengths, self.epoch = num_samples, seed, batch, lengths, 0
        self.length = -(-num_samples // batch) * batch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        start = self.epoch * self.length
        return zip(range(start, start + self.length), self._order(), strict=True)

    def _order(self) -> list[int]:
        generator = torch.Generator()
        order = torch.arange(self.num_samples)
        if self.seed is not None:
            generator.manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.num_samples, generator=generator)
        order = order.repeat(-(-self.length // self.num_samples))[: self.length]
        if self.lengths is not None:
            order = self._bucketed(order, generator)
        return order.tolist()

    def _bucketed(self, order: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        lengths = torch.as_tensor(self.lengths)
        windows = [window[lengths[window].argsort(stable=True)] for window in order.split(WINDOW * self.batch)]
        batches = torch.cat(windows).view(-1, self.batch)
        if self.seed is not None:
            batches = batches[torch.randperm(len(batches), generator=generator)]
        return batches.flatten()
