"""What the page says, as HTML; edited sentences as the template of an infill, and what the infill changed."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from html import escape

from dllm.web.uploads import data_uri

CHOICES = ("lock", "blank", "strike out")  # of a sentence: it stays, the model writes it anew, it goes
BLANK = "____"


def say(text: str, kind: str = "status") -> str:
    """A line for the visitor; `alert` is what went wrong."""
    return f'<p class="say {kind}" role="{kind}">{escape(text)}</p>'


def link(text: str, name: str, kind: str, content: str) -> str:
    """A link that saves the content, which is in the page, as a file of that name."""
    return f'<p><a download="{name}" href="{data_uri(kind, content.encode())}">{text}</a></p>'


def split(text: str) -> list[str]:
    """The sentences and lines of a text without the space around them."""
    return [part.strip() for part in re.split(r"(?<=[.;!?])\s|\n", text) if part.strip()]


def template(edited: Iterable[tuple[str, str]]) -> str:
    """The template of sentences and what is chosen for each (CHOICES). Raises ValueError if it leaves no blank."""
    kept = [BLANK if choice == "blank" else text.strip() for text, choice in edited if choice != "strike out"]
    joined = re.sub(rf"{BLANK}( {BLANK})+", BLANK, " ".join(text for text in kept if text))
    if not re.search("_{2,}", joined):
        raise ValueError(f"there is nothing to fill: blank a sentence, or write {BLANK} into one")
    return joined


def changes_html(before: str, after: str) -> str:
    """The text after an infill, word by word: what it has more than before marked, what it lost struck out."""
    old, new = before.split(), after.split()
    if old == new:
        return "<p>Nothing: it wrote the same words.</p>"
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = (escape(" ".join(words)) for words in (old[a:b], new[c:d]))
        if kind == "equal":
            parts.append(come)
        else:
            parts += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{come}</ins>"] * bool(come)
    return f"<p>{' '.join(parts)}</p>"
