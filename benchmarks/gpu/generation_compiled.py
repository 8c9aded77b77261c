"""Reports per second of `generation.py` with compiled steps; most of the time goes to the compiler."""

from benchmarks.gpu.generation import run
from benchmarks.gpu.record import begin


def main() -> None:
    run(*begin(__doc__), ["block exact compile"])


if __name__ == "__main__":
    main()
