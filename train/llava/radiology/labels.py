"""The clinical labels of a chest report, by rules: terms, and what the sentence denies.

The labels are those of CheXpert (Irvin et al. 2019), divided and completed so that they can be compared with those of
IU X-Ray (`IU_XRAY`) as well. What CheXpert calls Lung Lesion is Mass or Nodule here, its Lung Opacity is Lung Opacity
or Infiltration, and of its Pleural Other there is Pleural Thickening; it has no Emphysema and no Fibrosis.
The rules are our own because we found no package on PyPI that labels a chest report without weights to fetch:
chexpert-labeler and NegBio cannot be installed from there, medspaCy and negspaCy need spaCy and only say what is
denied, and medspaCy agreed no better on the same terms (docs/experiments/2026-11-21_label_agreement.md).
"""

from llava.radiology.negation import GRAMMAR, compile_kinds, read_sentence, sentences

NO_FINDING = "No Finding"
_HEART = r"(?:heart|cardiac|cardio ?mediastinal|cardio ?pericardial)(?: and mediastinal)?"
_HEART_LINK = (
    r"size|silhouette|contours?|shadow|is|are|was|has|remains?|appears?|at|the|of|or|not|no longer|now|again|also|top"
    r"|upper|limits|normal|stable|\w+ly"
)
_LARGE = r"enlarged|prominent|large|enlargement|increased in size|increased|borderline(?: (?:enlarged|in size|size))?"

PACEMAKER = r"pacemakers?|pacers?|a?icd|defibrillators?"
LINE = r"(?:central|venous|jugular|subclavian|picc|port|dialysis)(?: \w+)? (?:lines?|catheters?)|piccs?"
TUBE = r"endotracheal tubes?|et tubes?|ett"

# What each label is called in a report. The first term that matches at a place wins.
TERMS = {
    "Cardiomegaly": rf"cardiomegaly|{_HEART}(?: (?:{_HEART_LINK})){{0,8}} (?:{_LARGE})"
    rf"|(?:enlarge\w*|prominent|large|borderline|increased?)(?: in)?(?: of)?(?: the)?(?: size of the)? {_HEART}",
    "Atelectasis": r"atelecta\w+|(?:lung|lobar|lobe|segmental) collapse|collapse of the",
    "Pneumonia": r"(?:broncho)?pneumoni(?:a|as|tis)",
    "Infiltration": r"infiltrat\w+",
    "Consolidation": r"consolidat\w+",
    "Edema": r"o?edema|(?:heart|cardiac|ventricular) failure|chf",
    "Pleural Effusion": r"effusions?|pleural fluid|fluid in the(?: \w+)? (?:pleural|fissures?)|hemothora(?:x|ces)",
    "Pneumothorax": r"(?:hydro)?pneumothora(?:x|xes|ces)",
    "Pleural Thickening": r"(?:pleural|fissural|apical)(?: \w+)? thickening|thickening of the fissures?"
    r"|thickened pleura|pleural plaques?",
    "Emphysema": r"emphysem\w+",
    "Fibrosis": r"fibro(?:sis|tic)",
    "Nodule": r"nodul\w+",
    "Mass": r"mass(?:es)?|tumou?rs?|neoplasms?",
    "Enlarged Cardiomediastinum": r"(?:widen\w*|enlarge\w*|prominen\w+)(?: of)?(?: the)?(?: superior)? mediastin\w+"
    r"|mediastin\w+(?: is| are| contours?| silhouette| appears?){0,3} (?:widen\w+|enlarged)",
    "Fracture": r"fractur\w+",
    "Lung Opacity": r"opaci\w+|(?:air ?spaces?|alveolar|parenchymal) (?:disease|process|densit(?:y|ies))",
    "Support Devices": rf"{LINE}|catheters?|port a cath|mediport|{PACEMAKER}|{TUBE}"
    r"|(?:ng|nasogastric|enteric|feeding|chest|tracheostomy) tubes?",
}
LABELS = (*TERMS, NO_FINDING)

# The coarse labels of IU X-Ray, which were made from the MeSH terms of its readers, and what they are called here.
_NOT_IN_IU_XRAY = ("Enlarged Cardiomediastinum", "Fracture", "Lung Opacity", "Support Devices")
IU_XRAY = {"normal": NO_FINDING, "Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
IU_XRAY |= {label: label for label in LABELS if label not in (*IU_XRAY.values(), *_NOT_IN_IU_XRAY)}

# Abnormal too, but no label: it only keeps a report from being No Finding. Looked for first, so that cystic fibrosis is
# no fibrosis.
_OTHER = (
    r"pericardial effusions?|(?:subcutaneous|soft tissue|chest wall) (?:o?edema|emphysema)|cystic fibrosis|copd"
    r"|obstructive \w+ disease|interstitial (?:markings?|changes?|prominence|pattern|lung disease|thickening)|crowding"
    r"|(?:hyper|hypo)(?:inflat|expan|disten|aerat|ventilat)\w+|\w*lucen\w+|low(?: lung)? volumes?|volume loss"
    r"|congest\w+|calcifi\w+|granuloma\w*|scar\w*|densit(?:y|ies)|lesions?|cysts?|cavit\w+|bronchiect\w+|blunt\w+"
    r"|\w*adenopathy|elevat\w+|flatten\w+|eventration|hernia\w*|tortuo\w+|ectatic|atheroscl\w+|aneurysm\w*|spurring"
    r"|degenerat\w+|osteophyt\w+|spondylo\w+|\w*scolio\w+|kypho\w+|\w*curvature|osteopeni\w+|arthrit\w+|deformit\w+"
    r"|post ?(?:surgical|operative)|sternotomy|\w*ectomy|clips?|sutures?|stents?|implants?|prosthe\w+"
    r"|foreign bod(?:y|ies)"
)
_MENTIONS = {label.replace(" ", "_"): label for label in TERMS} | {"other": "other"}
_TOKEN = compile_kinds(
    GRAMMAR
    | {"other": _OTHER}
    | {kind: TERMS[label] for kind, label in _MENTIONS.items() if label in TERMS}
    | {"normal": "normal|clear|unremarkable|intact|stable"}
)
_ABOUT_A_CHEST = ("normal", "denied_after", "denied_before")


def labels(report: str) -> frozenset[str]:
    """The labels of LABELS that a report states. Never raises, whatever the text.

    A hedge ("possible", "cannot be excluded") leaves a label stated, as CheXbert's F1 has it; how denials are read is
    written at `llava.radiology.negation.read_sentence`. No Finding is stated when nothing else but Support Devices is,
    nothing outside LABELS is abnormal, and the report denies something or calls it normal: a text that says nothing of
    a chest has no label.
    """
    stated, informative = set(), False
    for sentence in sentences(report):
        for token in read_sentence(sentence, _TOKEN, _MENTIONS):
            if token.kind in _MENTIONS and not token.denied:
                stated.add(_MENTIONS[token.kind])
            informative |= token.denied or token.kind in _ABOUT_A_CHEST
    if informative and stated <= {"Support Devices"}:
        stated.add(NO_FINDING)
    return frozenset(stated - {"other"})
