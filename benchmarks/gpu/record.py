"""What a part of `gpu.sh` found, as JSON that is written after every check, so that a part that dies has told it."""

import argparse
import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class Record:
    """The checks of one part by their names, each with its state, seconds and figures."""

    def __init__(self, file: str):
        self.file, self.checks = Path(file), {}

    @contextmanager
    def check(self, name: str) -> Iterator[dict]:
        """Figures go into what this yields; an exception is recorded there, and the part goes on."""
        figures = self.checks[name] = {"state": "running"}
        self._write()
        begun = time.perf_counter()
        try:
            yield figures
            figures["state"] = "done"
        except Exception as error:
            figures |= {"state": "failed", "error": f"{type(error).__name__}: {str(error)[:500]}"}
            figures["traceback"] = traceback.format_exc()[-4000:]
        figures["check_seconds"] = time.perf_counter() - begun
        self._write()
        told = {key: value for key, value in figures.items() if key != "traceback"}
        print(f"{self.file.stem:12} {name:40} {_short(told)}", flush=True)

    def _write(self) -> None:
        self.file.write_text(json.dumps(self.checks, indent=1, default=str) + "\n")


def begin(description: str) -> tuple[Record, str]:
    """The record of the part whose command line this is, and its device: a GPU, with --dry a CPU."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", required=True, help="file to write the record to")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on a CPU")
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        parser.error("no GPU is to be seen; use --dry")
    if args.dry:
        torch.compiler.set_stance("force_eager")  # the compiler would take minutes
    return Record(args.json), "cpu" if args.dry else "cuda"


def _short(figures: dict) -> str:
    parts = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in figures.items())
    return " ".join(parts)[:600]
