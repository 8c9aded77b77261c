"""Work that one process of a run does for all of them."""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist


def on_one_process(work: Callable[[], Any]) -> Any:
    """The result of `work`, which rank 0 of a distributed run does for all; its error, if it is a user's mistake
    (ValueError, OSError), is raised on every rank.
    """
    if not dist.is_initialized():
        return work()
    results = [None]
    if dist.get_rank() == 0:
        try:
            results = [work()]
        except (ValueError, OSError) as error:
            results = [error]
    dist.broadcast_object_list(results)
    if isinstance(results[0], ValueError | OSError):
        raise results[0]
    return results[0]
