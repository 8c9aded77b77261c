"""Findings of a chest film: what they are, how a report is read back into them, and the score on them.

A finding is scored as the pair (name, side). The side is the patient's. A finding that has no side carries "".
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SIDES = ("left", "right")

SEVERITIES = {
    "effusion": ("small", "moderate", "large"),
    "pneumothorax": ("small", "moderate", "large"),
    "consolidation": ("small", "moderate", "large"),
    "atelectasis": ("mild", "moderate", "severe"),
    "nodule": ("small", "moderate", "large"),
    "cardiomegaly": ("mild", "moderate", "severe"),
    "edema": ("mild", "moderate", "severe"),
    "pacemaker": ("",),
    "line": ("",),
    "tube": ("",),
}
UNSIDED = ("cardiomegaly", "edema", "tube")


@dataclass(frozen=True, order=True)
class Finding:
    """One finding: `name` is a key of SEVERITIES, `side` one of SIDES or "", `severity` one of SEVERITIES[name].

    Raises:
        ValueError: the name is unknown, or the side or severity is not one that the name has.
    """

    name: str
    side: str
    severity: str

    def __post_init__(self):
        if self.name not in SEVERITIES:
            raise ValueError(f"unknown finding {self.name!r}: use one of {', '.join(SEVERITIES)}")
        if self.side not in sides_of(self.name):
            raise ValueError(f"{self.name} has no side {self.side!r}: use one of {sides_of(self.name)}")
        if self.severity not in SEVERITIES[self.name]:
            raise ValueError(f"{self.name} has no severity {self.severity!r}: use one of {SEVERITIES[self.name]}")


def sides_of(name: str) -> tuple[str, ...]:
    """The sides that the finding called `name` can have: both, or only "" where it has none."""
    return ("",) if name in UNSIDED else SIDES


_SENTENCE_END = re.compile(r"[;:!?]|\.(?!\d)|(?<!\d)\.")
_LIST_MARK = re.compile(r"[,&+/]")
_SIDE_WORDS = {
    "left": {"left"},
    "lt": {"left"},
    "right": {"right"},
    "rt": {"right"},
} | dict.fromkeys(("bilateral", "bilaterally", "both", "bibasilar", "bibasal", "biapical"), set(SIDES))
_VERBS = "seen|identified|present|visible|visualized|evident|appreciated|demonstrated|noted|apparent|found|detected"
_HEART = "heart|cardiac|cardiomediastinal"
_HEART_LINK = (
    "size|silhouette|contours?|shadow|is|are|was|remains?|appears?|not|no longer|now|again"
    "|borderline|slightly|minimally|mildly|moderately|markedly|severely|massively"
)

# What a token of a sentence can be. The first kind that matches at a place wins; a kind in SEVERITIES is a mention.
_KINDS = {
    # Looks like a negation or a side and is neither.
    "neutral": r"(?:cannot|can not|could not|not|hard to)(?: be)?(?: entirely| completely)? (?:excluded?|ruled? out)"
    r"|no(?: \w+)? (?:change|increase|decrease)|not(?: \w+)? changed"
    r"|(?:left|right) (?:atri\w+|ventric\w+|heart|main ?stem)|pericardial effusions?|(?:subcutaneous|tissue) o?edema",
    "denied_before": rf"(?:not|no longer)(?: \w+)? (?:{_VERBS})|absent|removed|resolved|cleared|excluded|ruled out"
    r"|unlikely",
    "denied_after": r"no longer|no|not|without|never|neither|nor|denies|negative for|free of|clear of"
    r"|(?:absence|resolution|removal|clearing) of",
    "stop": r"but|however|although|though|except|yet|whereas|while|which|there (?:is|are|was|were)",
    "join": r"and|with|plus|as well as|[,&+]",
    "or": r"or|/",
    "side": "|".join(_SIDE_WORDS),
    "place": r"lungs?|lobes?|bases?|basilar|basal|apex|apices|apical|hemithorax|zones?|fields?|chest|wall|sided?|sides"
    r"|upper|lower|middle|mid",
    "opener": r"an?|the|new|tiny|trace|minimal|small|mild|subtle|moderate|large|marked|severe|extensive|massive",
    "filler": r"in|at|on|of|over|within",
    "effusion": r"effusions?|pleural fluid",
    "pneumothorax": r"pneumothora(?:x|xes|ces)",
    "nodule": r"nodules?|nodular opacit(?:y|ies)",
    "consolidation": r"consolidations?|air ?space (?:opacit(?:y|ies)|disease)|pneumonia|infiltrates?",
    "atelectasis": r"atelecta(?:sis|ses|tic)",
    "cardiomegaly": rf"cardiomegaly|(?:{_HEART})(?: (?:{_HEART_LINK})){{0,6}} enlarged"
    rf"|enlarge(?:d|ment)(?: of)?(?: the)? (?:{_HEART})",
    "edema": r"o?edema",
    "pacemaker": r"pacemakers?|pacers?|icd|defibrillators?",
    "line": r"(?:central(?: venous)?|jugular|subclavian|venous|picc) (?:lines?|catheters?)|picc|piccs",
    "tube": r"endotracheal tubes?|et tubes?|ett",
    "word": r"\w+",
}
_TOKEN = re.compile("|".join(rf"(?P<{kind}>(?<!\w)(?:{pattern})(?!\w))" for kind, pattern in _KINDS.items()))
_DENIAL_INSIDE = re.compile(r"\b(?:not|no longer)\b")


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
      followed by an article or a size ("no effusion and a small left nodule").
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
    words = _LIST_MARK.sub(r" \g<0> ", text.lower().replace("-", " ")).split()
    for sentence in _SENTENCE_END.split(" ".join(words)):
        mentions = _read_sentence(sentence)
        _share_sides(mentions)
        for mention in mentions:
            sides = ("",) if mention.name in UNSIDED else mention.sides or ("",)
            found |= {(mention.name, side) for side in sides}
    sided = {name for name, side in found if side}
    return {(name, side) for name, side in found if side or name not in sided}


def _read_sentence(sentence: str) -> list[_Mention]:
    """The positive mentions of a sentence, each with the side words of its own noun phrase."""
    mentions, phrase, phrases = [], [], []
    denying, since_stop, previous = False, 0, ""
    for match in _TOKEN.finditer(sentence):
        kind, text = match.lastgroup, match.group()
        if kind == "stop" or (kind == "opener" and previous == "join"):
            denying = False
        if kind == "stop":
            since_stop = len(mentions)
        elif kind == "denied_before" and since_stop < len(mentions):
            for mention in mentions[since_stop:]:
                mention.denied = True
            since_stop = len(mentions)
        elif kind in ("denied_before", "denied_after"):
            denying = True
        if kind in SEVERITIES:
            mentions.append(_Mention(kind, denying or _DENIAL_INSIDE.search(text) is not None))
            phrase.append((kind, mentions[-1]))
        elif kind in ("stop", "join", "or"):
            phrases.append(phrase)
            phrase = []
        else:
            phrase.append((kind, text))
        previous = kind
    _give_sides([*phrases, phrase])
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


def finding_f1(predicted: Sequence[Iterable], truth: Sequence[Iterable]) -> float:
    """Micro-F1 over the pairs (name, side) of parallel sequences of sets, in [0, 1].

    Where no study has a finding and none is predicted, the two agree, and the score is 1.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} studies: give one set for each study")
    pairs = [(set(guess), set(true)) for guess, true in zip(predicted, truth, strict=True)]
    hits = sum(len(guess & true) for guess, true in pairs)
    total = sum(len(guess) + len(true) for guess, true in pairs)
    return 2 * hits / total if total else 1.0
