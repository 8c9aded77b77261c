"""What the quickstarts share: how they run their steps, and that a folder holds one run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 2
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
# Starts a program in PROCESSES processes.
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", PROCESSES)


def run(title: str, *command: object, env: dict | None = None) -> None:
    """Runs one step of the job in the repository root; its own messages say what went wrong if it fails."""
    env = {name: str(value) for name, value in (env or {}).items()}
    print(f"\n== {title}\n", *(f"{name}={value!r}" for name, value in env.items()), *command, flush=True)
    if subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ | ON_CPU | env).returncode:
        raise ValueError(f"step {title!r} failed: its message is above; run the same command again once it is mended")


def open_run(out: Path, settings: dict, check: Callable[[Path], None] = lambda out: None) -> None:
    """Makes the folder of a run, and writes its settings there once `check` of the folder has passed.

    Raises ValueError if the folder holds a run with other settings.
    """
    remembered = out / "settings.json"
    if remembered.is_file() and json.loads(remembered.read_text()) != settings:
        raise ValueError(f"{out} holds a run with other settings; give another --out or remove it")
    out.mkdir(parents=True, exist_ok=True)
    check(out)
    remembered.write_text(json.dumps(settings, indent=2))
