"""Reports per second of `generation.py` with compiled steps; most of the time goes to the compiler."""

from benchmarks.gpu.generation import run
from benchmarks.gpu.record import begin

if __name__ == "__main__":
    run(*begin(__doc__), ["block exact compile"])
