"""Work that one process of a run does for all of them, or each for the others."""

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


def shared_out(work: Callable[[range], Any], number: int) -> list:
    """The results of `work` for consecutive ranges of `number` items, one for each process of a distributed run, in
    their order; an error that is a user's mistake (ValueError, OSError) is raised on every rank.
    """
    if not dist.is_initialized():
        return [work(range(number))]
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        result = work(range(number * rank // size, number * (rank + 1) // size))
    except (ValueError, OSError) as error:
        result = error
    results = [None] * size
    dist.all_gather_object(results, result)
    if errors := [result for result in results if isinstance(result, Exception)]:
        raise errors[0]
    return results
