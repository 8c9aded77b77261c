"""Time and memory per report of every way to decode, on one set of random weights, in one run.

Every report fills its canvas, because the only stop token is one that no mode can write. A report's time begins with
ids and pixels, so it holds the vision tower where there is one. benchmarks/README.md says what is compared, and what
the columns mean.

python benchmarks/generation.py --json generation.json --plot generation.png
python benchmarks/generation.py --json generation.json --device cuda --preset qwen3-0.6b
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.measure import check_surroundings, chosen_modes, interleaved, medians, peak_mb, plot
from benchmarks.presets import PRESETS, Preset
from benchmarks.systems import AUTOREGRESSIVE, COMPILED, MODES, NAMES, REFERENCE, UNCACHED, Bench, Case

BY_PROMPT_LENGTH = (AUTOREGRESSIVE, "block exact", "prefix exact", UNCACHED)

# On a CPU some runs take minutes. The largest batch at one token a step, and at four, of these modes and of all others.
CPU_BATCHES = {AUTOREGRESSIVE: (64, 64), "block exact": (8, 64), "prefix exact": (8, 64)}
CPU_BATCHES_OF_OTHERS = (1, 8)
REPEATED_BATCH = 8  # on a CPU larger ones run once


def plan(preset: Preset, device: str, modes: list[str], batches: list[int]) -> tuple[list[Case], list[Case]]:
    """The cases to measure, and those left out because a CPU would take too long. The reference loop has no batches."""
    cases, left_out = [], []
    for mode in modes:
        largest = CPU_BATCHES.get(mode, CPU_BATCHES_OF_OTHERS) if device == "cpu" else (max(batches), max(batches))
        for steps, limit in zip(steps_of(preset, mode), largest, strict=False):
            for batch in [1] if mode == REFERENCE else batches:
                case = Case(mode, batch, steps, preset.prompt_length)
                (cases if batch <= limit or mode == REFERENCE else left_out).append(case)
    return cases, left_out


def steps_of(preset: Preset, mode: str) -> list[int]:
    """One token a step, and four."""
    return [preset.gen_length] if mode == AUTOREGRESSIVE else [preset.gen_length, preset.gen_length // 4]


def warm_up_cases(preset: Preset, cases: list[Case]) -> list[Case]:
    """What to run before the clock: each mode and batch at one step per block. A compiled case runs as it is:
    what it replays is recorded then.
    """
    eager = [
        replace(case, steps=preset.gen_length // preset.block_length) for case in cases if case.mode not in COMPILED
    ]
    return list(dict.fromkeys(eager)) + [case for case in cases if case.mode in COMPILED]


def time_cases(bench: Bench, cases: list[Case], with_floor: list[Case], repeats: int) -> dict[str, float]:
    """Median seconds of every case, and of the floors of ours."""
    seconds = {}
    many = [case for case in cases if bench.device != "cpu" or case.batch <= REPEATED_BATCH]
    for part, times in ((many, repeats), ([case for case in cases if case not in many], 1)):
        calls = {}
        for case in part:
            calls[str(case)] = bench.writer(case)
            if case in with_floor and case.mode in MODES:
                calls[f"floor of {case}"] = bench.floor(case)
        warm_ups = [bench.writer(case) for case in warm_up_cases(bench.preset, part)]
        if calls:
            seconds |= medians(interleaved(calls, times, warm_ups, f"{len(part)} cases, {times} repeats"))
    return seconds


def prepare_peaks(preset: Preset, device: str, mode: str, batches: list[int]) -> list[Callable[[], None]]:
    """One call per batch that takes as much memory as a whole run: the first step of a block is the largest, so one
    step per block will do; the cache of the autoregressive model grows until the end.
    """
    bench = Bench(preset, device)
    steps = preset.gen_length if mode == AUTOREGRESSIVE else preset.gen_length // preset.block_length
    return [bench.writer(Case(mode, batch, steps, preset.prompt_length)) for batch in batches]


def row(bench: Bench, case: Case, seconds: dict[str, float], peaks: dict[tuple[str, int], float]) -> dict:
    """One line of the table; a ratio is None where this run did not measure what it compares with."""
    mode = MODES.get(case.mode)
    per_report = seconds[str(case)] / case.batch
    nfe = bench.written[case][1]
    floor = seconds.get(f"floor of {case}")
    # The reference loop takes as long for each report of a batch as for one.
    reference = seconds.get(str(replace(case, mode=REFERENCE, batch=1)))
    autoregressive = seconds.get(str(replace(case, mode=AUTOREGRESSIVE, steps=bench.preset.gen_length)))
    columns = {
        "mode": case.mode,
        "pattern": mode.pattern if mode else {REFERENCE: "bidirectional", AUTOREGRESSIVE: "causal"}[case.mode],
        "exact": mode.exact if mode else True,
        "dtype": str(bench.model.dtype).removeprefix("torch."),
        "batch": case.batch,
        "steps": case.steps,
        "seconds_per_report": per_report,
        "reports_per_s": 1 / per_report,
        "nfe": nfe,
        "tokens_per_step": bench.preset.gen_length / nfe,
        "peak_mb": peaks[case.mode, case.batch],
        "speedup_vs_reference": reference and reference / per_report,
        "speedup_vs_autoregressive": autoregressive and autoregressive / case.batch / per_report,
        "floor_seconds": floor and floor / case.batch,
    }
    return columns if columns["exact"] else columns | {"agreement": bench.agreement(case)}


def length_row(case: Case, seconds: dict[str, float]) -> dict:
    """One point of time against prompt length."""
    return {
        "mode": case.mode,
        "prompt_length": case.prompt_length,
        "batch": case.batch,
        "steps": case.steps,
        "seconds_per_report": seconds[str(case)] / case.batch,
    }


def measure(
    preset: Preset, device: str, modes: list[str], batches: list[int], repeats: int, prompt_lengths: list[int]
) -> dict:
    """The document that `--json` writes. Raises ValueError if nothing is left to measure."""
    cases, left_out = plan(preset, device, modes, batches)
    if not cases:
        raise ValueError(f"--modes {','.join(modes)} run at smaller --batches only on a CPU; give 1")
    for case in left_out:
        print(f"left out, slow on a CPU: {case}", file=sys.stderr)
    by_length = [
        Case(mode, 1, steps_of(preset, mode)[-1], length)
        for mode in BY_PROMPT_LENGTH
        if mode in modes
        for length in prompt_lengths
    ]
    peaks = {}
    for mode in tqdm(dict.fromkeys(case.mode for case in cases), desc="peak memory"):
        sizes = sorted({case.batch for case in cases if case.mode == mode})
        peaks |= zip([(mode, size) for size in sizes], peak_mb(prepare_peaks, preset, device, mode, sizes), strict=True)
    bench = Bench(preset, device)
    seconds = time_cases(bench, list(dict.fromkeys(cases + by_length)), cases, repeats)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "preset": preset.name,
        "threads": torch.get_num_threads(),
        "rows": [row(bench, case, seconds, peaks) for case in cases],
        "by_prompt_length": [length_row(case, seconds) for case in by_length],
        "reference_split": bench.reference_split(preset.gen_length // 4) if REFERENCE in modes else None,
    }


def print_table(document: dict) -> None:
    print(f"{'mode':32} batch steps  s/report reports/s  nfe tok/step  peak MiB  x ref   x AR x floor  agree")
    for row in document["rows"]:
        ratios = [row["speedup_vs_reference"], row["speedup_vs_autoregressive"]]
        ratios.append(row["floor_seconds"] and row["seconds_per_report"] / row["floor_seconds"])
        ratios.append(row.get("agreement"))
        x_reference, x_autoregressive, x_floor, agreement = ("-" if r is None else f"{r:.2f}" for r in ratios)
        print(
            f"{row['mode']:32} {row['batch']:5} {row['steps']:5} {row['seconds_per_report']:9.4f} "
            f"{row['reports_per_s']:9.2f} {row['nfe']:4} {row['tokens_per_step']:8.2f} {row['peak_mb']:9.1f} "
            f"{x_reference:>6} {x_autoregressive:>6} {x_floor:>7} {agreement:>6}"
        )
    if split := document["reference_split"]:
        shares = (f"{name} {seconds / sum(split.values()):.0%}" for name, seconds in split.items())
        print(f"reference loop: {', '.join(shares)}")
    if any("agreement" in row for row in document["rows"]):
        print(f"agree: share of tokens equal to those of {UNCACHED!r}; on random weights its size means little")


def panels(document: dict) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The lines of the plot: seconds per report of the modes that were measured at several batches or lengths."""
    fewest = min(row["steps"] for row in document["rows"])
    by_batch = [row for row in document["rows"] if row["steps"] == fewest or row["mode"] == AUTOREGRESSIVE]
    sizes = [row["batch"] for row in by_batch]
    lines = {}
    for axis, key, rows in (("batch", "batch", by_batch), ("prompt", "prompt_length", document["by_prompt_length"])):
        lines[axis] = {}
        for row in rows:
            lines[axis].setdefault(row["mode"], []).append((row[key], row["seconds_per_report"]))
    if REFERENCE in lines["batch"]:
        [(_, seconds)] = lines["batch"].pop(REFERENCE)
        lines["batch"][f"{REFERENCE} (has no batches)"] = [(min(sizes), seconds), (max(sizes), seconds)]
    return {
        "reports in a batch": {mode: points for mode, points in lines["batch"].items() if len(points) > 1},
        "tokens of the prompt (batch 1)": lines["prompt"],
    }


def parse_arguments(arguments: list[str] | None, presets: dict[str, Preset]) -> argparse.Namespace:
    """The command line. Raises ValueError on what cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file to write the measurements to")
    parser.add_argument("--plot", help="PNG to draw time per report against batch and prompt length in")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)))
    parser.add_argument(
        "--modes", help=f"comma-separated; default: all, compiled ones on a GPU only. {', '.join(NAMES)}"
    )
    parser.add_argument("--batches", default="1,8,64", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many runs counts")
    parser.add_argument("--prompt_lengths", default="64,256,1024", help="comma-separated")
    args = parser.parse_args(arguments)
    for flag in ("batches", "prompt_lengths"):
        setattr(args, flag, numbers(f"--{flag}", getattr(args, flag)))
    default = [name for name in NAMES if args.device == "cuda" or name not in COMPILED]
    args.modes = chosen_modes(args.modes, NAMES, default)
    if args.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, not {args.repeats}")
    vision = presets[args.preset].vision
    if vision and args.prompt_lengths[0] < vision.queries:
        raise ValueError(f"--prompt_lengths {args.prompt_lengths[0]}: an image alone is {vision.queries} visual tokens")
    check_surroundings(args.device, {"--json": args.json, "--plot": args.plot})
    return args


def numbers(flag: str, text: str) -> list[int]:
    """Whole numbers of a comma-separated list, in ascending order."""
    if not all(part.isdecimal() and int(part) > 0 for part in text.split(",")):
        raise ValueError(f"{flag} {text!r} must be whole numbers of at least 1, separated by commas")
    return sorted({int(part) for part in text.split(",")})


def main(arguments: list[str] | None = None, presets: dict[str, Preset] = PRESETS) -> None:
    try:
        args = parse_arguments(arguments, presets)
        document = measure(
            presets[args.preset], args.device, args.modes, args.batches, args.repeats, args.prompt_lengths
        )
    except ValueError as error:
        sys.exit(f"generation: error: {error}")
    Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
    print_table(document)
    if args.plot:
        plot(panels(document), "seconds per report (diffusion: four tokens a step)", args.plot)


if __name__ == "__main__":
    main()
