"""Work that one process of a run does for all of them."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def on_one_process(work: Callable[[], Any]) -> Any:
    """The result of `work`, which rank 0 of a distributed run does for all; its ValueError is raised on every rank."""
    if not dist.is_initialized():
        return work()
    results = [None]
    if dist.get_rank() == 0:
        try:
            results = [work()]
        except ValueError as error:
            results = [error]
    dist.broadcast_object_list(results)
    if isinstance(results[0], ValueError):
        raise results[0]
    return results[0]
