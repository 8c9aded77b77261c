"""Where the time of a denoising step (batch 1 and 64) and of a training step goes: the kernels that take most of the
GPU, and how long it waits for the CPU to launch them."""

from functools import partial

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.generation import TINY
from benchmarks.gpu.record import Record, begin
from benchmarks.gpu.training import BATCH, BLIND, TrainedBench
from benchmarks.measure import clock
from benchmarks.presets import PRESETS, TRAINING_PRESETS, embedded
from benchmarks.steps import Case as Step
from benchmarks.systems import Bench
from dllm.core import sampler
from dllm.core.decoding import Decoding

TOP = 15


def observe(record: Record, name: str, call, units: int, device: str) -> None:
    """Milliseconds of the wall and of the kernels for each of the `units` of a call, and the costliest kernels."""
    with record.check(name) as found:
        call(), call()
        begun = clock()
        call()
        wall = clock() - begun
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
        with profile(activities=activities) as profiler:
            call()
            clock()
        kind = "device" if device == "cuda" else "cpu"
        events = [(e.key, getattr(e, f"self_{kind}_time_total") / 1e6, e.count) for e in profiler.key_averages()
                  if device == "cpu" or e.device_type == DeviceType.CUDA]  # fmt: skip
        events.sort(key=lambda event: -event[1])
        busy = sum(seconds for _, seconds, _ in events)
        found |= {"wall_ms": 1e3 * wall / units, "kernels_ms": 1e3 * busy / units, "busy": busy / wall}
        found["launches"] = sum(count for *_, count in events) / units
        found["top"] = [
            {"kernel": key[:120], "ms": 1e3 * seconds / units, "share": seconds / busy, "calls": count / units}
            for key, seconds, count in events[:TOP]
        ]


def generation(record: Record, bench: Bench, compile: bool = False) -> None:
    device = bench.device
    steps = 2 * bench.preset.gen_length // bench.preset.block_length  # two a block: its first, and one of the others
    bench.model.diffusion.attention_pattern = "block"
    decoding = Decoding.of(bench.model.diffusion, gen_steps=steps, compile=compile)
    for batch in (1, 64) if device == "cuda" else (1, 2):
        look = partial(embedded, bench.model, bench.inputs(batch, bench.preset.prompt_length))
        write = partial(sampler.generate, bench.model, look(), decoding)
        observe(record, f"denoising step{', recorded' * compile}, batch {batch}", write, steps, device)
    observe(record, f"prompt with images, batch {batch}", look, 1, device)


def training(record: Record, device: str) -> None:
    cuda = device == "cuda"
    bench = TrainedBench(TRAINING_PRESETS["qwen3-0.6b"] if cuda else BLIND, device, BATCH if cuda else 2)
    observe(record, f"training step, block, batch {bench.batch_size}", bench.call(Step("block")), 1, device)


def main() -> None:
    record, device = begin(__doc__)
    training(record, device)
    generation(record, Bench(PRESETS["qwen3-0.6b"] if device == "cuda" else TINY, device))


if __name__ == "__main__":
    main()
