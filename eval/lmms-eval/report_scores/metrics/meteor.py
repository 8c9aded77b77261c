"""METEOR 1.5 (Denkowski and Lavie 2014) by the jar inside pycocoevalcap, from counts that add up over documents.

The jar aligns the texts of a document and says how many words match; the score follows from the sums of these counts
by the formula of the paper with the jar's parameters for English.
"""

import importlib.resources
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np

from report_scores.metrics.tokens import tokens

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of matches by word, stem, synonym and paraphrase
PLAIN = re.compile(r"[\w./-]+", re.ASCII)
COLUMNS, CHUNKS, MATCHED = 23, 20, slice(21, 23)


def meteor_statistics(hypotheses: list[str], references: list[str]) -> np.ndarray:
    """The jar's sufficient statistics of each document, [documents, 23]. Any thread may call it.

    Columns: words of the hypothesis and of the reference; function words of both; for each kind of match the matched
    content words of both and function words of both; chunks; matched words of both. Raises ValueError without Java or
    the jar, or when the jar fails.
    """
    rows = [_JAR.statistics(*pair) for pair in zip(hypotheses, references, strict=True)]
    return np.array(rows, dtype=float).reshape(-1, COLUMNS)


def meteor(sums: np.ndarray) -> np.ndarray:
    """METEOR of the corpus, 0-1, from summed statistics [..., 23]."""
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]  # [..., 2]: hypothesis, reference
    by_kind = sums[..., 4:20].reshape(*sums.shape[:-1], len(WEIGHTS), 2, 2)  # [..., kind, content or function, text]
    matches = np.einsum("...ket,k,e->...t", by_kind, WEIGHTS, [DELTA, 1 - DELTA])
    weighted_lengths = DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matches / weighted_lengths, -1, 0)
        f_mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        fragmentation = sums[..., CHUNKS] / sums[..., MATCHED].mean(axis=-1)
    return np.where(matches.min(axis=-1) > 0, f_mean * (1 - GAMMA * fragmentation**BETA), 0.0)


def require_java() -> str:
    """Return the path of the `java` program; ValueError naming the package to install when there is none."""
    java = shutil.which("java")
    if java is None:
        raise ValueError("METEOR needs Java, but there is no `java` on PATH: install it (apt: openjdk-17-jre-headless)")
    return java


def require_meteor() -> Path:
    """Return the path of the METEOR 1.5 jar; ValueError naming the package to install when there is none."""
    try:
        return Path(str(importlib.resources.files("pycocoevalcap.meteor") / "meteor-1.5.jar"))
    except ModuleNotFoundError:
        raise ValueError("METEOR needs the jar of pycocoevalcap: pip install pycocoevalcap==1.2") from None


class Jar:
    """The jar as a process that answers each line with a line; it takes seconds to start and ends with this process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None  # started when it is first needed

    def statistics(self, hypothesis: str, reference: str) -> list[float]:
        """The statistics of one document. Tokens are joined by single spaces: no newline of a report ends the line."""
        line = " ||| ".join(["SCORE", " ".join(tokens(reference)), " ".join(tokens(hypothesis))])
        with self.lock:
            self.process = self.process or self._start()
            try:
                self.process.stdin.write(f"{line}\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = ""
        try:
            values = [float(value) for value in answer.split()]
        except ValueError:
            values = []
        if len(values) != COLUMNS:
            raise ValueError(f"METEOR failed{self._reason(answer)}")
        if values[CHUNKS] == 1 and values[:2] == values[MATCHED]:
            values[CHUNKS] = 0  # the jar does not count the chunk of a document whose words all match in one
        return values

    def _start(self) -> subprocess.Popen:
        jar = require_meteor()
        options = ["-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm"]
        options += ["-a", self._paraphrases(jar)]
        self.errors = tempfile.TemporaryFile()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        env = os.environ | {"LC_ALL": "C.UTF-8"}  # or it could not open a path of other letters
        return subprocess.Popen([require_java(), *options], **pipes, encoding="utf-8", env=env)

    def _paraphrases(self, jar: Path) -> Path:
        """The jar's table of paraphrases, by a link if its path has more than plain letters: the jar would look for it
        at its own URL, escaped twice ("a b" becomes "a%2520b"), and escapes once what it is told.
        """
        table = jar.parent.absolute() / "data" / "paraphrase-en.gz"
        if PLAIN.fullmatch(str(table)):
            return table
        roots = [root for root in (tempfile.gettempdir(), "/tmp", "/var/tmp") if PLAIN.fullmatch(root)]
        self.folder = tempfile.TemporaryDirectory(dir=roots[0] if roots else None)  # until this process ends
        link = Path(self.folder.name, table.name)
        link.symlink_to(table)
        return link

    def _reason(self, answer: str) -> str:
        if answer:
            return f": {answer.strip()}"
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        return f" (java exit status {status}): {lines[0] or 'no output'}"


_JAR = Jar()
