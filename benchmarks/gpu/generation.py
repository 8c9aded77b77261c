"""Reports per second at batch 1 and 64, 128 tokens in 32 steps: ours beside the autoregressive twin on the same
weights. A report's time begins with pixels and ids."""

import statistics
from dataclasses import replace

import torch

from benchmarks.gpu.record import Record, begin
from benchmarks.measure import MIB, interleaved
from benchmarks.presets import PRESETS, Preset, Vision, embedded
from benchmarks.systems import AUTOREGRESSIVE, Bench, Case

TINY = Preset("tiny", 32, 2, 48, 2, 1, 16, 97, torch.float32, prompt_length=12, gen_length=16, block_length=4)
TINY = replace(TINY, vision=Vision(16, 8, 16, 1, 32, 1, queries=3))
REPEATS = 5  # on a GPU


def seconds_of(call, repeats: int, warm_ups: int) -> list[float]:
    return interleaved({"": call}, repeats, [call] * warm_ups)[""]


def measure(record: Record, bench: Bench, mode: str, batch: int) -> None:
    """One mode at one batch; a compiled one records its steps in the first run, then replays them."""
    preset = bench.preset
    steps = preset.gen_length if mode == AUTOREGRESSIVE else preset.gen_length // 4
    case = Case(mode, batch, steps, preset.prompt_length)
    with record.check(f"{mode}, batch {batch}") as found:
        call = bench.writer(case)
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found["first_run_s"] = seconds_of(call, 1, 0)[0]
        runs = seconds_of(call, REPEATS if bench.device == "cuda" else 1, 0)
        median = statistics.median(runs)
        found |= {"ms_per_report": 1e3 * median / batch, "reports_per_s": batch / median, "seconds": runs}
        found["ms_per_step"] = 1e3 * (median - record.checks[f"prompt, batch {batch}"]["seconds"]) / steps
        if bench.device == "cuda":
            found["peak_mib"] = torch.cuda.max_memory_allocated() / MIB


def run(record: Record, device: str, modes: list[str]) -> Bench:
    with record.check("model"):
        bench = Bench(PRESETS["qwen3-0.6b"] if device == "cuda" else TINY, device)
    batches = (1, 64) if device == "cuda" else (1, 2)
    for batch in batches:
        with record.check(f"prompt, batch {batch}") as found:
            inputs = bench.inputs(batch, bench.preset.prompt_length)
            found["seconds"] = statistics.median(seconds_of(lambda: embedded(bench.model, inputs), 3, 1))  # noqa: B023
    for mode in modes:
        for batch in batches:
            measure(record, bench, mode, batch)
    return bench


def main() -> None:
    run(*begin(__doc__), ["block exact compile", "block exact", AUTOREGRESSIVE])


if __name__ == "__main__":
    main()
