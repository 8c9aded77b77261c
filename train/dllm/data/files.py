"""Files and folders on disk: whole or as they were, locked, hashed, walked, read as JSON."""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_weights_optional = ContextVar("weights_optional", default=False)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end; an error leaves `path` as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        share(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Gives a file the mode that the umask leaves to new files: safetensors writes files that others cannot read."""
    mask = os.umask(0o077)
    os.umask(mask)
    if path.is_file():
        path.chmod(0o666 & ~mask)


class Lock:
    """Holds the lock file `path` for this process alone, until `release` or its end; forked processes do not share it.

    Raises ValueError with one line if another process holds it: `what` is what that one does. Where a file system knows
    no locks, there is none.
    """

    def __init__(self, path: str | Path, what: str):
        self.path, self.file = Path(path), None
        while not self._is_there():  # a holder removes it when it is done
            self.file = open(self.path, "a")
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self.file.close()
                remedy = "wait for it, or choose another"
                raise ValueError(f"another process {what} ({self.path} is locked); {remedy}") from None
            except OSError:  # a file system without locks
                return

    def release(self) -> None:
        """Ends the lock and removes its file."""
        if self._is_there():
            self.path.unlink(missing_ok=True)
        if self.file is not None:
            self.file.close()
            self.file = None

    def _is_there(self) -> bool:
        """Whether the open file is the one at the path."""
        try:
            return self.file is not None and os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: str | Path) -> str:
    """SHA-256 of the safetensors files of a model folder, whatever their number."""
    hashes = [sha256(file) for file in sorted(Path(folder).glob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@contextmanager
def weights_optional(optional: bool) -> Iterator[None]:
    """Inside, a folder without weights is one of a model whose weights have shapes and no values (PyTorch's `meta`)."""
    before = _weights_optional.set(optional)
    try:
        yield
    finally:
        _weights_optional.reset(before)


def may_lack_weights(folder: str | Path, weights: str = "model.safetensors") -> bool:
    """Whether a folder has none, and inside `weights_optional` need not."""
    files = (Path(folder) / name for name in (weights, f"{weights}.index.json"))
    return _weights_optional.get() and not any(file.is_file() for file in files)


def read_json(path: str | Path, remedy: str, kind: type = dict):
    """What a JSON file holds, a value of type `kind`. Raises ValueError, ending in the remedy, on anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {remedy}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path} holds {type(value).__name__}, not {kind.__name__}; {remedy}")
    return value


def write_json(path: str | Path, value: object) -> None:
    """Writes a file of JSON that is whole or as it was."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Walk:
    """The folders below `root` and their regular files, in order of names: iterating gives (folder, folders, files).

    Whoever takes a folder from the list does not enter it. Links are followed, but no folder is entered twice. What is
    hidden is left out: "._1.xml" and other names with a dot in front, and __MACOSX, with all that is in them.

    hidden      number of files left out
    unreadable  what could not be read, one line each
    """

    def __init__(self, root: str | Path):
        self.root, self.hidden, self.unreadable = Path(root), 0, []

    def __iter__(self) -> Iterator[tuple[Path, list[str], list[str]]]:
        seen = set()
        for folder, folders, files in os.walk(self.root, onerror=self._note, followlinks=True):
            folder, status = Path(folder), os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()  # os.walk enters those that are left in its list
                continue
            seen.add((status.st_dev, status.st_ino))
            for name in filter(is_hidden, folders):
                self.hidden += sum(len(below) for *_, below in os.walk(folder / name))
            self.hidden += sum(map(is_hidden, files))
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            files = sorted(name for name in files if not is_hidden(name))
            yield folder, folders, [name for name in files if self._is_file(folder / name)]

    def notes(self) -> tuple[str, ...]:
        """Lines for the end of a summary on what was left out."""
        hidden = (f"{self.hidden} hidden files (._*, __MACOSX) skipped",) if self.hidden else ()
        unreadable = f"{len(self.unreadable)} files or folders could not be read: {'; '.join(self.unreadable[:4])}"
        return (*hidden, unreadable) if self.unreadable else hidden

    def _is_file(self, path: Path) -> bool:
        """Whether it is a regular file, which a pipe is not; a link to nothing is told."""
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            self._note(error)
            return False

    def _note(self, error: OSError) -> None:
        self.unreadable.append(f"{error.filename} ({error.strerror})")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of its publisher's: macOS leaves such ones, and others do."""
    return name.startswith(".") or name == "__MACOSX"
