"""Generation with recorded steps (CUDA graphs) against the same steps as they are: reports per second at full size, and
tokens of tiny models, run after run, as graphs are recorded and replayed."""

import itertools

import torch

from benchmarks.gpu import generation, profile
from benchmarks.gpu.correctness import RULES, compare_tokens, written
from benchmarks.gpu.record import Record, begin
from dllm.core.decoding import CACHES

PAIRS = [(pattern, cache) for cache, patterns in CACHES.items() for pattern in patterns]
FIRST = ("block", "exact")
MODES = ["block exact", "block exact compile"]


def tokens(record: Record, device: str, pairs: list[tuple[str, str]]) -> None:
    """The share of tokens that recorded steps write as the others do, in two runs."""
    for (pattern, cache), rule in itertools.product(pairs, RULES if device == "cuda" else ["quota"]):
        with record.check(f"tokens {pattern} {cache} {rule}") as found:
            arguments = RULES[rule] | {"cache": cache}
            expected = written(pattern, device, torch.float32, **arguments)
            runs = [written(pattern, device, torch.float32, compile=True, **arguments) for _ in range(2)]
            found["equal"] = [compare_tokens(run, expected)["equal"] for run in runs]


def main() -> None:
    record, device = begin(__doc__)
    tokens(record, device, [FIRST])
    bench = generation.run(record, device, MODES)
    for compile in (True, False):
        profile.generation(record, bench, compile)
    tokens(record, device, [pair for pair in PAIRS if pair != FIRST])


if __name__ == "__main__":
    main()
