"""Whether a prompt gives its answer away: a long run of the report's words inside the clinical context."""

import re
from collections.abc import Iterable

# Honest context and report share short runs ("chest pain"): in 2,351 studies of IU X-Ray the longest has 5 words, in
# one of them, and 4 words in 3 others. Eight in a row are a copy.
QUOTE_WORDS = 8

_WORD = re.compile(r"[a-z0-9]+")


def leaks_report(report: str, context: Iterable[str]) -> bool:
    """Whether any text of `context` holds QUOTE_WORDS words of `report` in a row, whatever their case and marks."""
    runs = set(_runs(report))
    return any(run in runs for text in context for run in _runs(text))


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return zip(*(words[start:] for start in range(QUOTE_WORDS)), strict=False)
