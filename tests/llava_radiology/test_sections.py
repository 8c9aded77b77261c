"""Every shape of report that `parse_sections` must know, each with the six sections that are in it.

The texts are made up. Each is read as it stands, as MIMIC-CXR would lay it out, and with Windows line ends.
"""

import pytest

from llava.radiology.sections import SECTIONS, parse_sections


def sections(findings="", impression="", indication="", history="", comparison="", technique=""):
    return dict(zip(SECTIONS, (findings, impression, indication, history, comparison, technique), strict=True))


SHAPES = [
    (
        "all sections, each heading on the line of its text",
        """
                                 FINAL REPORT
EXAMINATION:  CHEST (PA AND LAT)

INDICATION:  ___F with fever  // pneumonia?

TECHNIQUE:  Chest PA and lateral

COMPARISON:  ___

FINDINGS:  The lungs are clear.  The heart is
normal in size.

IMPRESSION:  No pneumonia.
""",
        sections(
            findings="The lungs are clear. The heart is normal in size.",
            impression="No pneumonia.",
            indication="___F with fever // pneumonia?",
            comparison="___",
            technique="Chest PA and lateral",
        ),
    ),
    (
        "an empty line after each heading",
        """
INDICATION:

Cough for weeks.

COMPARISON:

None.

FINDINGS:

No effusion.

Old rib fractures on the left.

IMPRESSION:

No acute disease.
""",
        sections("No effusion. Old rib fractures on the left.", "No acute disease.", "Cough for weeks.", "", "None."),
    ),
    (
        "headings alone on their lines, without colon",
        """
HISTORY
Fall.

FINDINGS
No fracture.

IMPRESSION
Normal chest.
""",
        sections("No fracture.", "Normal chest.", history="Fall."),
    ),
    (
        "headings alone after an empty line, in mixed case, without colon",
        """
Indication
Chest pain.

Findings
Clear lungs.

Impression
Normal.
""",
        sections("Clear lungs.", "Normal.", "Chest pain."),
    ),
    (
        "headings in mixed case with colons",
        """
Clinical History: Smoker.
Comparison: None available.
Findings: Hyperinflated lungs.
Impression: Emphysema.
""",
        sections("Hyperinflated lungs.", "Emphysema.", history="Smoker.", comparison="None available."),
    ),
    (
        "a report in small letters",
        """
indication: dyspnea.
findings: small left effusion.
impression: effusion.
""",
        sections("small left effusion.", "effusion.", "dyspnea."),
    ),
    (
        "a report in capitals",
        """
HISTORY: COUGH.
COMPARISON: NONE.
FINDINGS: THE LUNGS ARE CLEAR. NO EFFUSION.
IMPRESSION: NORMAL CHEST.
""",
        sections("THE LUNGS ARE CLEAR. NO EFFUSION.", "NORMAL CHEST.", history="COUGH.", comparison="NONE."),
    ),
    (
        "all headings inside one line",
        "INDICATION: Cough. COMPARISON: None. FINDINGS: Lungs are clear. IMPRESSION: Normal.",
        sections("Lungs are clear.", "Normal.", "Cough.", "", "None."),
    ),
    (
        "a heading inside a line, no full stop before it",
        "HISTORY: Known COPD FINDINGS: Flat diaphragms IMPRESSION: COPD",
        sections("Flat diaphragms", "COPD", history="Known COPD"),
    ),
    (
        "a heading in mixed case inside a line, after a sentence",
        "PA film. The lungs are clear. Impression: Normal film.",
        sections("PA film. The lungs are clear.", "Normal film."),
    ),
    (
        "FINDINGS AND IMPRESSION",
        """
INDICATION: Line placement.

FINDINGS AND IMPRESSION: The catheter ends in the right atrium.
""",
        sections(
            "The catheter ends in the right atrium.", "The catheter ends in the right atrium.", "Line placement."
        ),
    ),
    (
        "FINDINGS/IMPRESSION",
        "FINDINGS/IMPRESSION: Clear lungs.",
        sections("Clear lungs.", "Clear lungs."),
    ),
    (
        "FINDINGS / IMPRESSION with spaces, alone on its line",
        "FINDINGS / IMPRESSION\nClear lungs.",
        sections("Clear lungs.", "Clear lungs."),
    ),
    (
        "Impression & findings",
        "Impression & findings: Clear lungs.",
        sections("Clear lungs.", "Clear lungs."),
    ),
    (
        "a joined section and an impression of its own",
        """
FINDINGS AND IMPRESSION: Left basal opacity.

IMPRESSION: Atelectasis.
""",
        sections("Left basal opacity.", "Atelectasis."),
    ),
    (
        "TECHNIQUE AND FINDINGS is findings and no context",
        "TECHNIQUE AND FINDINGS: One view. Clear lungs.\n\nIMPRESSION: Normal.",
        sections("One view. Clear lungs.", "Normal."),
    ),
    (
        "INDICATION/HISTORY is the indication",
        "INDICATION/HISTORY: Fever.\n\nFINDINGS: Clear.",
        sections("Clear.", indication="Fever."),
    ),
    (
        "views head the findings",
        """
INDICATION: Cough.

PA AND LATERAL VIEWS OF THE CHEST: The lungs are clear.

IMPRESSION: Normal.
""",
        sections("The lungs are clear.", "Normal.", "Cough."),
    ),
    (
        "views with date and time head the findings",
        """
COMPARISON: ___.

AP CHEST, 10:04 A.M., ___: The tube ends above the carina.

No pneumothorax.
""",
        sections("The tube ends above the carina. No pneumothorax.", comparison="___."),
    ),
    (
        "views in mixed case, on the line after the context",
        "INDICATION: Fall.\nPortable AP chest x-ray: No fracture.\nIMPRESSION: Normal.",
        sections("No fracture.", "Normal.", "Fall."),
    ),
    (
        "views inside findings are text",
        "FINDINGS: Two films.\n\nLATERAL VIEW: Small effusion.\n\nIMPRESSION: Effusion.",
        sections("Two films. LATERAL VIEW: Small effusion.", "Effusion."),
    ),
    (
        "views that head a title, and findings of their own",
        "CHEST, TWO VIEWS: ___\n\nHISTORY: Pain.\n\nFINDINGS: Clear.\n\nIMPRESSION: Normal.",
        sections("Clear.", "Normal.", history="Pain."),
    ),
    (
        "views that head nothing, and text without a heading",
        "CHEST, TWO VIEWS: ___\n\nHISTORY: Pain.\n\nThe lungs are clear.",
        sections("The lungs are clear.", history="Pain."),
    ),
    (
        "an impression that begins with a comparison and a colon",
        """
HISTORY: Sepsis.

IMPRESSION:  AP chest compared to ___:

Mild edema is new.  Heart size is normal.
""",
        sections("", "AP chest compared to ___: Mild edema is new. Heart size is normal.", history="Sepsis."),
    ),
    (
        "a title in front of an impression is no findings",
        """
                                 FINAL REPORT
AP CHEST, 10:04 A.M., ON ___

HISTORY: Intubated.

IMPRESSION: Tube in place.
""",
        sections("", "Tube in place.", history="Intubated."),
    ),
    (
        "a title with a verb in front of an impression is no findings",
        "Chest radiograph performed on ___\n\nPA and lateral views were obtained.\n\nIMPRESSION: Normal.",
        sections("", "Normal."),
    ),
    (
        "no heading at all",
        """
Portable AP chest film, ___

The lungs are clear. There is no effusion.

The heart is large.
""",
        sections("The lungs are clear. There is no effusion. The heart is large."),
    ),
    (
        "context, and then text without a heading",
        """
REASON FOR EXAMINATION:  Fever in a patient
after surgery.

Portable AP radiograph of the chest was reviewed in comparison to ___.

New opacity at the left base.
""",
        sections(
            "Portable AP radiograph of the chest was reviewed in comparison to ___. New opacity at the left base.",
            indication="Fever in a patient after surgery.",
        ),
    ),
    (
        "text without a heading, and then an impression",
        "The lungs are clear. The heart is normal.\n\nIMPRESSION: Normal chest.",
        sections("The lungs are clear. The heart is normal.", "Normal chest."),
    ),
    (
        "text between the context and the findings is neither",
        "COMPARISON: ___.\n\nTwo films were reviewed.\n\nFINDINGS: Clear.\n\nIMPRESSION: Normal.",
        sections("Clear.", "Normal.", comparison="___."),
    ),
    (
        "impression before findings",
        "IMPRESSION: Normal.\n\nFINDINGS: Clear lungs.",
        sections("Clear lungs.", "Normal."),
    ),
    (
        "findings only",
        "FINDINGS: Clear lungs.",
        sections("Clear lungs."),
    ),
    (
        "impression only, called CONCLUSION",
        "CONCLUSION: Normal chest.",
        sections("", "Normal chest."),
    ),
    (
        "two examinations, each with findings and impression",
        """
FINDINGS: Chest clear.
IMPRESSION: Normal chest.

FINDINGS: No rib fracture.
IMPRESSION: Normal ribs.
""",
        sections("Chest clear. No rib fracture.", "Normal chest. Normal ribs."),
    ),
    (
        "an empty section",
        "INDICATION:\nCOMPARISON:\nFINDINGS: Clear.\nIMPRESSION:",
        sections("Clear."),
    ),
    (
        "a wet read before the final report",
        """
WET READ: ___ ___ ___ 8:21 AM
 Possible pneumonia.
______________________________________________________________________________
                                 FINAL REPORT
INDICATION: Fever.

FINDINGS: Clear lungs.

IMPRESSION: No pneumonia.
""",
        sections("Clear lungs.", "No pneumonia.", "Fever."),
    ),
    (
        "a wet read without colon, and no banner",
        "WET READ VERSION #1 ___ ___ 5:01 PM\nPossible pneumonia.\n\nFINDINGS: Clear.\n\nIMPRESSION: Normal.",
        sections("Clear.", "Normal."),
    ),
    (
        "a wet read and nothing else",
        "WET READ: ___ 8:21 AM\nNo pneumonia.",
        sections(),
    ),
    (
        "context before the final report",
        """
MEDICAL CONDITION:
 65 year old with cough
REASON FOR THIS EXAMINATION:
 r/o pneumonia
______________________________________________________________________________
                                 FINAL REPORT
FINDINGS: Clear.
IMPRESSION: No pneumonia.
""",
        sections("Clear.", "No pneumonia.", "r/o pneumonia", "65 year old with cough"),
    ),
    (
        "an addendum before the final report",
        """
                                 ADDENDUM  The film was seen again: a rib is broken.

______________________________________________________________________________
                                 FINAL REPORT
FINDINGS: Clear lungs.

IMPRESSION: Normal.
""",
        sections("Clear lungs.", "Normal."),
    ),
    (
        "an addendum in front, without banner",
        "ADDENDUM: Side corrected.\n\nINDICATION: Pain.\n\nFINDINGS: Left effusion.\n\nIMPRESSION: Effusion.",
        sections("Left effusion.", "Effusion.", "Pain."),
    ),
    (
        "an addendum behind the report, with a heading of its own",
        """
FINDINGS: Right effusion.

IMPRESSION: Effusion.

FINAL ADDENDUM
The side was wrong.

IMPRESSION: Left effusion.
""",
        sections("Right effusion.", "Effusion."),
    ),
    (
        "a notification behind the impression",
        """
FINDINGS: Large pneumothorax.

IMPRESSION: Pneumothorax.

NOTIFICATION:  The findings were told to Dr. ___ by phone.

They were repeated by the nurse.
""",
        sections("Large pneumothorax.", "Pneumothorax."),
    ),
    (
        "a recommendation and a signature",
        """
IMPRESSION: Nodule.

RECOMMENDATION(S): CT of the chest.

Electronically signed by: ___
""",
        sections("", "Nodule."),
    ),
    (
        "communication of critical findings is no findings",
        "IMPRESSION: Pneumothorax.\n\nCOMMUNICATION OF CRITICAL FINDINGS: Dr. ___ was called.",
        sections("", "Pneumothorax."),
    ),
    (
        "a numbered impression",
        """
FINDINGS: Left basal opacity.

IMPRESSION:

1. Left basal pneumonia.

2. No effusion.  Follow-up
   in ___ weeks.
""",
        sections("Left basal opacity.", "1. Left basal pneumonia. 2. No effusion. Follow-up in ___ weeks."),
    ),
    (
        "an impression that goes on on the next page",
        """
                                 FINAL REPORT
FINDINGS: Clear.

IMPRESSION:
1. No pneumonia.
                                                             (Over)

___                    CHEST (PA & LAT)                      Clip # ___
Reason: cough
______________________________________________________________________________
                                 FINAL REPORT
(Cont)
2. Old granuloma.
""",
        sections("Clear.", "1. No pneumonia. 2. Old granuloma."),
    ),
    (
        "marks of de-identification are kept, rulers are not",
        "FINDINGS: Seen on ___ by Dr. ___.\n________________________\nNo change since ___.",
        sections("Seen on ___ by Dr. ___. No change since ___."),
    ),
    (
        "subheadings of findings in capitals are text",
        """
FINDINGS:
LINES AND TUBES: None.
LUNGS: Clear.
PLEURA: No effusion.

IMPRESSION: Normal.
""",
        sections("LINES AND TUBES: None. LUNGS: Clear. PLEURA: No effusion.", "Normal."),
    ),
    (
        "heading words inside sentences",
        """
FINDINGS: In comparison to the prior study, the findings are
unchanged. The history of the patient suggests an old
impression of the rib: it is healed.  No findings
of pneumonia.

IMPRESSION: Stable findings: old fracture. Technique is limited.
""",
        sections(
            "In comparison to the prior study, the findings are unchanged. The history of the patient suggests an old"
            " impression of the rib: it is healed. No findings of pneumonia.",
            "Stable findings: old fracture. Technique is limited.",
        ),
    ),
    (
        "a wrapped sentence whose next line begins with a heading word and a colon",
        "FINDINGS: Please see the earlier\nreport: it is unchanged.\n\nIMPRESSION: No change.",
        sections("Please see the earlier report: it is unchanged.", "No change."),
    ),
    (
        "COMPARISON AND FINDINGS in a sentence in capitals",
        "FINDINGS: NO CHANGE IN COMPARISON. SEE ABOVE.\nIMPRESSION: NO CHANGE.",
        sections("NO CHANGE IN COMPARISON. SEE ABOVE.", "NO CHANGE."),
    ),
    (
        "runs of spaces inside headings, and a space before the colon",
        "REASON  FOR   EXAM : Cough.\n\nFINDINGS :  Clear.",
        sections("Clear.", indication="Cough."),
    ),
    (
        "less usual names",
        """
CLINICAL INFORMATION: Asthma.
INDICATION FOR STUDY: Wheezing.
PRIOR STUDIES: None.
PROCEDURE: Two views.
OBSERVATIONS: Clear.
OPINION: Normal.
""",
        sections("Clear.", "Normal.", "Wheezing.", "Asthma.", "None.", "Two views."),
    ),
    (
        "names with more words",
        """
HISTORY OF PRESENT ILLNESS: Asthma.
EXAM INDICATION: Wheezing.
COMPARISON STUDIES: None.
NUMBER OF VIEWS: Two.
CHEST FINDINGS: Clear.
FINAL IMPRESSION: Normal.
""",
        sections("Clear.", "Normal.", "Wheezing.", "Asthma.", "None.", "Two."),
    ),
    (
        "misspelt headings",
        "COMPARISION: None.\n\nFINIDNGS: Clear.\n\nIMPRESSON: Normal.",
        sections("Clear.", "Normal.", comparison="None."),
    ),
    (
        "an examination without a context paragraph after it",
        "EXAM: Chest film\n\nThe lungs are clear.",
        sections("The lungs are clear."),
    ),
    ("an empty report", "", sections()),
    ("a report of spaces and rulers", " \n \n________________________________\n ", sections()),
]  # fmt: skip


def as_written(report):
    return report


def as_in_mimic(report):
    """Each line begins with a space, and an empty line holds one."""
    return "".join(f" {line}\n" for line in report.split("\n"))


def with_carriage_returns(report):
    return report.replace("\n", "\r\n")


@pytest.mark.parametrize("layout", [as_written, as_in_mimic, with_carriage_returns])
@pytest.mark.parametrize("report, expected", [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_shape(report, expected, layout):
    assert parse_sections(layout(report)) == expected


def test_there_are_enough_shapes():
    assert len({name for name, *_ in SHAPES}) == len(SHAPES) >= 45


# Misspelt headings

# One letter missing, added, wrong or swapped: slips as radiologists make them.
MISSPELT = {
    "INDICATION": "NDICATION IDICATION INIDCATION INDICATON INDICATIION INDICAITON INDECATION",
    "FINDINGS": "FINDINS FINDINDGS FINDGINGS FINDNGS FINDNINGS FINIDNGS FIINDINGS INDINGS FIMDINGS",
    "IMPRESSION": "MPRESSION IMPRESSON IMPRRESSION IMORESSION IMPRESSOIN IMPRSSION IMPRESION IMPERSSION IMPESSION",
    "COMPARISON": "COMPARISION COMPARSION COMPARRISON CMOPARISON COMPARISN OMPARISON",
    "TECHNIQUE": "TECHNQUE TECHINQUE TECHNIQE TECHNIQEU TECNIQUE ECHNIQUE",
    "HISTORY": "HISOTRY HISTROY HISTRY ISTORY HISTORRY HISTOTY",
    "EXAMINATION": "EXAMINATON EXAMIANTION XAMINATION EXAMNIATION EXAMINATIION",
    "CONCLUSION": "CONCLUSON CONLCUSION ONCLUSION CONCLUSSION",
    "OBSERVATIONS": "OBSERVATONS OBSERVTIONS",
    "CLINICAL HISTORY": "CLINCAL HISTORY CLNICAL HISTROY",
    "REASON FOR EXAMINATION": "REASN FOR EXAMINATION REASON FOR EXMAINATION REASON FOR EXAMINTION",
    "FINDINGS AND IMPRESSION": "FINDNGS AND IMPRESSON FINDINGS AND IMPRESION",
}
WORDS = {name: len(name.split()) for name in MISSPELT}
SLIPS = [
    (name, " ".join(words[start : start + WORDS[name]]))
    for name, words in ((name, text.split()) for name, text in MISSPELT.items())
    for start in range(0, len(words), WORDS[name])
]
AROUND = """
EXAMINATION: Chest.

INDICATION: Cough for weeks.

HISTORY: Smoker.

TECHNIQUE: Two views.

COMPARISON: None.

{findings}

{impression}
"""


def report_with(name, spelt):
    """A report with the heading `name` in it, as `spelt`."""
    headed = {"findings": "FINDINGS: The lungs are clear.", "impression": "IMPRESSION: Normal chest."}
    text = AROUND.format(**headed)
    if f"{name}:" in text:
        return text.replace(f"{name}:", f"{spelt}:")
    others = {
        "CONCLUSION": "IMPRESSION",
        "OBSERVATIONS": "FINDINGS",
        "CLINICAL HISTORY": "HISTORY",
        "REASON FOR EXAMINATION": "INDICATION",
    }
    if name in others:
        return text.replace(f"{others[name]}:", f"{spelt}:")
    return AROUND.format(findings="", impression=f"{spelt}: The lungs are clear.")


@pytest.mark.parametrize("change", [str, str.title, lambda text: text.replace(":", " :")], ids=["as is", "title", ":"])
@pytest.mark.parametrize("name, spelt", SLIPS)
def test_a_misspelt_heading_is_read_as_the_right_one(name, spelt, change):
    right, wrong = (change(report_with(name, heading)) for heading in (name, spelt))
    assert right != wrong and parse_sections(as_in_mimic(wrong)) == parse_sections(as_in_mimic(right))


def slips(name):
    """Every way in which one letter of a name is missing, doubled, swapped with the next, or replaced by an X."""
    for at in range(len(name)):
        yield name[:at] + name[at + 1 :]
        yield name[:at] + name[at] + name[at:]
        yield name[:at] + "X" + name[at + 1 :]
        if name[at : at + 1] != name[at + 1 : at + 2]:
            yield name[:at] + name[at : at + 2][::-1] + name[at + 2 :]


@pytest.mark.parametrize("name", [name for name, words in WORDS.items() if words == 1])
def test_any_one_slip_is_forgiven(name):
    right = parse_sections(report_with(name, name))
    wrong = [spelt for spelt in slips(name) if parse_sections(report_with(name, spelt)) != right]
    assert wrong == []


def test_misspelt_headings_alone_on_their_lines_are_headings():
    text = "HISOTRY\nFall.\n\nFINDNGS\nNo fracture.\n\nIMPRESION\nNormal chest."
    assert parse_sections(text) == sections("No fracture.", "Normal chest.", history="Fall.")


@pytest.mark.parametrize(
    "line",
    [
        "Fillings: two.",
        "Feeding: by tube.",
        "Medication: aspirin.",
        "Medications: aspirin.",
        "Induration: none.",
        "Occlusion: none.",
        "Inclusion: none.",
        "Contusion: right base.",
        "Concussion: none.",
        "Compression: T8.",
        "Depression: of the diaphragm.",
        "Reports: of a fall.",
        "Technical: limited.",
        "Indicating pneumonia: the left base is dense.",
        "Impressive effusion: it reaches the apex.",
        "Findingsare clear.",
        "Comparsion is made to ___: no change.",
        "Impresion of the rib is healed.",
        "Histroy unknown, no change: stable.",
        "Indicaton of edema.",
        "LUNGS: Clear.",
        "PLEURA: No effusion.",
    ],
)
def test_a_sentence_that_begins_with_a_near_word_is_text(line):
    text = f"INDICATION: Cough.\n\nFINDINGS: The heart is large.\n{line}\n\nIMPRESSION: Stable."
    assert parse_sections(text) == sections(f"The heart is large. {line}", "Stable.", "Cough.")


def test_a_near_word_in_a_wrapped_sentence_or_inside_a_line_is_text():
    text = "FINDINGS: Please see the earlier\nimpresion: unchanged. No Comparsion: none was sent."
    assert parse_sections(text) == sections(" ".join(text.removeprefix("FINDINGS: ").split()))


# A context is never a target


@pytest.mark.parametrize("name", ["Comparison", "COMPARISON", "Comparsion", "History", "Technique", "Indicaton"])
@pytest.mark.parametrize(
    "start", ["FINDINGS:\n", "FINDINGS\n", "Findings:\n", "FINDINGS AND IMPRESSION:\n", "IMPRESSION:\n"]
)
def test_a_context_at_the_head_of_a_reading_is_no_part_of_it(name, start):
    found = parse_sections(f"{start}{name}: AP of ___.\nThe lungs\nare clear.\n\nThe heart is large.")
    reading = "The lungs are clear. The heart is large."
    assert [text for text in found.values() if text].count("AP of ___.") == 1
    assert {found["findings"], found["impression"]} <= {reading, ""} and reading in found.values()


@pytest.mark.parametrize(
    "report, expected",
    [
        (
            "FINDINGS:\nTechnique: AP view.\nComparison: Radiograph of\n___ and ___\nClear.\nIMPRESSION: Normal.",
            sections("Clear.", "Normal.", technique="AP view.", comparison="Radiograph of ___ and ___"),
        ),
        ("FINDINGS: Comparison: ___. Clear. No change.", sections("Clear. No change.", comparison="___.")),
        ("FINDINGS: COMPARISON: None IMPRESSION: Normal.", sections("", "Normal.", comparison="None")),
        (
            "FINDINGS:\nCOMPARISON: ___. CT ___.\nIMPRESSION: Normal.",
            sections("", "Normal.", comparison="___. CT ___."),
        ),
        ("IMPRESSION:\nComparison: ___.\nNo change.", sections("", "No change.", comparison="___.")),
    ],
)
def test_a_context_at_the_head_of_a_reading_ends_with_its_sentence(report, expected):
    assert parse_sections(as_in_mimic(report)) == expected
