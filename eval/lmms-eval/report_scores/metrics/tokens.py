"""The stated normalisation of the n-gram scores: lower case, split into words and single punctuation marks."""

import re
from collections import Counter

TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Split a text into its normalised tokens."""
    return TOKEN.findall(text.lower())


def ngrams(words: list[str], order: int) -> Counter:
    """Count the runs of `order` words."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))
