"""A run of three steps with its checkpoints, to be damaged."""

from pathlib import Path

from dllm.training.run import _start
from oracles.tiny import build_trainer

STEPS = 3


def arguments(world, out: Path, **more) -> list[str]:
    values = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 1, "mm_resampler_type": "none"}
    return world.arguments(out, **values | more)


def start(world, out: Path, **more) -> str | None:
    """The checkpoint that the same command goes on from."""
    trainer = build_trainer(arguments(world, out, **more))
    try:
        return _start(trainer)
    finally:
        if trainer.lock is not None:
            trainer.lock.release()
