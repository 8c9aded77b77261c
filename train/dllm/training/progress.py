"""The progress bar of a run, and what is said at its end."""

import sys
from datetime import timedelta

from transformers import ProgressCallback, TrainerState

from dllm.bar import Bar


class Progress(ProgressCallback):
    """A bar with the figures of the last log, in place of the raw logs that transformers prints above its own."""

    def __init__(self):
        super().__init__()
        self.terminal = sys.stderr.isatty()

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = state.global_step
        if state.is_world_process_zero:
            settings = {"total": state.max_steps, "initial": state.global_step, "desc": "train", "dynamic_ncols": True}
            self.training_bar = Bar(brief=0, **settings)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.terminal:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix_str(describe(logs), refresh=self.terminal)


def describe(logs: dict[str, float]) -> str:
    """The figures of a log that a bar shows."""
    units = [name.removesuffix("_per_second") for name in logs if name.endswith("_per_second")]
    rates = {f"{unit}_per_second": f"{{:,.1f}} {unit}/s" for unit in units if unit not in ("samples", "tokens")}
    parts = {
        "loss": "loss {:.4g}",
        "tokens_per_second": "{:,.0f} tokens/s",
        **rates,
        "mfu": "MFU {:.1%}",
        "peak_memory_gb": "{:.1f} GB",
        "padding": "padding {:.1%}",
    }
    return ", ".join(text.format(logs[name]) for name, text in parts.items() if name in logs)


def summary(state: TrainerState, samples: float, tokens: float) -> str:
    """A finished run in one line, from what it trained on since it started or was resumed. Its time, and so its rate,
    include validation and checkpoints.
    """
    seconds = next(entry["train_runtime"] for entry in reversed(state.log_history) if "train_runtime" in entry)
    loss = next((f"{entry['loss']:.4f}" for entry in reversed(state.log_history) if "loss" in entry), "not logged")
    return (
        f"{state.global_step} steps; {samples:,.0f} samples in {timedelta(seconds=round(seconds))}, "
        f"{tokens / max(seconds, 1e-3):,.0f} tokens/s, last loss {loss}"
    )
