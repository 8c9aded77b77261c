"""Time and memory of calls, their plot, and what the command lines of the benchmarks share. Knows nothing of what it
measures."""

import itertools
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

MIB = 2**20


def clock() -> float:
    """Seconds, once the GPU has done what it was asked to."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def chosen_modes(text: str | None, known: list[str], default: list[str]) -> list[str]:
    """The modes of a comma-separated list, each once. Raises ValueError on an unknown one."""
    modes = list(dict.fromkeys(text.split(","))) if text else default
    if unknown := set(modes) - set(known):
        raise ValueError(f"--modes: unknown mode {sorted(unknown)[0]!r}; known: {', '.join(known)}")
    return modes


def check_surroundings(device: str, files: dict[str, str | None]) -> None:
    """Raises ValueError without the device, or without the folder of a file to write; `files` by their flags."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU is to be seen; use --device cpu")
    for flag, file in files.items():
        if file and not Path(file).resolve().parent.is_dir():
            raise ValueError(f"{flag} {file}: its folder does not exist; make it first")


def interleaved(
    calls: dict[str, Callable], repeats: int, warm_ups: Iterable[Callable] = (), title: str = ""
) -> dict[str, list[float]]:
    """Seconds of every call, `repeats` of each. All of them run in turn, again and again, so that a slow minute of the
    machine does not fall on one of them alone. `warm_ups` run once before. Shows a progress bar.
    """
    warm_ups = list(warm_ups)
    seconds = {name: [] for name in calls}
    with tqdm(total=len(warm_ups) + repeats * len(calls), desc=title, dynamic_ncols=True) as bar:
        for warm_up in warm_ups:
            warm_up()
            bar.update()
        for _ in range(repeats):
            for name, call in calls.items():
                bar.set_postfix_str(name)
                begun = clock()
                call()
                seconds[name].append(clock() - begun)
                bar.update()
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in seconds.items()}


def peak_mb(prepare: Callable[..., list[Callable]], *arguments) -> list[float]:
    """What each of the calls that `prepare(*arguments)` returns adds to memory at its peak, in MiB.

    They run one after another in a fresh process, so none finds what an earlier measurement left behind; give the
    smallest first, as memory that one has taken may serve the next. On a GPU: the allocator's peak. Else: the rise of
    resident memory over that of the process with everything prepared (Linux). `prepare` and its arguments must pickle.
    """
    # A server with the slow imports done starts each process from there.
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.models.qwen3.modeling_qwen3"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_rises, prepare, arguments).result()


def _rises(prepare: Callable[..., list[Callable]], arguments: tuple) -> list[float]:
    calls = prepare(*arguments)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the preparation
    before = _peak()
    rises = []
    for call in calls:
        call()
        rises.append((_peak() - before) / MIB)
    return rises


def _peak() -> int:
    """Bytes in use at most so far."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plot(panels: dict[str, dict[str, list[tuple[float, float]]]], y_label: str, path: str) -> None:
    """Draws lines of (x, y) points on logarithmic axes into a PNG, a panel per x axis, each name beside its line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colour = dict(zip(names, itertools.cycle(["black", *pyplot.get_cmap("tab10").colors, "navy"]), strict=False))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6.5 * len(panels), 4.5), sharey=True, layout="constrained")
    for axis, (x_label, lines) in zip(axes, panels.items(), strict=True):
        axis.set(xscale="log", yscale="log", xlabel=x_label)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.spines[["top", "right"]].set_visible(False)
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), color=colour[name], marker="o", markersize=4)
    axes[0].set_ylabel(y_label)
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    for axis, lines in zip(axes, panels.values(), strict=True):  # once the common y axis is settled
        _name_lines(axis, {name: points[-1] for name, points in lines.items()}, colour)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _name_lines(axis, ends: dict[str, tuple[float, float]], colour: dict) -> None:
    """Writes every name to the right of all lines, at the height of its line's end or above the names there; from an
    end further left a dotted line leads to it.
    """
    low, high = (math.log(y) for y in axis.get_ylim())
    right, taken = max(x for x, _ in ends.values()), []
    for name, (x, y) in sorted(ends.items(), key=lambda end: (end[1][0] < right, end[1][1])):
        place = (math.log(y) - low) / (high - low)
        while any(abs(place - other) < 0.045 for other in taken):
            place += 0.005
        taken.append(place)
        at = (right, math.exp(low + place * (high - low)))
        if x < right:
            axis.plot([x, right], [y, at[1]], color=colour[name], linewidth=0.8, linestyle=":")
        axis.annotate(name, at, (8, 0), textcoords="offset points", va="center", color=colour[name])
