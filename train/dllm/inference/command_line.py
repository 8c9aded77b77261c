"""What programs that write responses have in common: their arguments, and the canvas shown as it denoises.

torch, whose import takes seconds, is not needed for the arguments: a mistake is told at once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from itertools import count, groupby
from typing import TYPE_CHECKING, get_args
from unicodedata import east_asian_width

from dllm.core.decoding import Decoding
from dllm.inference.templates import BLANK_LENGTH
from dllm.program import has_no_default

if TYPE_CHECKING:
    from torch import Tensor

    from dllm.inference.writer import Request, Writer

DTYPES = ("float32", "bfloat16", "float16")
MASKED = "·"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How responses are written, on which device."""
    most = "most tokens of a blank that text follows"
    parser.add_argument("--blank_length", type=int, default=BLANK_LENGTH, help=most)
    for each in fields(Decoding):
        value = {"action": "store_true"} if each.type is bool else {"type": next(iter(get_args(each.type)), each.type)}
        told = has_no_default(each.default) or "default" in each.metadata["help"]
        text = each.metadata["help"] if told else f"{each.metadata['help']} (default: {each.default})"
        parser.add_argument(f"--{each.name}", default=None, help=text, **value)
    parser.add_argument("--seed", type=int, default=0, help="of temperature and random remasking")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """On which device, in which precision."""
    parser.add_argument("--device", type=str, help="cpu, cuda, cuda:1 ...; default: cuda where there is a GPU")
    fast = "precision of the weights; default: bfloat16 on a GPU, else float32"
    parser.add_argument("--dtype", choices=DTYPES, help=fast)


def settle_device(args: argparse.Namespace) -> None:
    """Puts the device that is there, and the precision that is fastest on it, where none were asked for."""
    args.device, args.dtype = settled(args.device, args.dtype)


def settled(device: str | None, dtype: str | None) -> tuple[str, str]:
    """Device and precision, those that `settle_device` puts in the place of None."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return device, dtype or ("float32" if device == "cpu" else "bfloat16")


def decoding_arguments(args: argparse.Namespace) -> dict:
    """Those of `Decoding` that were given. Raises ValueError on an impossible value."""
    given = {each.name: getattr(args, each.name) for each in fields(Decoding)}
    given = {name: value for name, value in given.items() if value is not None}
    # Before a model is there, whose lengths are the defaults, and which may have a name of its own for its inputs.
    checked = {name: value for name, value in given.items() if name != "cfg_against"}
    Decoding(**{"gen_length": 1, "block_length": 1} | checked)
    return given


def announce(model_path: str) -> None:
    """Says that a model is loaded, which takes a while. Raises ValueError if there is no such folder."""
    if not os.path.exists(model_path):
        raise ValueError(f"model folder {model_path} does not exist; give --model_path the folder of a trained model")
    print(f"loading {model_path} ...", file=sys.stderr, flush=True)


def seed_of(seed: int, name: str) -> int:
    """The seed of a named response: the same in any batch and any order."""
    return int.from_bytes(hashlib.sha256(f"{seed} ".encode() + os.fsencode(name)).digest()[:8])


def canvas_text(writer: Writer, canvas: Tensor, todo: Tensor) -> str:
    """A canvas [R] up to its stop token or last committed one, a dot for every token that is still `todo` [R]."""
    ids, masked = canvas.tolist(), todo.tolist()
    written = [index for index, is_masked in enumerate(masked) if not is_masked]
    stops = writer.diffusion.stop_token_ids
    end = next((index for index in written if ids[index] in stops), max(written, default=-1)) + 1
    runs = [(is_masked, [ids[i] for i in run]) for is_masked, run in groupby(range(end), key=masked.__getitem__)]
    return "".join(MASKED * len(run) if is_masked else writer.tokenizer.decode(run) for is_masked, run in runs)


def step_printer(writer: Writer) -> Callable[[Tensor, Tensor], None]:
    """A callback that prints the first canvas of a batch, a line for every step."""
    step = count(1)
    return lambda canvas, todo: print(f"{next(step):3d} {canvas_text(writer, canvas[0], todo[0])!r}")


def write_live(writer: Writer, request: Request, arguments: dict) -> str:
    """The text that answers a request, shown; on a terminal at every step."""
    live = LiveText() if sys.stdout.isatty() else None
    on_step = live and (lambda canvas, todo: live.show(canvas_text(writer, canvas[0], todo[0])))
    (answer,) = writer.write([request], on_step=on_step, **arguments)
    if live:
        live.show(answer.text, whole=True)
    print("" if live else printable(answer.text), flush=True)
    return answer.text


class LiveText:
    """Text on a terminal in the place of what was shown before; its last rows alone if it is taller than the screen."""

    def __init__(self):
        self.shown = 0  # rows above the cursor

    def show(self, text: str, whole: bool = False) -> None:
        width, height = shutil.get_terminal_size()
        rows = [row for line in printable(text).split("\n") for row in _wrapped(line, width)]
        rows = rows if whole else rows[1 - height :]
        up = f"\x1b[{self.shown}A" if self.shown else ""
        sys.stdout.write(f"\r{up}\x1b[J" + "\r\n".join(rows))
        sys.stdout.flush()
        self.shown = len(rows) - 1


def printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def _wrapped(line: str, width: int) -> list[str]:
    """A line in rows of a terminal, on which some characters take two columns."""
    rows, used = [""], 0
    for character in line:
        columns = 2 if east_asian_width(character) in "WF" else 1
        if used + columns > width:
            rows.append("")
            used = 0
        rows[-1] += character
        used += columns
    return rows
