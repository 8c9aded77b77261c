"""What a score rests on: files and code by their hash, versions, the commit."""

import hashlib
import importlib.util
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

LOADED = (".safetensors", ".json", ".jinja", ".txt")  # kinds of files that a model is loaded from
LIBRARIES = ("torch", "transformers", "lmms_eval")
CODE = (  # all that `llava.inference` imports, and the rest of its folders
    "dllm",
    "llava/__init__.py",
    "llava/constants.py",
    "llava/conversation.py",
    "llava/inference.py",
    "llava/model",
    "llava/data/__init__.py",
    "llava/data/anyres.py",
    "llava/data/dicom.py",
    "llava/data/images.py",
)


def digest(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_files(folder: str | Path) -> dict[str, str]:
    """SHA-256 by name of the files in a checkpoint folder that a model is loaded from: weights, config, tokenizer."""
    files = sorted(file for file in Path(folder).iterdir() if file.suffix in LOADED)
    return {file.name: sha256(file) for file in files}


def code_files() -> dict[str, Path]:
    """The Python files of CODE by their name below the folder of the packages."""
    root = Path(importlib.util.find_spec("llava").submodule_search_locations[0]).parent
    paths = [root / name for name in CODE]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return {str(file.relative_to(root)): file for file in files}


def code_sha256() -> str:
    """One hash of the code that writes the reports."""
    return digest({name: sha256(file) for name, file in code_files().items()})


def versions() -> dict[str, str]:
    """Versions of the libraries that the reports depend on."""
    return {name: version(name) for name in LIBRARIES}


def git_state() -> dict | None:
    """{"commit": hash, "dirty": whether any file differs from it} of this repository; None where there is none."""
    here = Path(__file__).resolve().parent
    try:
        outputs = [
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": outputs[0].strip(), "dirty": bool(outputs[1].strip())}
