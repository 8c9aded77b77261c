"""Draws what a run logged into `curves.png`: losses, also by noise level and of validation, rates, gradient norms.

    python -m dllm.training.curves FOLDER [FOLDER ...]    # of a finished run, or of a checkpoint

A run does it at its end. Panels of what was not logged are left out.
"""

import math
from pathlib import Path

from dllm.data.files import read_json, replacing
from dllm.program import argument_parser, run_program

STATE, FILE = "trainer_state.json", "curves.png"
NOISE, NORM = "loss_noise/", "grad_norm/"  # prefixes of logged names
NORMS = "gradient norm"
FEW = 40  # points, which are marked; more make a line by themselves


def panels(history: list[dict[str, float]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(step, value) of every curve by name, by panel, of the log history of a trainer's state."""
    names = list(dict.fromkeys(name for entry in history for name in entry))
    chosen = {
        "loss, nats": {"loss": "all targets", "loss_tail": "of it the padding tail"},
        "loss of a token, nats, by % of tokens masked": _below(NOISE, names),
        "learning rate of the first trained part": {"learning_rate": "rate"},
        NORMS: {"grad_norm": "all parts"} | _below(NORM, names),
        "validation, nats": {"eval_loss": "mean over responses", "eval_nll": "mean over tokens"},
    }
    found = {}
    for panel, curves in chosen.items():
        for name, label in curves.items():
            curve = [(entry["step"], entry[name]) for entry in history if math.isfinite(entry.get(name, math.nan))]
            if curve:
                found.setdefault(panel, {})[label] = curve
    return found


def draw(folder: str | Path) -> Path:
    """Draws the curves of the trainer's state in a folder beside it. Raises ValueError if nothing was logged."""
    from matplotlib.figure import Figure  # takes a second to import, and nothing but the end of a run needs it

    folder = Path(folder)
    file = folder / STATE
    found = panels(read_json(file, "give the output folder of a run, or a checkpoint").get("log_history", []))
    if not found:
        raise ValueError(f"{file} holds no loss; train with a --logging_steps below the number of steps")
    rows = math.ceil(len(found) / 2)
    figure = Figure(figsize=(11, 3.1 * rows), layout="constrained")
    for place, (title, curves) in enumerate(found.items(), start=1):
        axis = figure.add_subplot(rows, 2, place)
        for label, curve in curves.items():
            axis.plot(*zip(*curve, strict=True), label=label, marker="o" * (len(curve) < FEW), markersize=3)
        axis.set(title=title, xlabel="step")
        if title == NORMS:
            axis.set_yscale("log")  # parts differ by orders of magnitude
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            axis.legend(fontsize="small", frameon=False)
    with replacing(folder / FILE) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return folder / FILE


def _below(prefix: str, names: list[str]) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help=f"holds a {STATE}")
    for folder in parser.parse_args().folders:
        print(draw(folder))


if __name__ == "__main__":
    run_program(main)
