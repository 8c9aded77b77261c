"""A function applied to many items on all cores, with a progress bar."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from dllm.bar import Bar

CHUNK = 64  # items that a process is given at a time: handing over a single one costs more than reading its file
FEW = 4 * CHUNK  # so many are done before further processes would have started


def map_parallel(function: Callable, items: Sequence, desc: str, unit: str) -> Iterator[Any]:
    """The results of `function` for `items`, in their order, as they become ready; its first error ends the work.

    The function runs in as many processes as this one may use cores, so it must be one that can be pickled; a few items
    are done in this process. `desc` and `unit` label the bar.
    """
    cores = len(os.sched_getaffinity(0))
    progress = {"total": len(items), "desc": desc, "unit": unit, "disable": not items}
    if cores == 1 or len(items) <= FEW:
        yield from Bar(map(function, items), **progress)
        return
    processes = ProcessPoolExecutor(cores)
    try:
        yield from Bar(processes.map(function, items, chunksize=CHUNK), **progress)
    finally:
        processes.shutdown(cancel_futures=True)
