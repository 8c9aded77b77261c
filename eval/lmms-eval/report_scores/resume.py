"""Reports that a run has finished, on disk as soon as they are: a run that was stopped does not write them again.

The folder has one file per process, one JSON object a line, {"key": ..., "text": ..., "tokens": ..., "steps": ...}. A
report is found by a key over all that it depends on, so a folder may hold those of other models or arguments as well,
and the number of processes may change. settings.json says what the last run in the folder wrote its reports with.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from dllm.data.files import write_json
from llava.inference import Report, Request
from report_scores.provenance import digest

Write = Callable[[Iterable[Request]], Iterator[Report]]


class FinishedReports:
    """The finished reports of a folder, and where this process adds its own.

    folder    for the files; it may be that of an earlier run
    settings  all that a report depends on besides its request, as JSON values
    rank      number of this process

    Raises ValueError when the folder cannot be written.
    """

    def __init__(self, folder: str | Path, settings: dict, rank: int):
        self.folder, self.settings, self.rank = Path(folder), settings, rank
        self.reused = 0  # reports that `complete` took from an earlier run
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = open(self.folder / f"rank{rank}.jsonl", "a", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
        self.reports = {}
        for file in self.folder.glob("rank*.jsonl"):
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
                with suppress(ValueError):  # a torn line holds no report, which is then written again
                    entry = json.loads(line)
                    key = entry.pop("key")
                    self.reports[key] = Report(**entry)

    def key(self, request: Request, arguments: dict) -> str:
        """A hash of the settings, the arguments of generation, and the request's text, images and seed."""
        images = [[image.mode, image.size, hashlib.sha256(image.tobytes()).hexdigest()] for image in request.inputs]
        texts = [request.question] + ([] if request.system is None else [request.system])
        return digest([self.settings, arguments, *texts, images, request.seed])

    def complete(self, requests: Iterable[Request], arguments: dict, write: Write) -> Iterator[tuple[int, Report]]:
        """Yield (index, report) of all requests as they are finished: those at hand, and those that `write` writes.

        `write` turns requests into their reports, in order; it takes a request only when it is its turn.
        """
        at_hand, asked = [], deque()

        def missing() -> Iterator[Request]:
            for index, request in enumerate(requests):
                key = self.key(request, arguments)
                if key in self.reports:
                    self.reused += 1
                    at_hand.append((index, self.reports[key]))
                else:
                    asked.append((index, key))
                    yield request

        for report in write(missing()):
            yield from at_hand
            at_hand.clear()
            index, key = asked.popleft()
            self.reports[key] = report
            print("\n" + json.dumps({"key": key} | asdict(report)), end="", file=self.file, flush=True)
            yield index, report
        yield from at_hand

    def describe(self, more: dict) -> None:
        """Write the settings, and more that is worth knowing, to settings.json; only process 0 does."""
        if self.rank == 0:
            write_json(self.folder / "settings.json", self.settings | more)
