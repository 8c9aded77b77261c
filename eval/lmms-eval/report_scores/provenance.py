"""What a score rests on: files, data and code by their hash, versions, the commit; and the name of a run made of it."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from dllm.data.files import sha256
from dllm.training.model_card import git_state  # noqa: F401 (of the code that writes)
from report_scores.data import check_test_set, data_hashes

LOADED = (".safetensors", ".json", ".jinja", ".txt")  # kinds of files that a model is loaded from
LIBRARIES = ("torch", "transformers", "lmms_eval")
WRITING = ("dllm", "llava")  # packages that write reports
SCORING = (*WRITING, "report_scores")  # packages that score them


def digest(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def checkpoint_files(folder: str | Path) -> dict[str, str]:
    """SHA-256 by name of the files in a checkpoint folder that a model is loaded from: weights, config, tokenizer."""
    files = sorted(file for file in Path(folder).iterdir() if file.suffix in LOADED)
    return {file.name: sha256(file) for file in files}


def code_sha256(packages: Sequence[str] = WRITING) -> str:
    """One hash of all Python files of packages."""
    folders = {name: Path(importlib.util.find_spec(name).submodule_search_locations[0]) for name in packages}
    files = [(name, folder, file) for name, folder in folders.items() for file in folder.rglob("*.py")]
    return digest({f"{name}/{file.relative_to(folder)}": sha256(file) for name, folder, file in files})


def versions() -> dict[str, str]:
    """Versions of the libraries that the reports depend on."""
    return {name: version(name) for name in LIBRARIES}


def run_name(checkpoint: str | Path, settings: list[str]) -> str:
    """The last folder of the checkpoint, and a hash of all that the reports depend on: a run that was interrupted is
    found again by it. Raises ValueError with one line when the test set cannot be used.
    """
    folder = Path(checkpoint)
    state = [checkpoint_files(folder), check_test_set(), data_hashes(), code_sha256(), versions(), settings]
    return f"{folder.resolve().name}_{digest(state)[:12]}"
