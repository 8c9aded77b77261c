"""A file of reports, one JSON object a line, that a run which was stopped goes on with.

{"image": "p10/a.jpg", "report": "...", "tokens": 43, "steps": 17, "settings": {"model_path": "...", ...}}
{"image": "p10/b.jpg", "error": "p10/b.jpg: the image file is empty (0 bytes); copy it again"}
"""

import json
import os
from pathlib import Path

from llava.inference import Report

START = '{"image": '  # of every line


class ReportFile:
    """Reports by image, written with one group of settings.

    path      the file; it may hold the lines of an earlier run, whose reports are kept and whose errors are not
    settings  all that a report depends on besides its image, as JSON values; every report's line repeats them
    reports   those in the file, by image

    Raises ValueError with one line: the file holds anything but such lines, or reports of other settings; it cannot be
    read or written.
    """

    def __init__(self, path: str | Path, settings: dict):
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.reports: dict[str, Report] = {}
        lines, rest = self._lines()
        kept = [line for number, line in enumerate(lines, start=1) if self._take(line, f"{self.path}:{number}")]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if rest or kept != lines:
                _replace(self.path, "".join(kept))
            with open(self.path, "a"):
                pass
            if not kept:
                self.path.unlink()
        except OSError as error:
            raise self._unwritable(error) from None

    def add_report(self, image: str, report: Report) -> None:
        """Appends an image's report."""
        entry = {"image": image, "report": report.text, "tokens": report.tokens, "steps": report.steps}
        self._append(entry | {"settings": self.settings})
        self.reports[image] = report

    def add_error(self, image: str, error: str) -> None:
        """Appends the one line that says why an image has no report."""
        self._append({"image": image, "error": error})

    def _append(self, entry: dict) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

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
        if not (rest.startswith(START) or START.startswith(rest)):
            raise ValueError(f"{self.path}:{len(lines) + 1}: no line of a report file; choose another --out")
        return [line + "\n" for line in lines], rest

    def _take(self, line: str, where: str) -> bool:
        """Whether the line holds a report, which is taken over, or else an error."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        match entry:
            case {"image": str(), "error": str()}:
                return False
            case {"image": str(image), "report": str(), "tokens": int(), "steps": int(), "settings": dict(settings)}:
                self._check_settings(settings, where)
                if image in self.reports:
                    raise ValueError(f"{where}: a second report for {image}; choose another --out")
                self.reports[image] = Report(entry["report"], entry["tokens"], entry["steps"])
                return True
        raise ValueError(f"{where}: no line of a report file; choose another --out")

    def _check_settings(self, settings: dict, where: str) -> None:
        for name in settings | self.settings:
            old, new = settings.get(name), self.settings.get(name)
            if old != new:
                raise ValueError(f"{where} was written with {name} {old!r}, not {new!r}; choose another --out")

    def _unwritable(self, error: OSError) -> ValueError:
        return ValueError(f"{self.path}: cannot be written ({error.strerror}); choose another --out")


def _replace(path: Path, text: str) -> None:
    """Puts a whole new file in the place of the old one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
