"""The progress bar of all programs: drawn over on a terminal; elsewhere, in a log file say, a line now and then."""

import sys
import time
from typing import TextIO

from tqdm import tqdm

APART, ALIVE = 30, 600  # seconds between two lines at least, and at most
BRIEF = 2  # seconds within which what has ended needs no bar


class Bar(tqdm):
    """tqdm's bar. Where there is no terminal it is a line at every tenth of the way, but none within APART seconds of
    another, and one at the end, unless the whole took less than `brief` seconds.
    """

    def __init__(self, *args, brief: float = BRIEF, **kwargs):
        self.lines, self.brief = not sys.stderr.isatty(), brief
        self.begun = self.said = time.monotonic()
        self.tenth = 0
        super().__init__(*args, **kwargs | ({"file": _Lines(sys.stderr)} if self.lines else {}))

    def refresh(self, *args, **kwargs):
        if not self.lines or self._is_due():
            super().refresh(*args, **kwargs)

    def close(self):
        if self.lines and time.monotonic() - self.begun < self.brief:
            self.leave = False
        super().close()

    def _is_due(self) -> bool:
        waited = time.monotonic() - self.said
        tenth = 10 * self.n // self.total if self.total else 0
        if self.n == self.total or not (waited > ALIVE or (waited > APART and tenth > self.tenth)):
            return False  # the last line comes when it is closed
        self.said, self.tenth = time.monotonic(), tenth
        return True


class _Lines:
    """A stream on which every state of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        if text.strip():
            self.stream.write(text.strip() + "\n")

    def flush(self) -> None:
        self.stream.flush()
