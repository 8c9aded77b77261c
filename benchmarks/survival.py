"""Interrupts a training run again and again at random moments, and compares where it ends with an undisturbed run.

    python benchmarks/survival.py --json survival.json
    python benchmarks/survival.py --interruptions 40 --seed 1

One chain: the stage script is started, one of SIGNALS is sent to one of TARGETS, and the same command is started again
in the same output folder once nobody is left, until the last start may end. Signal, target and moment are drawn: every
fourth moment lies in the imports, the others in the first `--within` steps that a start makes, fractions of a step and
the saves in between included. Tiny random towers and phantom films, fp32 on CPU: the losses of all steps and the
weights must be equal to the bit, and nobody left after 60 seconds, or the exit status is 1.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from dllm.training.checkpoints import COMPLETE
from oracles.runs import CHECKOUT, Run
from oracles.tiny import losses, make_world

PROCESSES, GLOBAL_BATCH = 2, 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TARGETS = ("script", "its group", "torchrun", "rank 0", "rank 1")
SECONDS_LEFT = 60
BAR = re.compile(r"^train: +\d+%", re.MULTILINE)  # of the training, when it begins
WEIGHTS = "model.safetensors"


class Script(Run):
    """A started script, in a group of its own."""

    def __init__(self, folder: str, command: list[str], log: Path, **environment: str):
        self.log = log
        with open(log, "w") as output:
            self.launcher = subprocess.Popen(
                ["bash", *command],
                cwd=CHECKOUT / folder,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in SIGNALS[1:]],
            )

    def send(self, number: int, target: str) -> None:
        """Sends a signal; to the script where the target has not started yet."""
        script, *others = self.members()
        if target == "its group":
            os.killpg(script, number)
        else:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self.started(others).get(target, script), number)

    @staticmethod
    def started(others: list[int]) -> dict[str, int]:
        """The targets that run, of the processes that come from the script."""
        return dict(zip(TARGETS[2:], others, strict=False))

    def seconds_until_gone(self, pids: list[int]) -> float:
        """Seconds until none of the processes is there. Raises ValueError if one still is after SECONDS_LEFT."""
        begun = time.monotonic()
        while self.launcher.poll() is None or any(Path(f"/proc/{pid}").exists() for pid in pids):
            if time.monotonic() > begun + SECONDS_LEFT:
                raise ValueError(f"processes are left after {SECONDS_LEFT} s; the run printed\n{self.text()[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - begun


def stage(arguments: list[str], log: Path) -> Script:
    command = ["scripts/llada_v_finetune.sh", "1", str(PROCESSES), *arguments]
    return Script("train", command, log, DEEPSPEED="", PRETRAIN_MM_MLP_ADAPTER="")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--save_steps", type=int, default=1)
    parser.add_argument("--within", type=float, default=5, help="steps of a start in which it is interrupted")
    parser.add_argument("--seed", type=int, default=0, help="of signals, targets and moments")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def held(out: Path) -> dict[int, list[str] | None]:
    """Checkpoints in a folder by step: None for a complete one, else the names of its files so far."""
    folders = {int(folder.name.removeprefix("checkpoint-")): folder for folder in out.glob("checkpoint-*")}
    return {
        step: None if (folder / COMPLETE).is_file() else sorted(path.name for path in folder.iterdir())
        for step, folder in sorted(folders.items())
    }


def undisturbed(arguments: list[str], log: Path) -> tuple[float, float]:
    """Runs to the end; seconds until its training began, and of the training."""
    started, run = time.monotonic(), stage(arguments, log)
    run.until(lambda: bool(BAR.search(run.text())))
    begun = time.monotonic()
    if run.wait() != 0:
        raise ValueError(f"the run failed:\n{run.text()[-2000:]}")
    return begun - started, time.monotonic() - begun


def interrupt(
    run: Script, out: Path, draw: random.Random, args: argparse.Namespace, seconds: tuple[float, float]
) -> dict:
    """Sends a drawn signal at a drawn moment: what was on disk then, where it had started, and how long it took to end.

    How far a training is shows in its checkpoints, the rest of the moment is waited for.
    """
    importing, number, target = draw.random() < 0.25, draw.choice(SIGNALS), draw.choice(TARGETS)
    moment = draw.uniform(0, seconds[0]) if importing else draw.uniform(0, args.within)
    if importing:
        time.sleep(moment)
    else:
        run.until(lambda: bool(BAR.search(run.text())))
        start, saves = resumed_from(run), int(moment / args.save_steps)
        run.until(lambda: saves == 0 or (out / f"checkpoint-{start + saves * args.save_steps}" / COMPLETE).is_file())
        time.sleep((moment - saves * args.save_steps) * seconds[1] / args.steps)
    members = run.members()
    run.send(number, target)
    row = {"importing": importing, "moment": moment, "signal": signal.Signals(number).name, "target": target}
    gone = run.seconds_until_gone(members)
    said = run.text().strip().splitlines()[-1:]
    return row | {"resumed_from": resumed_from(run), "gone": round(gone, 1), "held": held(out), "said": said}


def resumed_from(run: Run) -> int:
    """The step of the checkpoint that a run started from, 0 without one."""
    found = re.search(r"train: resuming from .*checkpoint-(\d+)", run.text())
    return int(found[1]) if found else 0


def ending(out: Path) -> tuple[list[float], bytes]:
    """Losses by step, and the weights, of a finished run."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return losses(history), (out / WEIGHTS).read_bytes()


def newest_whole(row: dict) -> int:
    """The step of the newest complete checkpoint at a kill, 0 without one."""
    return max((step for step, files in row["held"].items() if files is None), default=0)


def interrupted(row: dict) -> dict[str, list[str]]:
    """What a kill interrupted, by what was being done: saving or deleting a checkpoint, with its files so far."""
    newest = newest_whole(row)
    return {
        f"{'saving' if step > newest else 'deleting'} {step}": files
        for step, files in row["held"].items()
        if files is not None
    }


def print_table(rows: list[dict]) -> None:
    print(
        "| | signal | to | when | started from step | gone after | newest whole checkpoint | interrupted, files there |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number, row in enumerate(rows, start=1):
        doing = "; ".join(f"{what}: {len(files)} files" for what, files in interrupted(row).items())
        when = f"{row['moment']:.1f} s into the imports" if row["importing"] else f"after {row['moment']:.2f} steps"
        print(
            f"| {number} | {row['signal']} | {row['target']} | {when} | {row['resumed_from']} | "
            f"{row['gone']} s | {newest_whole(row)} | {doing} |"
        )


def main() -> None:
    args = parse_arguments()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world, chain, reference = make_world(root / "world"), root / "chain", root / "reference"
        settings = {
            "per_device_train_batch_size": GLOBAL_BATCH // PROCESSES,
            "max_steps": args.steps,
            "save_strategy": "steps",
            "save_steps": args.save_steps,
            "save_total_limit": 2,
        }
        bar = tqdm(total=args.interruptions + 2, desc="undisturbed run", unit="run", dynamic_ncols=True)
        seconds = undisturbed(world.arguments(reference, **settings), root / "reference.log")
        bar.update()
        arguments, rows = world.arguments(chain, **settings), []
        for number in range(args.interruptions):
            bar.set_description(f"interruption {number + 1}")
            rows.append(interrupt(stage(arguments, root / f"{number}.log"), chain, draw, args, seconds))
            bar.update()
        bar.set_description("last start")
        undisturbed(arguments, root / "last.log")
        bar.update()
        bar.close()
        (expected, weights), (found, found_weights) = ending(reference), ending(chain)

    print_table(rows)
    doing = [what.split()[0] for row in rows for what in interrupted(row)]
    kinds = ", ".join(f"{doing.count(kind)} while {kind} a checkpoint" for kind in ("saving", "deleting"))
    equal = {"losses": found == expected and len(found) == args.steps, "weights": found_weights == weights}
    print(f"{PROCESSES} processes, {len(rows)} interruptions: {kinds}")
    print(f"losses of {len(found)} steps equal to the bit: {equal['losses']}; final weights: {equal['weights']}")
    if args.json:
        args.json.write_text(
            json.dumps({"seed": args.seed, "seconds": seconds, "equal": equal, "rows": rows}, indent=1)
        )
    if not all(equal.values()):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, AssertionError) as error:
        sys.exit(f"error: {error}")
