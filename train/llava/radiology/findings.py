"""Findings of a chest radiograph: what they are, how a report is read back into them, and the score on them.

A finding is scored as the pair (name, side). The side is the patient's. A finding that has no side carries "".
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from llava.radiology.labels import LINE, PACEMAKER, TERMS, TUBE
from llava.radiology.negation import GRAMMAR, Token, compile_kinds, read_sentence, sentences

SIDES = ("left", "right")

SEVERITIES = {
    **dict.fromkeys(("effusion", "pneumothorax", "consolidation", "nodule"), ("small", "moderate", "large")),
    **dict.fromkeys(("atelectasis", "cardiomegaly", "edema"), ("mild", "moderate", "severe")),
    **dict.fromkeys(("pacemaker", "line", "tube"), ("",)),
}
UNSIDED = ("cardiomegaly", "edema", "tube")


class Finding(NamedTuple):
    """One finding: `name` is a key of SEVERITIES, `side` and `severity` are among those that it can have."""

    name: str
    side: str
    severity: str


def sides_of(name: str) -> tuple[str, ...]:
    """The sides that the finding called `name` can have: both, or only "" where it has none."""
    return ("",) if name in UNSIDED else SIDES


_SIDE_WORDS = {"left": {"left"}, "lt": {"left"}, "right": {"right"}, "rt": {"right"}}
_SIDE_WORDS |= dict.fromkeys(("bilateral", "bilaterally", "both", "bibasilar", "bibasal", "biapical"), set(SIDES))
# What a token of a sentence can be, besides a word of the grammar of denials; a kind in SEVERITIES is a mention.
_KINDS = {
    "neutral": rf"{GRAMMAR['neutral']}|(?:left|right) (?:atri\w+|ventric\w+|heart|main ?stem)|pericardial effusions?"
    r"|(?:subcutaneous|tissue) o?edema",
    "side": "|".join(_SIDE_WORDS),
    "place": r"lungs?|lobes?|bases?|basilar|basal|apex|apices|apical|hemithorax|zones?|fields?|chest|wall|sided?|sides"
    r"|upper|lower|middle|mid",
    "filler": r"in|at|on|of|over|within",
    "effusion": TERMS["Pleural Effusion"],
    "pneumothorax": TERMS["Pneumothorax"],
    "nodule": TERMS["Nodule"],
    "consolidation": "|".join(TERMS[name] for name in ("Consolidation", "Pneumonia", "Infiltration", "Lung Opacity")),
    "atelectasis": TERMS["Atelectasis"],
    "cardiomegaly": TERMS["Cardiomegaly"],
    "edema": TERMS["Edema"],
    "pacemaker": PACEMAKER,
    "line": LINE,
    "tube": TUBE,
}
_TOKEN = compile_kinds(GRAMMAR | _KINDS)


@dataclass
class _Mention:
    name: str
    denied: bool
    sides: set[str] = field(default_factory=set)


def parse_report(text: str) -> set[tuple[str, str]]:
    """Reads the positive findings out of a report, as pairs (name, side). Never raises, whatever the text.

    How sentences are read:
    - A finding that is named is positive unless it is denied. A hedge ("possible", "may", "cannot be excluded") leaves
      it positive; "unlikely" denies it. "No change in" and "not significantly changed" deny nothing.
    - "No", "not", "without", "free of", "resolution of" ... deny every finding that follows in the sentence, lists
      included, up to "but", "however", "there is" ..., or up to a new noun phrase: a comma, "and" or "with" that is
      followed by an article or a size ("no effusion and a small left nodule"); after a comma only if no "or" follows.
    - "Is not seen", "absent", "has resolved", "removed", "ruled out" ... deny every finding before them in the
      sentence, back to "but", "however" ...; those that follow, when there is none before.
    - Contradiction: a positive mention wins over any denial of the same finding, in whatever order they come.
    - "Bilateral", "both", "bibasilar" ... mean left and right, as two pairs.
    - A finding takes the side words of its own noun phrase, before it rather than after it. Without any it takes those
      of the nearest positive finding of the sentence, first the one before, then the one after.
    - A finding that should have a side and gets none is read as (name, ""), a pair that is never true, so it counts
      against the report; it is dropped when the report gives the finding a side elsewhere.
    - A side given to a finding that has none is ignored. An unknown word is ignored.
    """
    found = set()
    for sentence in sentences(text):
        mentions = _positive_mentions(read_sentence(sentence, _TOKEN, SEVERITIES))
        _share_sides(mentions)
        for mention in mentions:
            sides = ("",) if mention.name in UNSIDED else mention.sides or ("",)
            found |= {(mention.name, side) for side in sides}
    sided = {name for name, side in found if side}
    return {(name, side) for name, side in found if side or name not in sided}


def findings_of(report: str) -> frozenset[str]:
    """The findings of `parse_report` in words: "effusion left"."""
    return frozenset(f"{name} {side}".strip() for name, side in parse_report(report))


def _positive_mentions(tokens: list[Token]) -> list[_Mention]:
    """The positive mentions of a sentence, each with the side words of its own noun phrase."""
    mentions, phrases = [], [[]]
    for token in tokens:
        if token.kind in SEVERITIES:
            mentions.append(_Mention(token.kind, token.denied))
            phrases[-1].append((token.kind, mentions[-1]))
        elif token.kind in ("stop", "join", "or"):
            phrases.append([])
        else:
            phrases[-1].append((token.kind, token.text))
    _give_sides(phrases)
    return [mention for mention in mentions if not mention.denied]


def _give_sides(phrases: list[list[tuple]]) -> None:
    """Gives each mention the side words of its phrase.

    A phrase of nothing but a side belongs to a neighbour: "the left lung" to the mention before it, "small left" (no
    place named) to the one after it.
    """
    last, waiting = None, set()
    for phrase in phrases:
        kinds = {kind for kind, _ in phrase}
        if kinds & SEVERITIES.keys():
            loose, last = waiting, None
            for kind, value in phrase:
                if kind in SEVERITIES:
                    last = value
                    last.sides |= loose
                    loose = set()
                elif kind == "side" and last is not None and not last.sides:
                    last.sides |= _SIDE_WORDS[value]
                elif kind == "side":
                    loose = loose | _SIDE_WORDS[value]
            waiting = set()
        elif "side" in kinds and kinds <= {"side", "place", "opener", "filler"}:
            sides = set().union(*(_SIDE_WORDS[value] for kind, value in phrase if kind == "side"))
            if "place" in kinds and last is not None:
                last.sides |= sides
            else:
                waiting = waiting | sides
    if last is not None:
        last.sides |= waiting


def _share_sides(mentions: list[_Mention]) -> None:
    """Gives a mention without a side the sides of its nearest neighbour in the sentence: first before, then after."""
    for ordered in (mentions, mentions[::-1]):
        sides = set()
        for mention in ordered:
            if not mention.sides:
                mention.sides = sides
            elif mention.name not in UNSIDED:
                sides = mention.sides
