"""Steps through `torch.compile`, CUDA graphs on a GPU, against the same steps as they are: tokens of tiny models, run
after run, as graphs are recorded and replayed. What this breaks, it breaks for its process alone."""

import itertools

import torch

from benchmarks.gpu.correctness import RULES, compare_tokens, written
from benchmarks.gpu.record import begin

CASES = [
    ("block", "exact", "quota"),
    ("block", "exact", "guidance"),
    ("block", "exact", "threshold"),
    ("prefix", "exact", "quota"),
    ("bidirectional", "dllmcache", "quota"),
    ("bidirectional", "none", "quota"),
]


def main() -> None:
    record, device = begin(__doc__)
    for (pattern, cache, rule), rows in itertools.product(
        *((CASES, (4, 1)) if device == "cuda" else (CASES[:1], (4,)))
    ):
        with record.check(f"{pattern} {cache} {rule}, batch {rows}") as found:
            arguments = RULES[rule] | {"cache": cache, "rows": rows}
            expected = written(pattern, device, torch.float32, **arguments)
            found["equal"] = []
            for _ in range(3):
                run = written(pattern, device, torch.float32, compile=True, **arguments)
                found["equal"].append(compare_tokens(run, expected)["equal"])
    with record.check("graphs") as found:
        counters = torch._dynamo.utils.counters
        found |= {name: dict(counters[name]) for name in ("stats", "inductor")}


if __name__ == "__main__":
    main()
