"""What the quickstarts share: how they run their steps, that a folder holds one run, and how they end."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dllm.data.files import Lock, read_json, write_json
from dllm.launch import launch

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 2
REMEDY = "remove the folder and start again"  # for a file of an earlier step that cannot be read
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
# Starts a program in PROCESSES processes.
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES)


def run(
    title: str, *command: object, env: dict | None = None, log: Path | None = None, done: Path | None = None
) -> None:
    """Runs one step of the job in the repository root, unless the file `done`, which it writes last, is there. `title`:
    in one line what it does, and where its result lies. `log`: a file that gets what the step prints.
    """
    if done is not None and done.is_file():
        return
    env = {name: str(value) for name, value in (env or {}).items()}
    print(f"\n== {title}\n  ", *(f"{name}={value!r}" for name, value in env.items()), *command, flush=True)
    status, cause = launch([str(part) for part in command], os.environ | ON_CPU | env, ROOT, log)
    if status:
        step, cause = title.partition(":")[0], cause.rpartition("error: ")[2]
        raise ValueError(f"step {step!r}: {cause} (the same command goes on from here once that is mended)")


def options(**values: object) -> list[object]:
    """Arguments of a command line by their names: --train, 100, --test, 10."""
    return [part for name, value in values.items() for part in (f"--{name}", value)]


def quickstart(
    args: argparse.Namespace,
    settings: dict,
    work: Callable[[], dict],
    show: Callable[[dict], None],
    check: Callable[[Path], None] = lambda out: None,
) -> None:
    """Does the `work` of a run with these arguments and further settings in the folder `args.out`, once `check` of the
    folder has passed; writes what it found to summary.json, and shows it.

    Raises ValueError if the folder holds a run with other settings, or one that is running.
    """
    for name, value in vars(args).items():
        if isinstance(value, Path):
            setattr(args, name, value.resolve())  # the steps run in other folders
    out, start = args.out, time.time()
    settings = {name: str(value) for name, value in vars(args).items()} | settings
    remembered = out / "settings.json"
    if remembered.is_file() and read_json(remembered, "give another --out") != settings:
        raise ValueError(f"{out} holds a run with other settings; give another --out or remove it")
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / ".lock", f"runs in {out}")
    try:
        check(out)
        write_json(remembered, settings)
        summary = work()
        write_json(out / "summary.json", summary)
    finally:
        lock.release()
    show(summary)
    print(f"model: {summary['checkpoint']}\ntook:  {(time.time() - start) / 60:.1f} minutes")


def trainer_state(folder: Path) -> dict:
    """What a training run logged: `log_history`, and `global_step` at its end."""
    return read_json(folder / "trainer_state.json", REMEDY)


def shares(right: list[bool], kinds: list[str]) -> dict[str, float]:
    """The share that is right of all answers, and of those of each kind."""
    groups = {"all": right}
    for kind, is_right in zip(kinds, right, strict=True):
        groups.setdefault(kind, []).append(is_right)
    return {name: sum(group) / len(group) for name, group in groups.items()}


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Prints rows of figures by their names, which a row may lack."""
    widths = {name: max(10, len(name) + 2) for row in rows.values() for name in row}
    print(f"\n{title:20}" + "".join(f"{name:>{width}}" for name, width in widths.items()))
    for name, row in rows.items():
        cells = (f"{row[column]:{width}.3f}" if column in row else " " * width for column, width in widths.items())
        print(f"{name:20}" + "".join(cells))
