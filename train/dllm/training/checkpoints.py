"""Checkpoints and models on disk that are either whole or not there, whenever the run is killed.

    checkpoint-N/            what transformers, DeepSpeed or FSDP write
    checkpoint-N/complete    JSON: size and sha256 of every file, the settings of the run that a later one must share
    .unfinished/             a model that is being written into the folder around it

The marker `complete` is written when the files of all processes are on disk, and goes before any of them does. A run
goes on from the newest folder whose files agree with it.
"""

import copyreg
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import torch
from safetensors import SafetensorError

from dllm.data.files import read_json, replacing, sha256, share
from dllm.program import one_line
from dllm.training.failures import is_lost_process
from dllm.training.identity import differences

COMPLETE = "complete"
UNFINISHED = ".unfinished"
CONFIG = "config.json"  # no folder without it is taken for a model
PICKLES = (".pt", ".pth", ".bin")  # but for transformers' copy of the arguments, which nobody reads
SAFE = {  # what they hold beside tensors and plain values: the states of random numbers, of DeepSpeed's optimizer
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.dtype",
    "numpy.ndarray",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.utils.tensor_fragment.fragment_address",
}


def complete_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoint-N folders that were written to their end, oldest first."""
    return [folder for folder in _checkpoints(output_dir) if (folder / COMPLETE).is_file()]


def newest_whole_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are those that were written, or None if there is no complete one; and why newer
    ones were passed over, a line each. Raises ValueError if there are complete ones, and none is whole.
    """
    problems = []
    for folder in reversed(complete_checkpoints(output_dir)):
        try:
            check_files(folder)
            return folder, problems
        except (ValueError, OSError) as error:
            problems.append(one_line(error))
    if problems:
        raise ValueError(f"{'; '.join(problems)}; no checkpoint is whole: move them away to start from the beginning")
    return None, problems


def mark_complete(folder: Path, settings: dict) -> None:
    """Makes a checkpoint count; its files must be on disk (`flush`)."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    sizes = [(folder / name).stat().st_size for name in names]
    files = dict(zip(names, zip(sizes, _hashes(folder, names), strict=True), strict=True))
    with replacing(folder / COMPLETE) as partial:
        partial.write_text(json.dumps({"files": files, "settings": settings}))
        _sync(partial)
    _sync(folder)


def check_files(folder: Path) -> None:
    """Raises ValueError if a file of a checkpoint is not the one that was written, or one holds more than data.

    Libraries unpickle some of these files, which would run what a foreign one holds.
    """
    files = _marker(folder)["files"]
    for name, (size, _) in files.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes, not {size}"
            raise ValueError(f"{folder} is damaged: {name} {state}")
    for name, found in zip(files, _hashes(folder, files), strict=True):
        if found != files[name][1]:
            raise ValueError(f"{folder} is damaged: {name} has another content than was written")
    for path in sorted(path for path in folder.rglob("*") if path.suffix in PICKLES and path.stem != "training_args"):
        _check_pickle(path)


def check_settings(checkpoint: str | Path, settings: dict, allowed: list[str]) -> None:
    """Raises ValueError if a run with other settings wrote the checkpoint, so that this one could not go on with it."""
    if found := differences(_marker(Path(checkpoint))["settings"], settings, allowed):
        raise ValueError(
            f"{checkpoint} was written with {'; '.join(found)}: the losses would be of two runs; give the same or "
            "another --output_dir, or --allow_changed with the names of what may change"
        )


def _marker(folder: Path) -> dict:
    marker = read_json(folder / COMPLETE, "the checkpoint does not count")
    files, settings = marker.get("files"), marker.get("settings")
    known = isinstance(files, dict) and isinstance(settings, dict) and files
    if not known or not all(isinstance(file, list) and len(file) == 2 for file in files.values()):
        raise ValueError(f"{folder / COMPLETE} names no files: an earlier version wrote it, or it is damaged")
    return marker


def _hashes(folder: Path, names) -> list[str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(sha256, (folder / name for name in names)))


def _check_pickle(path: Path) -> None:
    """Raises ValueError if unpickling a file would call anything but what a run puts there."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # of many types
        raise ValueError(f"{path} is no file of a checkpoint ({one_line(error)})") from None
    if foreign := sorted(set(unsafe) - SAFE):
        raise ValueError(f"{path} would run {foreign[0]} when it is read: no run wrote it; remove the checkpoint")


def pickle_by_value(kind: type[Enum]) -> None:
    """Writes the members of an Enum to checkpoints as the call of it with their value: Python 3.11.0 to 3.11.3 write a
    call of `getattr`, with which a file could run anything, and which `check_files` refuses.
    """
    copyreg.pickle(kind, lambda member: (kind, (member.value,)))


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
    """Puts the files below a folder, and their names, on disk, so that a marker written later never precedes them; who
    may read them is as the umask says.
    """
    for path in (*folder.rglob("*"), folder, folder.parent):
        share(path)
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
