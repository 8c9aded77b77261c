"""What is written about a phantom study: the report of its findings and a clinical context that tells nothing of them.

The report has a fixed order, as structured reports do: devices, heart, lungs, pleura, what is absent, bones. Each part
is at most one sentence, so a report has two to six. `findings.parse_report` is its inverse.
"""

from collections.abc import Collection, Sequence

import numpy as np

from llava.radiology.findings import SIDES, Finding

DEVICES = ("pacemaker", "line", "tube")
LUNGS = ("consolidation", "nodule", "atelectasis", "edema")
PLEURA = ("effusion", "pneumothorax")

PHRASES = {
    "effusion": ("a {severity} {side} pleural effusion", "a {severity} pleural effusion on the {side}"),
    "pneumothorax": ("a {severity} {side} pneumothorax", "a {severity} pneumothorax on the {side}"),
    "consolidation": ("a {severity} {side} lung consolidation", "a {severity} consolidation in the {side} lung"),
    "atelectasis": ("{severity} {side} basilar atelectasis", "{severity} atelectasis at the {side} base"),
    "nodule": ("a {severity} {side} lung nodule", "a {severity} nodule in the {side} lung"),
    "edema": ("{severity} pulmonary edema", "{severity} interstitial edema"),
    "pacemaker": ("a {side} chest wall pacemaker", "a {side} sided pacemaker"),
    "line": ("a {side} PICC line", "a {side} central venous line"),
    "tube": ("an endotracheal tube",),
}
BILATERAL_PHRASES = {
    "effusion": ("a {severity} bilateral pleural effusion", "a {severity} pleural effusion on both sides"),
    "pneumothorax": ("a {severity} bilateral pneumothorax", "a {severity} pneumothorax on both sides"),
    "consolidation": ("a {severity} bilateral lung consolidation", "a {severity} consolidation in both lungs"),
    "atelectasis": ("{severity} bilateral basilar atelectasis", "{severity} atelectasis at both bases"),
    "nodule": ("a {severity} bilateral lung nodule", "a {severity} nodule in both lungs"),
    "pacemaker": ("a bilateral chest wall pacemaker", "a pacemaker on both sides"),
    "line": ("a bilateral PICC line", "a central venous line on both sides"),
}

DEVICE_FRAMES = ("There is {}.", "{} in place.", "{} noted.")
LESION_FRAMES = ("There is {}.", "{}.", "{} noted.")
LARGE_HEART = (
    "There is {severity} cardiomegaly.",
    "The heart is {severity}ly enlarged.",
    "{severity} enlargement of the cardiac silhouette.",
)
NORMAL_HEART = (
    "The heart size is normal.",
    "The cardiac silhouette is normal in size.",
    "The heart and mediastinum are within normal limits.",
)
CLEAR_LUNGS = (
    "The lungs are clear.",
    "The lungs are well expanded and clear.",
    "The lungs are clear without focal consolidation or edema.",
)
DENIED = {
    "consolidation": "focal consolidation",
    "edema": "pulmonary edema",
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
}
DENIAL_FRAMES = ("There is no {}.", "No {} is seen.", "No evidence of {}.")
INTACT_BONES = ("The bones are intact.", "No acute osseous abnormality.")
BONES_RATE = 0.6
NORMAL_HEART_RATE = 0.9  # how often a normal heart is mentioned

NAMES = {"effusion": "pleural effusion"}  # in captions, where the finding has another name
COMPLAINTS = ("chest pain", "shortness of breath", "cough and fever", "weakness", "fatigue", "a fall")
# Field: how often it is given, and its texts.
CONTEXT = {
    "indication": (0.8, [f"{sex} with {complaint}" for sex in "MF" for complaint in COMPLAINTS]),
    "comparison": (0.4, ("None.", "Prior chest film.", "Chest CT.")),
    "history": (0.3, ("Hypertension.", "Diabetes.", "Smoker.", "No relevant history.")),
    "technique": (0.3, ("Portable AP film.", "PA film.", "Single frontal view.")),
}


def write_report(findings: Collection[Finding], rng: np.random.Generator) -> str:
    """Writes a report of 2-6 sentences that `parse_report` reads back as exactly these findings.

    The order in which `findings` come does not matter. The wording is drawn from `rng`.
    """
    named = {name: sorted(f for f in findings if f.name == name) for name in (*PHRASES, "cardiomegaly")}
    clear_lungs = not any(named[name] for name in LUNGS)
    absent = [name for name in DENIED if not named[name] and not (clear_lungs and name in LUNGS)]
    sentences = [
        _statement([named[name] for name in DEVICES], DEVICE_FRAMES, rng),
        _heart(named["cardiomegaly"], rng),
        _pick(CLEAR_LUNGS, rng) if clear_lungs else _statement([named[name] for name in LUNGS], LESION_FRAMES, rng),
        _statement([named[name] for name in PLEURA], LESION_FRAMES, rng),
        _denial([DENIED[name] for name in absent], rng),
        _pick(INTACT_BONES, rng) if rng.random() < BONES_RATE else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def write_caption(findings: Collection[Finding]) -> str:
    """The findings as a list without sentences, "normal" if there are none: a caption for stage 1."""
    named = [" ".join(part for part in (f.severity, f.side, NAMES.get(f.name, f.name)) if part) for f in findings]
    return ", ".join(named) or "normal"


def write_context(rng: np.random.Generator) -> dict[str, str]:
    """Draws a clinical context that is independent of any finding.

    Each of indication, comparison, history and technique is given, empty or left out.
    """
    context = {}
    for name, (rate, texts) in CONTEXT.items():
        if rng.random() < rate:
            context[name] = _pick(texts, rng)
        elif rng.random() < 0.5:
            context[name] = ""
    return context


def _statement(groups: list[list[Finding]], frames: tuple[str, ...], rng: np.random.Generator) -> str:
    """One sentence on all the findings of `groups`, each group being one finding on one or both sides."""
    phrases = [phrase for group in groups for phrase in _phrases(group, rng)]
    return _sentence(_pick(frames, rng), _listing(phrases, "and")) if phrases else ""


def _phrases(group: list[Finding], rng: np.random.Generator) -> list[str]:
    """Noun phrases of one finding: both sides in one where the severity is the same."""
    if len(group) == len(SIDES) and group[0].severity == group[1].severity:
        return [_fill(_pick(BILATERAL_PHRASES[group[0].name], rng), group[0])]
    return [_fill(_pick(PHRASES[finding.name], rng), finding) for finding in group]


def _heart(cardiomegaly: list[Finding], rng: np.random.Generator) -> str:
    if not cardiomegaly:
        return _pick(NORMAL_HEART, rng) if rng.random() < NORMAL_HEART_RATE else ""
    return _capitalised(_fill(_pick(LARGE_HEART, rng), cardiomegaly[0]))


def _denial(names: list[str], rng: np.random.Generator) -> str:
    return _sentence(_pick(DENIAL_FRAMES, rng), _listing(names, "or")) if names else ""


def _sentence(frame: str, listing: str) -> str:
    """Puts a listing into a frame. Where it stands first its article goes, as in a telegram: "Small left nodule."."""
    if frame.startswith("{}"):
        listing = listing.removeprefix("a ").removeprefix("an ")
    return _capitalised(frame.format(listing))


def _listing(items: list[str], conjunction: str) -> str:
    return f" {conjunction} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _fill(phrase: str, finding: Finding) -> str:
    return phrase.format(severity=finding.severity, side=finding.side)


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]
