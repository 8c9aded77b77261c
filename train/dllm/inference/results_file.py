"""A file of results, one JSON object a line, that a run which was stopped goes on with.

{"id": "p10/a.jpg", "text": "...", "tokens": 43, "steps": 17, "settings": {"model_path": "...", ...}}
{"id": "p10/b.jpg", "error": "p10/b.jpg: the file is empty (0 bytes); copy it again"}
"""

import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dllm.data.files import Lock, replacing
from dllm.inference.writer import Response


class ResultsFile:
    """Responses by key, written with one group of settings.

    path      the file; it may hold the lines of an earlier run, whose responses are kept and whose errors are not
    settings  all that a response depends on besides its key, as JSON values; every line repeats them
    names     what a line calls the key (an id, say) and the text of the response
    results   the responses in the file, by key

    Raises ValueError with one line: the file holds anything but such lines, or responses of other settings; it cannot
    be read or written.
    """

    def __init__(self, path: str | Path, settings: dict, names: tuple[str, str]):
        self.path, (self.key, self.text) = Path(path), names
        self.start = f'{{"{self.key}": '  # of every line
        self.settings = json.loads(json.dumps(settings))
        self.results: dict[str, Response] = {}
        # The lines of two processes would be refused.
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.path.with_name(f".{self.path.name}.lock"), f"writes {self.path}")
        weakref.finalize(self, lock.release)
        lines, rest = self._lines()
        kept = [line for number, line in enumerate(lines, start=1) if self._take(line, f"{self.path}:{number}")]
        with self._writing():
            if rest or kept != lines:
                with replacing(self.path) as partial:
                    partial.write_text("".join(kept), encoding="utf-8")
            with open(self.path, "a"):
                pass
            if not kept:
                self.path.unlink()

    def add(self, key: str, response: Response) -> None:
        """Appends a response."""
        entry = {self.key: key, self.text: response.text, "tokens": response.tokens, "steps": response.steps}
        self._append(entry | {"settings": self.settings})
        self.results[key] = response

    def add_error(self, key: str, error: str) -> None:
        """Appends the one line that says why there is no response."""
        self._append({self.key: key, "error": error})

    def _append(self, entry: dict) -> None:
        with self._writing(), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Inside, what the file system refuses is a line with a remedy."""
        try:
            yield
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be written ({error.strerror}); choose another --out") from None

    def _lines(self) -> tuple[list[str], str]:
        """The whole lines of the file, and what there is of a line that was being written when the run was killed."""
        try:
            if not self.path.exists():
                return [], ""
            if not self.path.is_file():
                raise ValueError(f"{self.path}: not a file; choose another --out")
            *lines, rest = self.path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read ({error.strerror}); choose another --out") from None
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: not UTF-8 text; choose another --out") from None
        if not (rest.startswith(self.start) or self.start.startswith(rest)):
            raise ValueError(f"{self.path}:{len(lines) + 1}: no line of a results file; choose another --out")
        return [line + "\n" for line in lines], rest

    def _take(self, line: str, where: str) -> bool:
        """Whether the line holds a response, which is taken over, or else an error."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        names = (self.key, self.text, "tokens", "steps", "settings", "error")
        match [entry.get(name) for name in names] if isinstance(entry, dict) else entry:
            case [str(), None, None, None, None, str()]:
                return False
            case [str(key), str(text), int(tokens), int(steps), dict(settings), None]:
                self._check_settings(settings, where)
                if key in self.results:
                    raise ValueError(f"{where}: a second line for {key}; choose another --out")
                self.results[key] = Response(text, tokens, steps)
                return True
        raise ValueError(f"{where}: no line of a results file; choose another --out")

    def _check_settings(self, settings: dict, where: str) -> None:
        for name in settings | self.settings:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise ValueError(f"{where} was written with {name} {old!r}, not {new!r}; choose another --out")
