"""A training step of the full size as the Trainer takes it: fp32 weights under bf16 autocast, forward, backward and the
fused update. Tokens per second, MFU and memory by pattern, beside the seed's literal step; without images,
FlexAttention against SDPA by length. Tokens are those of prompt and report, once each."""

import statistics
from dataclasses import replace

import torch

from benchmarks.gpu.correctness import kernel
from benchmarks.gpu.generation import TINY
from benchmarks.gpu.record import Record, begin
from benchmarks.measure import MIB, clock
from benchmarks.presets import TRAINING_PRESETS
from benchmarks.steps import INDEXED, Bench, Case
from dllm.training.flops import peak_rate

BATCH = 16
BLIND = replace(TINY, vision=None)
LENGTHS = (200, 512, 1024, 2048)  # of the packed sequence of the pattern `block`: P + 3 R


class TrainedBench(Bench):
    """Weights in fp32, the step in bf16, and an update after it."""

    def __init__(self, preset, device: str, batch_size: int):
        super().__init__(replace(preset, dtype=torch.float32), device, batch_size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)

    def call(self, case: Case):
        batches = self.batches(case)

        def step() -> None:
            for batch in batches:
                with torch.autocast(self.device, torch.bfloat16):
                    loss = self.loss(case, batch)
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()

        return step

    def resize(self, batch_size: int, prompt_length: int, gen_length: int) -> None:
        self.batch_size = batch_size
        self.preset = replace(self.preset, prompt_length=prompt_length, gen_length=gen_length)


def measure(found: dict, bench: TrainedBench, case: Case, repeats: int) -> None:
    """Seconds of the first step, which compiles, and the median of the others; both with the update of the weights."""
    cuda = bench.device == "cuda"
    call, seconds = bench.call(case), []
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 2):
        begun = clock()
        call()
        seconds.append(clock() - begun)
    median = statistics.median(seconds[2:])
    tokens = bench.batch_size * (bench.preset.prompt_length + bench.preset.gen_length)
    operations = bench.operations(case)
    found |= {"first_s": seconds[0], "step_ms": 1e3 * median, "tokens_per_s": tokens / median}
    found |= {"examples_per_s": bench.batch_size / median, "tflop": operations / 1e12}
    if cuda:
        peak = peak_rate(torch.cuda.get_device_name())
        found["mfu"] = operations / median / peak if peak else None
        found["peak_mib"] = torch.cuda.max_memory_allocated() / MIB


def by_pattern(record: Record, bench: TrainedBench, repeats: int) -> None:
    for mode in ("block", "prefix", "bidirectional", INDEXED):
        with record.check(f"{mode}, batch {bench.batch_size}") as found:
            measure(found, bench, Case(mode), repeats)


def by_length(record: Record, bench: TrainedBench, lengths: tuple[int, ...], tokens: int, repeats: int) -> None:
    """The pattern `block` with either kernel, on about as many tokens at every length."""
    for length in lengths:
        response = length // 4 // bench.preset.block_length * bench.preset.block_length or bench.preset.block_length
        bench.resize(max(tokens // length, 1), length - 3 * response, response)
        for name in ("flex", "sdpa") if bench.device == "cuda" else ("sdpa",):
            with record.check(f"block, L {length}, {name}") as found, kernel(name):
                measure(found, bench, Case("block"), repeats)


def main() -> None:
    record, device = begin(__doc__)
    if device == "cpu":
        bench = TrainedBench(BLIND, device, 2)
        by_pattern(record, bench, 1)
        return by_length(record, bench, (20,), 40, 1)
    by_pattern(record, TrainedBench(TRAINING_PRESETS["qwen3-0.6b"], device, BATCH), 5)
    blind = TrainedBench(replace(TRAINING_PRESETS["qwen3-0.6b"], vision=None), device, BATCH)
    by_length(record, blind, LENGTHS, 16384, 4)


if __name__ == "__main__":
    main()
