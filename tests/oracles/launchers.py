"""scripts/train.slurm.sh and the stage scripts as users start them; SLURM and the launchers are played here."""

import os
import subprocess
import sys
from pathlib import Path

from oracles.tiny import CHECKOUT

TRAIN_MEM = "train/llava/train/train_mem.py"
FSDP_ON_CPU = "tests/oracles/fsdp_on_cpu.py"

RECORDER = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"$(dirname "$0")/${SLURM_NODEID:-0}.txt"\n'
# Runs its command once for every node, all at the same time on this machine.
SRUN = """#!/usr/bin/env bash
nodes=$2
echo "srun $*" >"$(dirname "$0")/srun.log"
while [[ $1 == --* ]]; do
    [[ $1 == *=* ]] || shift
    shift
done
for ((node = 0; node < nodes; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit "${status:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1 && echo 127.0.0.1
"""


def start(config: str, arguments: list[str], script: str = TRAIN_MEM, **environment) -> subprocess.CompletedProcess:
    """The script with a config of scripts/accelerate_configs, a program and its arguments."""
    return run(["--accelerate_config", config, "--script_path", script, *arguments], **environment)


def run(arguments: list[str], programs: Path | None = None, **environment) -> subprocess.CompletedProcess:
    """The script with any arguments and environment; commands in the folder `programs` come before all others."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    if "SLURM_JOB_ID" in environment:
        outside.pop("MASTER_PORT", None)  # the job's number settles it
    folders = [str(programs)] if programs else []
    path = os.pathsep.join([*folders, str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = outside | {"PATH": path, "OMP_NUM_THREADS": "1"} | environment
    command = ["bash", str(CHECKOUT / "scripts/train.slurm.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def slurm(folder: Path) -> dict:
    """Arguments of `run` in a SLURM job of two nodes, each with one GPU."""
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "programs": folder,
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_SUBMIT_DIR": str(CHECKOUT),
    }


def recorder(folder, name, more=""):
    """A command in `folder` that writes down its arguments, one a line, to a file named by its node."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(RECORDER + more)
    (folder / name).chmod(0o755)
    return folder


def stage(script, folder, nodes=1, **settings):
    """The arguments that a stage script gives to torchrun, and those of them that are for train_mem.py."""
    recorder(folder, "torchrun")
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "DEEPSPEED": ""} | settings
    command = ["bash", CHECKOUT / "train/scripts" / script, str(nodes), "2"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = (folder / "0.txt").read_text().splitlines()
    assert result.stdout == f"torchrun {' '.join(lines)}\n"
    program = lines.index("llava/train/train_mem.py")
    return lines[:program], lines[program + 1 :]
