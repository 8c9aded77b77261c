"""The sentences of a report, and which of the things that they name are denied.

What a sentence is searched for is a table {kind: pattern}: GRAMMAR below, and the kinds that its user adds. The first
kind of the table that matches at a place wins. Patterns are for normalised text: lower case, no hyphens, words and
list marks apart from each other by one space.
"""

import itertools
import re
from collections.abc import Collection
from dataclasses import dataclass

_MARK = re.compile(r"[,&+/]|:(?=\s*\S)")
_VERBS = "seen|identified|present|visible|visualized|evident|appreciated|demonstrated|noted|apparent|found|detected"
_END = r"(?=[^\w,.;!?\n]*(?:[,.;!?\n]|$))"  # of a sentence, a line or an item in a list
_VALUE = rf"none(?: (?:{_VERBS}))?|(?<!and )(?<!or )no(?: evidence)?|nil|neg(?:ative)?|denied"
# What keeps a noun phrase from being a mere label in a list that a value denies ("Left effusion, edema: none").
_OF_ITS_OWN = re.compile(
    r"\b(?:is|are|has|have|remains?|persists?|yes|positive|unchanged|stable|left|right|bilateral|borderline|prominent"
    rf"|(?:enlarge|increase|widen)\w*|{_VERBS})\b"
)
_DENIAL_INSIDE = re.compile(r"\b(?:not|no longer)\b")

GRAMMAR = {
    # Looks like a denial and is none.
    "neutral": r"(?:cannot|can not|could not|not|hard to)(?: be)?(?: entirely| completely)? (?:excluded?|ruled? out)"
    r"|no(?: \w+)? (?:change|increase|decrease)|not(?: \w+)? changed",
    "denied_before": rf"(?:not|no longer)(?: \w+)? (?:{_VERBS})|absent|removed|resolved|cleared|excluded|ruled out"
    rf"|unlikely|(?:{_VALUE}){_END}",
    "denied_after": r"no longer|no|not|without|never|neither|nor|denies|negative for|free of|clear of"
    r"|(?:absence|resolution|removal|clearing) of|to (?:exclude|rule out)",
    "stop": r"but|however|although|though|except|yet|whereas|while|which|there (?:is|are|was|were)",
    "join": r"and|with|plus|as well as|[,&+]",
    "or": r"or|/",
    "value": ":",
    "opener": r"an?|the|new|tiny|trace|minimal|small|mild|subtle|moderate|large|marked|severe|extensive|massive",
}
# A colon ends a sentence, but for one between a label and its denial ("Pneumothorax: none.", "Pneumothorax: no
# pneumothorax."); after a mere denial its line ends it too.
_DENIAL = rf"[^\w,.;:!?\n]*(?i:{GRAMMAR['denied_before']})(?!\w)[^\w,.;:!?\n]*"
_REPEATED = (
    r"(?i:\b(?P<label>\w{4,}?)s? *:(?= *(?:no|without)(?: (?:evidence of|acute|definite|focal|pleural|visible))*"
    r" (?P=label)s?\b))"
)
_SENTENCE_END = re.compile(rf"{_REPEATED}|:{_DENIAL}\n|:(?!{_DENIAL}(?:[,.;!?\n]|$))|[;!?]|\.(?!\d)|(?<!\d)\.")


@dataclass
class Token:
    """A token of a sentence: its kind, its text, and for a mention whether the sentence denies it."""

    kind: str
    text: str
    denied: bool = False


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the mark that ends it; joined they are the text again."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if not match["label"]]
    pieces = [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def compile_kinds(kinds: dict[str, str]) -> re.Pattern:
    """One pattern for a table of kinds; what none of them matches is a token of the kind "word"."""
    table = kinds | {"word": r"\w+"}
    return re.compile("|".join(rf"(?P<{kind}>(?<!\w)(?:{pattern})(?!\w))" for kind, pattern in table.items()))


def read_sentence(sentence: str, kinds: re.Pattern, mentions: Collection[str]) -> list[Token]:
    """The tokens of a sentence; those of the kinds in `mentions` are denied or not.

    - A denial that looks ahead ("no", "without" ...) holds for every mention up to a "stop", or up to a new noun
      phrase: a "join" that is followed by an "opener" ("no effusion and a small nodule"). After a comma this is no new
      phrase when an "or" follows, which goes on with the list ("no effusion, large nodule, or edema").
    - A denial that looks back ("is not seen", "resolved", "none" at the end ...) holds for every mention since the last
      "stop", or looks ahead when there is none.
    - A value ("none" at the end, or any denial after a colon) holds only for its label: the mentions of its noun phrase
      and of the mere labels listed before it ("effusion, edema: none", but not "small effusion, edema: none").
    """
    plain = sentence.lower().replace("(-)", " none ").replace("-", " ")
    words = " ".join(_MARK.sub(r" \g<0> ", plain).split())
    tokens = [Token(match.lastgroup, match.group()) for match in kinds.finditer(words)]
    denying, previous, open_mentions = False, Token("stop", ""), []
    for index, token in enumerate(tokens):
        if token.kind == "stop" or (token.kind == "opener" and _ends_list(previous, tokens[index:])):
            denying = False
        if token.kind == "stop":
            open_mentions = []
        elif token.kind in ("denied_before", "denied_after"):
            value = previous.kind == "value" or (token.kind == "denied_before" and re.fullmatch(_VALUE, token.text))
            looks_back = token.kind == "denied_before" and open_mentions
            for mention in _labels(tokens[:index]) if value else open_mentions if looks_back else ():
                mention.denied = True
            denying = denying or not looks_back
            open_mentions = [] if looks_back else open_mentions
        elif token.kind in mentions:
            token.denied = denying or _DENIAL_INSIDE.search(token.text) is not None
            open_mentions.append(token)
        previous = token
    return tokens


def _labels(before: list[Token]) -> list[Token]:
    """The tokens that a value denies: the noun phrase before it, and the mere labels listed before that."""
    denied, phrase = [], []
    for token in [*before[::-1], Token("stop", "")]:
        if token.kind not in ("stop", "join", "neutral", "denied_before", "denied_after"):
            phrase.append(token)
            continue
        if denied and any(word.kind == "opener" or _OF_ITS_OWN.search(word.text) for word in phrase):
            break
        denied, phrase = denied + phrase, []
        if token.kind != "join":
            break
    return denied


def _ends_list(join: Token, rest: list[Token]) -> bool:
    """Whether the noun phrase that opens `rest` is no part of the list before the token in front of it."""
    clause = itertools.takewhile(lambda token: token.kind != "stop", rest)
    return join.kind == "join" and not (join.text == "," and any(token.kind == "or" for token in clause))
