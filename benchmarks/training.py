"""Time and memory of a training step of every attention pattern beside the seed's own step, on one set of random
weights, in one run. A step is forward and backward. benchmarks/README.md says what is compared, and what the columns
mean.

python benchmarks/training.py --json training.json --plot training.png
python benchmarks/training.py --json training.json --device cuda --preset qwen3-0.6b --batch 16
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

from benchmarks.measure import check_surroundings, chosen_modes, interleaved, medians, peak_mb
from benchmarks.presets import TRAINING_PRESETS, Preset
from benchmarks.steps import BUCKETS, EQUAL, MODES, NAMES, RANDOM, REFERENCE, Bench, Case
from dllm.training.flops import peak_rate

RAGGED_MODE = "block"  # the one pattern whose response is as long as its report
UPDATE = "update"


def plan(modes: list[str]) -> list[Case]:
    """The cases to measure: every mode on samples of one length, and what buckets save on ragged ones."""
    ragged = [(REFERENCE, RANDOM), (RAGGED_MODE, RANDOM), (RAGGED_MODE, BUCKETS)]
    return [Case(mode) for mode in modes] + [Case(mode, batches) for mode, batches in ragged if mode in modes]


def prepare_peak(preset: Preset, device: str, batch: int, case: Case) -> list[Callable]:
    return [Bench(preset, device, batch).step(case)]


def update(bench: Bench) -> Callable[[], None]:
    """The call that updates all weights as transformers' Trainer does by default."""
    optimizer = torch.optim.AdamW(bench.model.parameters(), fused=True)

    def call() -> None:
        for parameter in bench.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()

    return call


def row(bench: Bench, case: Case, seconds: dict[str, float], peaks: dict[Case, float]) -> dict:
    """One line of the table; a ratio is None where this run did not measure what it compares with."""
    sizes = bench.sizes(case)
    # What ragged samples take in buckets is compared with the seed's random batches of the same samples.
    reference = Case(REFERENCE, case.batches and RANDOM)
    mode = MODES.get(case.mode)
    peak = peak_rate(torch.cuda.get_device_name()) if bench.device == "cuda" else None
    return {
        "mode": str(case),
        "pattern": mode.pattern if mode else "bidirectional",
        "exact": True,
        "dtype": str(bench.model.dtype).removeprefix("torch."),
        "examples_per_s": sizes["samples"] / seconds[str(case)],
        "peak_mb": peaks[case],
        "padding_share": 1 - sizes["trunk_tokens"] / sizes["padded_tokens"],
        "mfu": bench.operations(case) / seconds[str(case)] / peak if peak else None,
        "speedup_vs_reference": seconds[str(reference)] / seconds[str(case)] if reference in peaks else None,
        "memory_vs_reference": peaks[case] / peaks[reference] if reference in peaks else None,
    }


def measure(preset: Preset, device: str, modes: list[str], batch: int, repeats: int) -> dict:
    """The document that `--json` writes."""
    cases = plan(modes)
    peaks = {case: peak_mb(prepare_peak, preset, device, batch, case)[0] for case in tqdm(cases, desc="peak memory")}
    bench = Bench(preset, device, batch)
    calls = {str(case): bench.step(case) for case in cases}
    warm_ups = [calls[str(case)] for case in cases if case.batches == EQUAL]
    seconds = medians(interleaved(calls | {UPDATE: update(bench)}, repeats, warm_ups, f"{repeats} repeats"))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "preset": preset.name,
        "threads": torch.get_num_threads(),
        "batch": batch,
        "prompt_length": preset.prompt_length,
        "response_length": preset.gen_length,
        "update_seconds": seconds[UPDATE],
        "rows": [row(bench, case, seconds, peaks) for case in cases],
    }


def print_table(document: dict) -> None:
    print(f"{'mode':24} examples/s  peak MiB  padding    MFU   x ref  memory/ref")
    for row in document["rows"]:
        ratios = [row["mfu"], row["speedup_vs_reference"], row["memory_vs_reference"]]
        mfu, speedup, memory = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        print(
            f"{row['mode']:24} {row['examples_per_s']:10.3f} {row['peak_mb']:9.0f} {row['padding_share']:8.3f} "
            f"{mfu:>6} {speedup:>7} {memory:>11}"
        )
    print(f"the update of the weights, the same in every mode, is not in it: {document['update_seconds']:.4f} s a step")


def plot(document: dict, path: str) -> None:
    """Draws a bar per mode, for time and for memory, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = document["rows"]
    panels = {
        "examples per second": ("examples_per_s", "speedup_vs_reference", "{:.1f} x"),
        "peak memory above the model, GiB": ("peak_mb", "memory_vs_reference", "{:.2f} x"),
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.4 * len(rows) + 1), sharey=True, layout="constrained")
    for axis, (label, (value, ratio, form)) in zip(axes, panels.items(), strict=True):
        values = [row[value] / (1024 if value == "peak_mb" else 1) for row in rows]
        bars = axis.barh([row["mode"] for row in rows], values)
        axis.bar_label(bars, ["" if row[ratio] is None else form.format(row[ratio]) for row in rows], padding=3)
        axis.set(xlabel=label, xlim=(0, 1.15 * max(values)))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def parse_arguments(arguments: list[str] | None, presets: dict[str, Preset]) -> argparse.Namespace:
    """The command line; `preset` becomes a Preset. Raises ValueError on what cannot be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, help="file to write the measurements to")
    parser.add_argument("--plot", help="PNG to draw time and memory in")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--preset", choices=presets, default=next(iter(presets)))
    parser.add_argument("--modes", help=f"comma-separated; default: all. {', '.join(NAMES)}")
    parser.add_argument("--batch", type=int, default=4, help="samples in a batch")
    parser.add_argument("--prompt_length", type=int, help="tokens of the prompt with its image; default: the preset's")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many runs counts")
    args = parser.parse_args(arguments)
    args.modes = chosen_modes(args.modes, NAMES, NAMES)
    for flag in ("batch", "repeats"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag} must be at least 1, not {getattr(args, flag)}")
    args.preset = presets[args.preset]
    if args.prompt_length is not None:
        args.preset = replace(args.preset, prompt_length=args.prompt_length)
    # The fixed part of a ragged prompt is seven eighths of it.
    least = -(-args.preset.vision.queries * 8 // 7) if args.preset.vision else 8
    if args.preset.prompt_length < least:
        raise ValueError(f"--prompt_length {args.preset.prompt_length}: at least {least} with this preset")
    check_surroundings(args.device, {"--json": args.json, "--plot": args.plot})
    return args


def main(arguments: list[str] | None = None, presets: dict[str, Preset] = TRAINING_PRESETS) -> None:
    try:
        args = parse_arguments(arguments, presets)
    except ValueError as error:
        sys.exit(f"training: error: {error}")
    document = measure(args.preset, args.device, args.modes, args.batch, args.repeats)
    Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
    print_table(document)
    if args.plot:
        plot(document, args.plot)


if __name__ == "__main__":
    main()
