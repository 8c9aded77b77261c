"""Checkpoints and models on disk that are either whole or not there, whenever the run is killed.

    checkpoint-N/            what transformers, DeepSpeed or FSDP write
    checkpoint-N/complete    JSON: the settings of the run that a later one must share
    .unfinished/             a model that is being written into the folder around it

The marker `complete` is written when the files of all processes are on disk, and goes before any of them does. A run
goes on from the newest folder that has it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dllm.training.failures import is_lost_process, one_line

COMPLETE = "complete"
UNFINISHED = ".unfinished"
CONFIG = "config.json"  # no folder without it is taken for a model


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoint-N folders that were written to their end, oldest first."""
    return [folder for folder in _checkpoints(output_dir) if (folder / COMPLETE).is_file()]


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint-N folder that was written to its end, or None."""
    complete = complete_checkpoints(output_dir)
    return str(complete[-1]) if complete else None


def mark_complete(folder: Path, settings: dict) -> None:
    """Makes a checkpoint count; its files must be on disk (`flush`)."""
    partial = folder / f"{COMPLETE}.partial"
    partial.write_text(json.dumps(settings))
    _sync(partial)
    partial.replace(folder / COMPLETE)
    _sync(folder)


def check_settings(checkpoint: str, settings: dict) -> None:
    """Raises ValueError if a run with other settings wrote the checkpoint, so that this one could not go on with it."""
    for name, old in json.loads((Path(checkpoint) / COMPLETE).read_text()).items():
        if settings[name] != old:
            raise ValueError(
                f"{checkpoint} was written with {name} {old}, this run has {settings[name]}; give the same or another "
                "--output_dir"
            )


def discard(folder: Path) -> None:
    """Removes a checkpoint; from the first moment on it does not count."""
    if folder.is_dir():
        (folder / COMPLETE).unlink(missing_ok=True)
        _sync(folder)
        shutil.rmtree(folder, ignore_errors=True)


def rotate(output_dir: str | Path, limit: int | None, best: str | None) -> None:
    """Keeps the newest `limit` complete checkpoints and the best one, and none that was interrupted before them."""
    complete = complete_checkpoints(output_dir)
    if not limit or not complete:
        return
    kept = {*complete[-limit:], *([Path(best)] if best else [])}
    for folder in _checkpoints(output_dir):
        if folder not in kept and _step(folder) < _step(complete[-1]):
            discard(folder)


def flush(folder: Path) -> None:
    """Puts the files below a folder, and their names, on disk, so that a marker written later never precedes them."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        _sync(path)


@contextmanager
def written_aside(folder: str | Path, publish: bool) -> Iterator[str]:
    """A folder to write a model into, whose files come to `folder` once all of them are whole.

    An interruption leaves `folder` with the model that it had, or without a config, which every reader of models
    refuses. `publish` is True in the process that writes the files.
    """
    folder = Path(folder)
    aside = folder / UNFINISHED
    try:
        if publish:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        with as_user_error(folder):
            yield str(aside)
            if publish:
                _publish(aside, folder)
    finally:
        if publish:
            shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path) -> None:
    flush(aside)
    (folder / CONFIG).unlink(missing_ok=True)
    if any(aside.glob("model*.safetensors")):  # an earlier model may have been cut into other files
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
    _sync(folder)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == CONFIG):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
        _sync(folder)


@contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turns what a full disk makes of writing, in any of the libraries, into a ValueError that names the folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_lost_process(error):
            raise
        reason = getattr(error, "strerror", None) or one_line(error)
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free >> 20
        raise ValueError(
            f"{folder} cannot be written: {reason} ({free} MiB are free there); make room and start again"
        ) from error


def _checkpoints(output_dir: str | Path) -> list[Path]:
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
