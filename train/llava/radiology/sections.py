"""The sections of a free-text chest report: findings and impression, and the clinical context known before the reading.

Radiologists head their sections in many ways, or not at all. The rules:

1. A heading is a name of HEADINGS, or several of them joined ("FINDINGS/IMPRESSION"), with a colon. It stands at the
   start of a line, or inside one if it is in capitals ("Findings:" and "Impression:" also after a sentence). A name
   alone on its line needs no colon if it is in capitals or follows an empty line, nor do WET READ and ADDENDUM at the
   start of a line. Any other capitals are text.
2. Findings and impression reach to the next heading, as do the notes that belong to no section (wet read, notification,
   signature). The context is one paragraph: what follows it after an empty line is text without a heading.
3. A line of nothing but the names of views ("PA AND LATERAL CHEST:") heads findings where none are headed so. Inside
   findings or impression it is text; without a colon it is a title, and left out.
4. Text without a heading is the findings, if there is neither a heading of findings nor one of views.
5. A joined heading of findings and impression heads both; of findings and context ("TECHNIQUE AND FINDINGS"), the
   findings alone; of two kinds of context, the first.
6. What comes before the last banner FINAL REPORT is a preliminary reading: of it only the context counts, where the
   final report has none. A banner that continues a report on its next page is no such banner.
7. An addendum is left out: it corrects a report, and is none itself. One behind the reading reaches to the end.
8. At the start of a line, before a colon or alone, a heading may be misspelt: in each word of 7 letters or more, of
   4 or more where the heading has several, one letter may be missing, added, wrong or swapped with the next.
9. A context whose heading follows that of findings or impression, with no text and no empty line between, is no part of
   them. It ends where a sentence ends: with a line, or anywhere if it began on the line of their heading.
"""

import os
import re
from functools import cache

SECTIONS = ("findings", "impression", "indication", "history", "comparison", "technique")
READING, CONTEXT = SECTIONS[:2], SECTIONS[2:]
BOTH, VIEWS, UNHEADED, EXAM, NOTE, ADDENDUM = "both", "views", "unheaded", "exam", "note", "addendum"

_STUDY = r"(?:exam(?:ination)?|study|films?)"
_STUDIES = r"(?:exam(?:ination)?s?|stud(?:y|ies)|films?|radiographs?|images?)"
_FOR = rf"for (?:the |this )?(?:{_STUDY}|request|referral)"
HEADINGS = {
    "findings": r"(?:chest |radiographic |imaging )?(?:findings?|findins|finidngs|findnings)|observations?"
    r"|interpretation|(?:body of )?report",
    "impression": r"(?:final )?impressions?|imp|impress?on|impresion|impressoin|conclusions?|summary|opinion",
    "indication": rf"(?:clinical |exam |study )?indications?(?: {_FOR})?|reason(?: {_FOR})?|clinical question",
    "history": r"(?:clinical |patient |medical |relevant |brief )?history(?: of present illness)?|chief complaint"
    r"|clinical (?:information|data|details|background)|(?:underlying )?medical condition",
    "comparison": rf"comparisi?ons?(?: {_STUDIES})?|compared (?:to|with)|(?:prior|previous|reference) {_STUDIES}",
    "technique": r"techniques?|procedure|protocol|methods?|(?:number of )?views",
    EXAM: rf"(?:type of |date of )?{_STUDY}(?: type| date)?|date|accession(?: number)?",
    NOTE: r"wet read|preliminary (?:report|reading|read|interpretation)|provisional findings impression(?: \(pfi\))?"
    r"|(?:communication|notification)s?(?: of (?:critical )?(?:results|findings))?|critical (?:results?|findings?)"
    r"|recommendation(?:\(s\)|s)?|(?:(?:electronically )?signed|dictated|interpreted|approved) by|attending",
    ADDENDUM: r"(?:final )?addend(?:um|a)(?: report)?",
}
_VIEW_WORDS = (
    r"chest|thorax|cxr|pa|ap|lat|laterals?|frontal|portable|bedside|upright|erect|semi|semiupright|semierect|supine|sitting"
    r"|decubitus|left|right|single|one|two|three|views?|projections?|radiographs?|x|rays?|xrays?|films?|images?|study|exam"
    r"|an?|the|of|and|in|on|at|from|with|dated|performed|obtained|provided|submitted|was|were|is|are|am|pm|m|p|hours|hrs"
    r"|[\d_]+"
)
# The words of HEADINGS that are looked for when a heading is misspelt.
_WORDS = (
    "accession addendum approved attending background brief chest chief clinical communication comparison complaint"
    " conclusion condition critical data date details dictated electronically exam examination finding findings history"
    " illness images imaging impression impressions indication indications information interpretation interpreted"
    " medical methods notification number observation observations opinion patient preliminary present previous prior"
    " procedure protocol provisional radiographic radiographs read reading reason recommendation recommendations"
    " reference referral relevant report request signed studies study summary technique underlying views"
).split()

_SECTION_NAMES = {section: re.compile(names, re.IGNORECASE) for section, names in HEADINGS.items()}
_NAME = "(?:" + "|".join(HEADINGS.values()) + ")"
_JOINER = r" ?(?:[/&,]|\band\b) ?"
_NAMES = rf"{_NAME}(?:{_JOINER}{_NAME})*"
_VIEW_LINE = (
    r"(?=[^:\n]*\b(?:chest|thorax|cxr|views?|radiographs?|x-?rays?|films?)\b)"
    rf"[^\w:\n]*(?:\b(?:{_VIEW_WORDS})\b(?:[^\w:\n]|(?<=\d):(?=\d))*)+"
)
_HEADING = re.compile(
    rf"^(?P<views>{_VIEW_LINE}):(?!\d)|(?<!\w)(?P<name>{_NAMES})(?!\w) ?(?P<colon>:?)", re.IGNORECASE | re.MULTILINE
)
_NEARLY = re.compile(rf"^[a-z]+(?:(?: |{_JOINER})[a-z]+){{0,5}}(?= ?:| ?$)", re.IGNORECASE | re.MULTILINE)
_IS_HEADING = re.compile(_NAMES, re.IGNORECASE)
_TITLE = re.compile(_VIEW_LINE, re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[.?!](?!\S)|(?=\n\n)|\Z")
_LINE_ENDS = re.compile(r"(?:[.?!_]|\b[Nn]one|\bNONE)(?=\n(?![a-z])|\Z)|(?=\n\n)|\Z")
_BANNER = re.compile(r"^[^\w\n]*FINAL REPORT[^\w\n]*$", re.MULTILINE)
_RULER = re.compile(r"^[_=*-]{8,}$", re.MULTILINE)
_CONTINUED = r"\(cont[\w']*\.?\)"  # at the head of a page; "(Over)" is at the foot of the one before
_PAGE_BREAK = re.compile(rf"\(over\).*?{_CONTINUED}|FINAL REPORT\s*{_CONTINUED}|\(over\)", re.IGNORECASE | re.DOTALL)


def parse_sections(report: str) -> dict[str, str]:
    """The text of each of SECTIONS on one line, runs of spaces made one, "" where the report has none."""
    lines = "\n".join(" ".join(line.split()) for line in report.splitlines())
    lines = _NEARLY.sub(_respelt, _RULER.sub("", _PAGE_BREAK.sub("\n", lines)))
    *before, final = _BANNER.split(lines)
    parts, earlier = _cut(final), _cut("\n\n".join(before))

    texts = {section: _joined(parts, section) or _joined(earlier, section) for section in CONTEXT}
    without_heading = _joined(parts, VIEWS) or _joined(parts, UNHEADED)
    texts["findings"] = _joined(parts, "findings") or _joined(parts, BOTH) or without_heading
    texts["impression"] = _joined(parts, "impression") or _joined(parts, BOTH)
    return {section: texts[section] for section in SECTIONS}


def _respelt(match: re.Match) -> str:
    """What may be a heading as HEADINGS spells it, or as it is where that makes it none."""
    line, shortest = match[0], 4 if " " in match[0] else 7
    if _IS_HEADING.fullmatch(line) or not (line[0].isupper() or _sentence_starts(match.string[: match.start()])):
        return line
    corrected = re.sub(r"[A-Za-z]+", lambda word: _nearest(word[0], shortest), line)
    return corrected if _IS_HEADING.fullmatch(corrected) else line


@cache
def _nearest(word: str, shortest: int) -> str:
    """The first of _WORDS with that many letters that is one slip away, in the word's case; if none is, the word."""
    near = next((known for known in _WORDS if len(known) >= shortest and _is_slip(word.lower(), known)), None)
    if near is None or word.lower() in _WORDS:
        return word
    return near.upper() if word.isupper() else near.capitalize() if word[0].isupper() else near


def _is_slip(word: str, known: str) -> bool:
    """Whether one letter of the word is missing, added, wrong or swapped with the next."""
    start = len(os.path.commonprefix((word, known)))
    ours, theirs = word[start:], known[start:]
    swapped = ours[1::-1] == theirs[:2] and ours[2:] == theirs[2:]
    return swapped or ours == theirs[1:] or ours[1:] in (theirs, theirs[1:])


def _cut(text: str) -> list[tuple[str, str]]:
    """The text cut at its headings: (section, paragraph or passage), in their order."""
    parts, section, start = [], UNHEADED, 0
    for match in _HEADING.finditer(text):
        following = _heading_of(match, section) if match.start() >= start else None
        if following is None:
            continue
        parts += _split(section, text[start : match.start()])
        section, start = following, match.end()
        while section in (*READING, BOTH) and (context := _context_at(text, start)):
            parts.append(context[:2])
            start = context[2]
        if section == ADDENDUM and any(part[0] in (*READING, BOTH, VIEWS) for part in parts):
            return parts
    return parts + _split(section, text[start:])


def _context_at(text: str, start: int) -> tuple[str, str, int] | None:
    """The context whose heading stands at `start`, behind one of findings or impression: section, text, its end."""
    gap = re.compile(r" ?\n?").match(text, start)
    heading = _HEADING.match(text, gap.end())
    if heading is None or not heading["colon"] or _section_of(heading["name"]) not in CONTEXT:
        return None
    found = (_LINE_ENDS if "\n" in gap[0] else _SENTENCE_ENDS).search(text, heading.end())
    following = (other.start() for other in _HEADING.finditer(text, heading.end()) if _heading_of(other, UNHEADED))
    end = min(found.end(), next(following, len(text)))
    return _section_of(heading["name"]), text[heading.end() : end], end


def _heading_of(match: re.Match, current: str) -> str | None:
    """The section that a match of _HEADING inside the section `current` begins, or None where it is no heading."""
    if match["views"]:
        return VIEWS if current not in (*READING, BOTH) else None
    text, name = match.string, match["name"]
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]  # what stands before the name
    before = text[: match.start()]
    paragraph_starts = _paragraph_starts(before)
    sentence_starts = _sentence_starts(before)
    section = _section_of(name)
    if line:  # in capitals, but not the end of a longer name in capitals; "Findings:" after a sentence
        longer = re.fullmatch(r"[A-Z][A-Z0-9 /&',()#-]*", line)
        capitals = name.isupper() and not longer
        is_heading = match["colon"] and (capitals or (name in ("Findings", "Impression") and sentence_starts))
    elif match["colon"]:
        is_heading = name[0].isupper() or sentence_starts
    elif text[match.end() : match.end() + 1] in ("", "\n"):
        is_heading = name.isupper() or paragraph_starts
    else:
        is_heading = name.isupper() and (section == ADDENDUM or name == "WET READ")
    return section if is_heading else None


def _paragraph_starts(before: str) -> bool:
    return not before.strip() or before.endswith("\n\n")


def _sentence_starts(before: str) -> bool:
    return _paragraph_starts(before) or before.rstrip().endswith((".", "?", "!", ":"))


def _section_of(name: str) -> str:
    """The section that a heading names: with several names, of findings and impression if they are among them."""
    pieces = re.split(_JOINER, name, flags=re.IGNORECASE)
    named = [s for piece in pieces for s, names in _SECTION_NAMES.items() if names.fullmatch(piece)]
    reading = [section for section in named if section in READING]
    return BOTH if set(reading) == set(READING) else (reading or named)[0]


def _split(section: str, text: str) -> list[tuple[str, str]]:
    """A passage under a heading as paragraphs. Only the first one of a context is context; titles are left out."""
    paragraphs = [paragraph for paragraph in re.split(r"\n{2,}", text.strip("\n")) if paragraph]
    if section in (*CONTEXT, EXAM):
        return [(section, paragraph) for paragraph in paragraphs[:1]] + _split(UNHEADED, "\n\n".join(paragraphs[1:]))
    if section in (UNHEADED, VIEWS):
        paragraphs = [paragraph for paragraph in paragraphs if not _is_title(" ".join(paragraph.split()))]
    return [(section, paragraph) for paragraph in paragraphs]


def _is_title(paragraph: str) -> bool:
    return _TITLE.fullmatch(paragraph) is not None or not any(character.isalpha() for character in paragraph)


def _joined(parts: list[tuple[str, str]], section: str) -> str:
    return " ".join(" ".join(text for named, text in parts if named == section).split())
