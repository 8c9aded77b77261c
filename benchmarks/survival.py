"""Kills a training run again and again at random moments, and compares where it ends with a run that nothing disturbs.

    python benchmarks/survival.py --json survival.json
    python benchmarks/survival.py --processes 1 --kills 20 --seed 1

One chain: the same command is started, killed with kill -9, all processes at once, and started again in the same output
folder, until the last start may end. The moment of a kill is drawn uniformly from the first `--within` steps that a
start makes, fractions of a step and the saves in between included. Tiny random towers and phantom films, fp32 on CPU:
the losses of all steps and the weights must be equal to the bit, or the exit status is 1.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from dllm.training.checkpoints import COMPLETE
from oracles.runs import Run
from oracles.tiny import losses, make_world

GLOBAL_BATCH = 4
BAR = re.compile(r"^train: +\d+%", re.MULTILINE)  # of the training, when it begins
WEIGHTS = "model.safetensors"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--save_steps", type=int, default=1)
    parser.add_argument("--within", type=float, default=6, help="steps of a start in which it is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def held(out: Path) -> dict[int, list[str] | None]:
    """Checkpoints in a folder by step: None for a complete one, else the names of its files so far."""
    folders = {int(folder.name.removeprefix("checkpoint-")): folder for folder in out.glob("checkpoint-*")}
    return {
        step: None if (folder / COMPLETE).is_file() else sorted(path.name for path in folder.iterdir())
        for step, folder in sorted(folders.items())
    }


def undisturbed(arguments: list[str], processes: int, log: Path) -> float:
    """Runs to the end; seconds since the training began."""
    run = Run(arguments, processes, log)
    run.until(lambda: bool(BAR.search(run.text())))
    begun = time.monotonic()
    if run.wait() != 0:
        raise ValueError(f"the run failed:\n{run.text()[-2000:]}")
    return time.monotonic() - begun


def kill_once(run: Run, out: Path, moment: float, save_steps: int, step_seconds: float) -> dict:
    """Kills a run so many steps after its training began: how far it is shows in its checkpoints, the rest is waited
    for. What was on disk then, and where it had started.
    """
    run.until(lambda: bool(BAR.search(run.text())))
    start, saves = resumed_from(run), int(moment / save_steps)
    run.until(lambda: saves == 0 or (out / f"checkpoint-{start + saves * save_steps}" / COMPLETE).is_file())
    time.sleep((moment - saves * save_steps) * step_seconds)
    run.kill()
    return {"moment": moment, "resumed_from": start, "held": held(out)}


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
    print("| kill | started from step | killed after steps | newest whole checkpoint | interrupted, files there |")
    print("|---|---|---|---|---|")
    for number, row in enumerate(rows, start=1):
        doing = "; ".join(f"{what}: {', '.join(files)}" for what, files in interrupted(row).items())
        print(f"| {number} | {row['resumed_from']} | {row['moment']:.2f} | {newest_whole(row)} | {doing} |")


def main() -> None:
    args = parse_arguments()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world, chain, reference = make_world(root / "world"), root / "chain", root / "reference"
        settings = {
            "per_device_train_batch_size": GLOBAL_BATCH // args.processes,
            "max_steps": args.steps,
            "save_strategy": "steps",
            "save_steps": args.save_steps,
            "save_total_limit": 2,
        }
        bar = tqdm(total=args.kills + 2, desc="undisturbed run", unit="run", dynamic_ncols=True)
        seconds = undisturbed(world.arguments(reference, **settings), args.processes, root / "reference.log")
        step_seconds = seconds / args.steps
        bar.update()
        arguments, rows = world.arguments(chain, **settings), []
        for number in range(args.kills):
            bar.set_description(f"kill {number + 1}")
            run = Run(arguments, args.processes, root / f"{number}.log")
            rows.append(kill_once(run, chain, moments.uniform(0, args.within), args.save_steps, step_seconds))
            bar.update()
        bar.set_description("last start")
        undisturbed(arguments, args.processes, root / "last.log")
        bar.update()
        bar.close()
        (expected, weights), (found, found_weights) = ending(reference), ending(chain)

    print_table(rows)
    doing = [what.split()[0] for row in rows for what in interrupted(row)]
    kinds = ", ".join(f"{doing.count(kind)} while {kind} a checkpoint" for kind in ("saving", "deleting"))
    equal = {"losses": found == expected and len(found) == args.steps, "weights": found_weights == weights}
    print(f"{args.processes} processes, {len(rows)} kills: {kinds}")
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
