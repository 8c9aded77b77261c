"""BLEU_1, BLEU_4, METEOR and ROUGE_L of reports, on one stated normalisation and on the scale 0-1.

Text is lower-cased and split by `TOKEN` into words and single punctuation marks. BLEU and METEOR are corpus scores,
ROUGE_L is the mean over documents; no score depends on the order of the documents. One reference per document.
On the same tokens the scores equal those of pycocoevalcap, which the literature on report generation uses.
"""

import importlib.resources
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

METRICS = ("BLEU_1", "BLEU_4", "METEOR", "ROUGE_L")
TOKEN = re.compile(r"\w+|[^\w\s]")
MAX_ORDER = 4
ROUGE_BETA = 1.2  # weighs recall over precision, the value of pycocoevalcap


def tokens(text: str) -> list[str]:
    """Split a text into its normalised tokens."""
    return TOKEN.findall(text.lower())


def bleu_statistics(hypothesis: str, reference: str) -> list[int]:
    """Count what BLEU needs of one document: hypothesis and reference length, matches and n-grams of order 1 to 4.

    Returns [hypothesis tokens, reference tokens, matches 1-4, hypothesis n-grams 1-4]. Sums of these over any sharding
    of the documents give the same corpus score.
    """
    hypothesis_tokens, reference_tokens = tokens(hypothesis), tokens(reference)
    matches, totals = [], []
    for order in range(1, MAX_ORDER + 1):
        candidates = _ngrams(hypothesis_tokens, order)
        matches.append((candidates & _ngrams(reference_tokens, order)).total())
        totals.append(candidates.total())
    return [len(hypothesis_tokens), len(reference_tokens), *matches, *totals]


def corpus_bleu_1(statistics: Iterable[list[int]]) -> float:
    """Corpus BLEU-1 from the `bleu_statistics` of the documents."""
    return _corpus_bleu(statistics, 1)


def corpus_bleu_4(statistics: Iterable[list[int]]) -> float:
    """Corpus BLEU-4 from the `bleu_statistics` of the documents."""
    return _corpus_bleu(statistics, 4)


def rouge_l(hypothesis: str, reference: str) -> float:
    """ROUGE-L of one document: the F score of the longest common subsequence, with recall weighed by ROUGE_BETA."""
    return rouge_l_of_tokens(tokens(hypothesis), tokens(reference))


def rouge_l_of_tokens(hypothesis: list[str], reference: list[str]) -> float:
    """`rouge_l` on token lists; 0 when either is empty."""
    common = _longest_common_subsequence(hypothesis, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def corpus_meteor(pairs: Iterable[tuple[str, str]]) -> float:
    """METEOR 1.5 of the whole corpus, from (hypothesis, reference) pairs, by the jar inside pycocoevalcap.

    The jar reads one text a line from two files, so tokens are joined by single spaces: a newline inside a report
    cannot shift the lines. Raises ValueError without Java or the jar, or when the jar fails.
    """
    java, jar = require_java(), require_meteor()
    hypotheses, references = zip(*pairs, strict=True)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "hypotheses.txt", Path(folder) / "references.txt"]
        for file, texts in zip(files, (hypotheses, references), strict=True):
            file.write_text("".join(f"{' '.join(tokens(text))}\n" for text in texts), encoding="utf-8")
        options = ["-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar, *files, "-l", "en", "-norm", "-q"]
        run = subprocess.run([java, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        return float(run.stdout.split()[-1])
    except (IndexError, ValueError):
        reason = (run.stderr.strip() or "no output").splitlines()[0]
        raise ValueError(f"METEOR failed (java exit status {run.returncode}): {reason}") from None


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


def scores(hypotheses: list[str], references: list[str]) -> dict[str, float]:
    """Score one hypothesis a document against its reference; keys METRICS, each 0-1.

    Raises ValueError when the lists differ in length or are empty, or without Java.
    """
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references: give as many, at least 1")
    pairs = list(zip(hypotheses, references, strict=True))
    statistics = [bleu_statistics(*pair) for pair in pairs]
    return {
        "BLEU_1": corpus_bleu_1(statistics),
        "BLEU_4": corpus_bleu_4(statistics),
        "METEOR": corpus_meteor(pairs),
        "ROUGE_L": fmean(rouge_l(*pair) for pair in pairs),
    }


def _ngrams(words: list[str], order: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _corpus_bleu(statistics: Iterable[list[int]], max_order: int) -> float:
    """Papineni et al. 2002: geometric mean of the precisions of order 1..max_order times the brevity penalty.

    No smoothing: without a match of some order the score is 0.
    """
    hypothesis_length, reference_length, *counts = (sum(column) for column in zip(*statistics, strict=True))
    matches, totals = counts[:max_order], counts[MAX_ORDER : MAX_ORDER + max_order]
    if min(matches) == 0:
        return 0.0
    log_precision = fmean(math.log(match / total) for match, total in zip(matches, totals, strict=True))
    return math.exp(log_precision + min(0.0, 1 - reference_length / hypothesis_length))


def _longest_common_subsequence(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence, a whole row of the dynamic programme at a time (Hyyrö 2004).

    A zero bit i of `row` says that the length grows at left[i]; the row is one Python integer.
    """
    where = {}
    for bit, word in enumerate(left):
        where[word] = where.get(word, 0) | 1 << bit
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        hits = row & where.get(word, 0)
        row = ((row + hits) | (row - hits)) & full
    return len(left) - row.bit_count()
