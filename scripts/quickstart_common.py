"""What the quickstarts share: how they run their steps, and that a folder holds one run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from dllm.data.files import Lock, read_json, write_json
from dllm.launch import launch

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 2
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
# Starts a program in PROCESSES processes.
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES)


def run(title: str, *command: object, env: dict | None = None) -> None:
    """Runs one step of the job in the repository root. `title`: in one line what it does, and where its result lies."""
    env = {name: str(value) for name, value in (env or {}).items()}
    print(f"\n== {title}\n  ", *(f"{name}={value!r}" for name, value in env.items()), *command, flush=True)
    status, cause = launch([str(part) for part in command], os.environ | ON_CPU | env, ROOT)
    if status:
        step, cause = title.partition(":")[0], cause.rpartition("error: ")[2]
        raise ValueError(f"step {step!r}: {cause} (the same command goes on from here once that is mended)")


def open_run(out: Path, settings: dict, check: Callable[[Path], None] = lambda out: None) -> Lock:
    """Makes the folder of a run, and writes its settings there once `check` of the folder has passed. Returns the lock
    of the folder, to be released at the end.

    Raises ValueError if the folder holds a run with other settings, or one that is running.
    """
    remembered = out / "settings.json"
    if remembered.is_file() and read_json(remembered, "give another --out") != settings:
        raise ValueError(f"{out} holds a run with other settings; give another --out or remove it")
    out.mkdir(parents=True, exist_ok=True)
    check(out)
    lock = Lock(out / ".lock", f"runs in {out}")
    write_json(remembered, settings)
    return lock
