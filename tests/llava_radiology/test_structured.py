"""Structured reports: a label and its value, and denials that trail what they deny."""

import pytest

from llava.radiology.findings import parse_report
from llava.radiology.labels import labels
from llava.radiology.negation import sentences

DENIED = [
    "Pneumothorax: none.",
    "Effusion: no",
    "Edema: negative",
    "PLEURAL EFFUSION: NONE.",
    "Pleural effusion: absent.",
    "Pneumothorax: No.",
    "Pneumothorax:none",
    "Consolidation: not seen",
    "Consolidation: not identified.",
    "Pneumonia: unlikely",
    "Fracture: denied",
    "Nodules: nil",
    "Edema: neg.",
    "Pneumothorax: none identified.",
    "Pneumothorax: none seen;",
    "Pneumothorax: no evidence.",
    "Effusion - none",
    "Effusion (none)",
    "Pleural effusion (-)",
    "Pneumothorax none.",
    "Edema, none.",
    "Pneumothorax is negative.",
    "Effusion no, pneumothorax no, edema no.",
    "Effusion: none, edema: none.",
    "Findings: Effusion: none; edema: negative",
    "EFFUSION: NONE\nEDEMA: NO\nPNEUMOTHORAX: ABSENT",
    "Effusion, pneumothorax: none.",
    "Pneumothorax: resolved.",
    "Pneumothorax: no pneumothorax.",
    "Effusions: no evidence of pleural effusion.",
    "Pneumothorax: **none**",
    "EFFUSION: NONE\r\nEDEMA: NO\r\n",
]
STATED = [
    ("Effusion: small", {"Pleural Effusion"}),
    ("Cardiomegaly: yes.", {"Cardiomegaly"}),
    ("Pneumothorax: present, effusion: none", {"Pneumothorax"}),
    ("Edema: none, effusion: small", {"Pleural Effusion"}),
    ("Effusion: none\nEdema: mild", {"Edema"}),
    ("EFFUSION: NONE\nEDEMA: YES", {"Edema"}),
    ("Edema: no change", {"Edema"}),
    ("Edema: none. Small effusion.", {"Pleural Effusion"}),
    ("No, there is a small effusion.", {"Pleural Effusion"}),
    ("Small effusion and no", {"Pleural Effusion"}),
    ("Pneumothorax: cannot be excluded.", {"Pneumothorax"}),
    ("Comparison: none. Large effusion.", {"Pleural Effusion"}),
    ("Small left effusion, pneumothorax: none.", {"Pleural Effusion"}),
    ("Mild edema, pneumothorax none.", {"Edema"}),
    ("Mild edema, no effusion, pneumothorax none.", {"Edema"}),
    ("Effusion is small, edema: absent.", {"Pleural Effusion"}),
    ("Left effusion, edema negative", {"Pleural Effusion"}),
    ("Heart is enlarged, effusion: none", {"Cardiomegaly"}),
    ("Small pneumothorax: no tension pneumothorax.", {"Pneumothorax"}),
    ("Pneumothorax: none\r\nEffusion: small\r\n", {"Pleural Effusion"}),
]


@pytest.mark.parametrize("text", DENIED)
def test_a_denied_value_is_no_finding(text):
    assert labels(text) == {"No Finding"} and parse_report(text) == set()


@pytest.mark.parametrize("text, stated", STATED)
def test_what_is_not_denied_stays_stated(text, stated):
    assert labels(text) == stated
    assert "".join(sentences(text)) == text


def test_the_right_report_scores_1_and_one_that_affirms_everything_does_not():
    references = ["Pneumothorax: none. Effusion: no. Edema: negative.", "Small left effusion. Pneumothorax: none."]
    assert [parse_report(text) for text in references] == [set(), {("effusion", "left")}]
    assert labels("Pneumothorax. Effusion. Edema.") == {"Pneumothorax", "Pleural Effusion", "Edema"}
