"""Interrupts an evaluation again and again at random moments, and compares its scores with those of an undisturbed one.

    python benchmarks/survival_evaluation.py --json survival_evaluation.json

As `survival.py`, of `evaluate.sh` with two processes: a random model writes reports of phantom images at a temperature.
A quarter of the moments lie before the first report, the others within the next reports of a start. All reports and all
scores with their intervals must be equal to the bit, and nobody left after 60 seconds, or the exit status is 1.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from survival import PROCESSES, SIGNALS, TARGETS, Script
from tqdm import tqdm

from llava.phantom.generate import write_release
from llava.radiology.annotation import convert_annotation
from oracles.tiny import make_world, widen
from report_scores.lmms_eval_output import generations

STUDIES = 100
GENERATION = "gen_length=32,block_length=8,temperature=0.7,remasking=random"


class Evaluation(Script):
    """A started evaluate.sh of the model in `root`, which writes its results into `out`."""

    def __init__(self, root: Path, out: Path, log: Path):
        settings = {"NUM_PROCESSES": str(PROCESSES), "BATCH_SIZE": "2", "GEN_KWARGS": GENERATION, "FINDING_F1": "1"}
        folders = {"MIMIC_CXR_DATA": str(root / "data"), "OUTPUT_PATH": str(out)}
        super().__init__("eval", ["scripts/evaluate.sh", str(root / "model")], log, **settings, **folders)
        self.out, self.before = out, reports(out)

    @staticmethod
    def started(others: list[int]) -> dict[str, int]:
        return dict(zip(TARGETS[2:], others[1:], strict=False))  # dllm.launch comes first

    def wait_for_reports(self, number: int) -> None:
        """Until a start has written so many, or has ended."""
        while reports(self.out) < self.before + number and self.launcher.poll() is None:
            time.sleep(0.002)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--within", type=int, default=8, help="reports of a start in which it is interrupted")
    parser.add_argument("--seed", type=int, default=0, help="of signals, targets and moments")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args()


def prepare(root: Path) -> None:
    """The model, and the test images."""
    world = make_world(root / "world")
    tokenizer, model, processor = world.build(mm_resampler_type="none")
    widen(model)
    for part in (tokenizer, model, processor):
        part.save_pretrained(root / "model")
    annotation = write_release(root / "data", {"train": 12, "test": STUDIES}, seed=4, size_px=48)
    convert_annotation(annotation, root / "data", "first")


def reports(out: Path) -> int:
    """Lines in the files of reports."""
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/reports/*.jsonl"))


def undisturbed(run: Evaluation) -> tuple[float, float]:
    """Waits for the end; seconds until the first report, and to the end."""
    started = time.monotonic()
    run.wait_for_reports(1)
    first = time.monotonic() - started
    if run.wait() != 0:
        raise ValueError(f"the evaluation failed:\n{run.text()[-2000:]}")
    return first, time.monotonic() - started


def interrupt(run: Evaluation, draw: random.Random, within: int, seconds: float) -> dict:
    """Sends a drawn signal at a drawn moment; `seconds` are those until the first report."""
    importing, number, target = draw.random() < 0.25, draw.choice(SIGNALS), draw.choice(TARGETS)
    moment = draw.uniform(0, seconds) if importing else draw.randint(1, within)
    if importing:
        time.sleep(moment)
    else:
        run.wait_for_reports(moment)
        time.sleep(draw.uniform(0, 0.2))
    before, members = reports(run.out), run.members()
    run.send(number, target)
    gone = run.seconds_until_gone(members)
    said = run.text().strip().splitlines()[-1:]
    when = f"{moment:.1f} s after the start" if importing else f"{before - run.before} reports after the start's"
    row = {"signal": signal.Signals(number).name, "target": target, "when": when, "held before": run.before}
    return row | {"held": reports(run.out), "gone": round(gone, 1), "status": run.wait(), "said": said}


def ending(out: Path) -> tuple[dict, dict]:
    """All reports, and all scores with their intervals, of a finished evaluation."""
    (folder,) = (path.parent for path in out.glob("*/scores.json"))
    return generations(folder), json.loads((folder / "scores.json").read_text())["scores"]


def main() -> None:
    args = parse_arguments()
    draw, rows = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        bar = tqdm(total=args.interruptions + 2, desc="undisturbed run", unit="run", dynamic_ncols=True)
        seconds = undisturbed(Evaluation(root, root / "reference", root / "reference.log"))
        bar.update()
        for number in range(args.interruptions):
            bar.set_description(f"interruption {number + 1}")
            run = Evaluation(root, root / "chain", root / f"{number}.log")
            rows.append(interrupt(run, draw, args.within, seconds[0]))
            bar.update()
        bar.set_description("last start")
        undisturbed(Evaluation(root, root / "chain", root / "last.log"))
        bar.update()
        bar.close()
        expected, found = ending(root / "reference"), ending(root / "chain")

    print("| | signal | to | when | reports before | reports after | all gone after | last line |")
    print("|---|---|---|---|---|---|---|---|")
    for number, row in enumerate(rows, start=1):
        cells = (row[name] for name in ("signal", "target", "when", "held before", "held"))
        print(f"| {number} | {' | '.join(map(str, cells))} | {row['gone']} s | {' '.join(row['said'])} |")
    equal = {"reports": found[0] == expected[0], "scores": found[1] == expected[1]}
    print(f"{len(rows)} interruptions; equal to the bit: {equal}")
    if args.json:
        args.json.write_text(
            json.dumps({"seed": args.seed, "seconds": seconds, "equal": equal, "rows": rows}, indent=1)
        )
    if not all(equal.values()):
        sys.exit(1)


if __name__ == "__main__":
    if not shutil.which("java"):
        sys.exit("error: METEOR needs Java")
    try:
        main()
    except (ValueError, AssertionError) as error:
        sys.exit(f"error: {error}")
