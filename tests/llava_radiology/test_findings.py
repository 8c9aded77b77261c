"""Findings: their reading from text, rule by rule, the inverse of the report writer, and the score."""

import numpy as np
import pytest

from llava.phantom.report import write_report
from llava.radiology.findings import SEVERITIES, Finding, parse_report, sides_of

PAIRS = [(name, side) for name in SEVERITIES for side in sides_of(name)]
LEFT, RIGHT = ("effusion", "left"), ("effusion", "right")


def random_findings(rng, rate):
    return [Finding(name, side, str(rng.choice(SEVERITIES[name]))) for name, side in PAIRS if rng.random() < rate]


def pairs(findings):
    return {(finding.name, finding.side) for finding in findings}


def test_there_are_ten_findings_and_devices_have_no_severity():
    assert len(SEVERITIES) == 10
    assert [name for name, severities in SEVERITIES.items() if severities == ("",)] == ["pacemaker", "line", "tube"]


def test_5000_generated_reports_read_back_exactly():
    rng = np.random.default_rng(0)
    for number in range(5000):
        findings = random_findings(rng, rate=rng.choice([0.0, 0.1, 0.3, 0.7, 1.0], p=[0.1, 0.5, 0.3, 0.08, 0.02]))
        report = write_report(findings, rng)
        assert parse_report(report) == pairs(findings), f"report {number}: {report}"


def test_reports_have_two_to_six_sentences():
    rng = np.random.default_rng(1)
    counts = {write_report(random_findings(rng, rng.choice([0.05, 0.2, 1.0])), rng).count(".") for _ in range(3000)}
    assert counts == {2, 3, 4, 5, 6}


def test_wording_varies_and_the_order_of_findings_does_not_matter():
    findings = [Finding("effusion", "left", "small"), Finding("cardiomegaly", "", "mild"), Finding("tube", "", "")]
    reports = {write_report(findings, np.random.default_rng(seed)) for seed in range(50)}
    assert len(reports) > 20
    assert write_report(findings, np.random.default_rng(3)) == write_report(findings[::-1], np.random.default_rng(3))


def test_side_and_severity_are_written():
    for seed in range(20):
        report = write_report([Finding("effusion", "right", "large")], np.random.default_rng(seed)).lower()
        assert "right" in report and "large" in report and "left" not in report


READINGS = {
    # plain
    "Small left pleural effusion.": {LEFT},
    "small LEFT pleural\neffusion": {LEFT},
    "The heart is moderately enlarged. Pulmonary edema.": {("cardiomegaly", ""), ("edema", "")},
    "Nothing that this reader knows.": set(),
    "": set(),
    # denials that look ahead
    "No left pleural effusion.": set(),
    "No focal consolidation, left pleural effusion or right pneumothorax.": set(),
    "The lungs are clear without nodule.": set(),
    "The heart is not enlarged.": set(),
    "Resolution of the left effusion.": set(),
    "Resolved left effusion.": set(),
    "No right effusion but a left nodule.": {("nodule", "left")},
    "No pneumothorax and a small left effusion.": {LEFT},
    "No pneumothorax, small left effusion.": {LEFT},
    "There is no pneumothorax, there is edema.": {("edema", "")},
    # denials that look back
    "Left pleural effusion is not seen.": set(),
    "The left effusion has resolved.": set(),
    "Endotracheal tube has been removed.": set(),
    "Left effusion is ruled out but a right nodule is present.": {("nodule", "right")},
    "Left effusion has resolved, right pneumothorax persists.": {("pneumothorax", "right")},
    "Left effusion is unlikely.": set(),
    # hedges and what only looks like a denial
    "Possible small left effusion.": {LEFT},
    "Left effusion cannot be excluded.": {LEFT},
    "No change in the left effusion.": {LEFT},
    "Left effusion, not significantly changed.": {LEFT},
    # contradictions
    "No pleural effusion. Small left pleural effusion.": {LEFT},
    "Small left pleural effusion. No pleural effusion.": {LEFT},
    "Left effusion. No left effusion. No left effusion.": {LEFT},
    # both sides
    "Bilateral pleural effusions.": {LEFT, RIGHT},
    "Effusions on both sides.": {LEFT, RIGHT},
    "Bilateral effusions, right greater than left.": {LEFT, RIGHT},
    "Bibasilar atelectasis.": {("atelectasis", "left"), ("atelectasis", "right")},
    "Small left and large right pleural effusions.": {LEFT, RIGHT},
    "Consolidation in the right lung and the left lung.": {("consolidation", "right"), ("consolidation", "left")},
    "Right effusion, left nodule, and cardiomegaly": {RIGHT, ("nodule", "left"), ("cardiomegaly", "")},
    "Left-sided pacemaker; right air-space disease.": {("pacemaker", "left"), ("consolidation", "right")},
    # which side belongs to which finding
    "Left effusion and right nodule.": {LEFT, ("nodule", "right")},
    "A nodule in the right lung and effusion on the left.": {("nodule", "right"), LEFT},
    "On the right, a nodule.": {("nodule", "right")},
    "Left PICC line with its tip in the right atrium.": {("line", "left")},
    "Left effusion and atelectasis.": {LEFT, ("atelectasis", "left")},
    "Atelectasis and effusion at the left base.": {LEFT, ("atelectasis", "left")},
    # a side that is missing or not called for
    "There is a pleural effusion.": {("effusion", "")},
    "Left effusion. The effusion is small.": {LEFT},
    "Left heart enlarged, right edema.": {("edema", "")},
    "Cardiomegaly on the left.": {("cardiomegaly", "")},
    # not the finding
    "Pericardial effusion. Subcutaneous edema.": set(),
}


@pytest.mark.parametrize("text", READINGS)
def test_reading_of(text):
    assert parse_report(text) == READINGS[text]


def test_any_text_is_read():
    rng = np.random.default_rng(2)
    allowed = set(PAIRS) | {(name, "") for name in SEVERITIES}
    words = "no not left right bilateral effusion effusions heart enlarged , . and but nodule 1.5 is seen ; \n -".split(
        " "
    )
    for _ in range(500):
        report = write_report(random_findings(rng, 0.3), rng)
        shuffled = " ".join(rng.permutation(report.split()))
        noise = "".join(map(chr, rng.integers(0, 0x11000, size=80)))  # lone surrogates included
        salad = " ".join(rng.choice(words, size=40))
        for text in (report[: rng.integers(len(report))], shuffled, noise, report + noise, salad):
            assert parse_report(text) <= allowed


def test_very_long_text_is_read():
    assert parse_report("small left effusion and no " * 4_000) == {LEFT}
    assert parse_report("heart is " * 4_000 + "enlarged") == {("cardiomegaly", "")}
    assert parse_report("x" * 200_000) == set()
