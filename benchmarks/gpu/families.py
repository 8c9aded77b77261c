"""Training of decoders whose layers have windows, or caps on their scores, against float64 on the CPU."""

from benchmarks.gpu.correctness import training
from benchmarks.gpu.record import begin


def main() -> None:
    record, device = begin(__doc__)
    for family in ("gemma2", "gemma3"):
        training(record, device, "short", ["block"], ["float32", "autocast"], family)
        if device == "cuda":
            training(record, device, "long", ["block", "bidirectional"], ["float32", "autocast"], family)


if __name__ == "__main__":
    main()
