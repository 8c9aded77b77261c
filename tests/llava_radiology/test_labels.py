"""Clinical labels read from sentences, and their agreement with labels that others made."""

import pytest

from benchmarks.labels import agreement, read_studies
from llava.radiology.labels import IU_XRAY, LABELS, NO_FINDING, labels

NOTHING = ""
SENTENCES = {
    # named plainly
    "Cardiomegaly.": "Cardiomegaly",
    "The heart is enlarged.": "Cardiomegaly",
    "Heart size is mildly enlarged.": "Cardiomegaly",
    "The cardiac silhouette remains markedly enlarged.": "Cardiomegaly",
    "Stable enlargement of the cardiac silhouette.": "Cardiomegaly",
    "Borderline heart size.": "Cardiomegaly",
    "Small left pleural effusion.": "Pleural Effusion",
    "Bilateral effusions are present.": "Pleural Effusion",
    "Tiny right apical pneumothorax.": "Pneumothorax",
    "Subsegmental atelectasis at the left base.": "Atelectasis",
    "Bibasilar atelectatic change.": "Atelectasis",
    "Right lower lobe pneumonia.": "Pneumonia",
    "Patchy infiltrates in both lungs.": "Infiltration",
    "Dense consolidation of the lingula.": "Consolidation",
    "Mild interstitial pulmonary edema.": "Edema",
    "Pulmonary oedema.": "Edema",
    "Congestive heart failure.": "Edema",
    "Emphysematous change of the upper lobes.": "Emphysema",
    "Pulmonary fibrosis.": "Fibrosis",
    "A 6 mm nodule in the right upper lobe.": "Nodule",
    "A 4.5 cm mass is seen at the left hilum.": "Mass",
    "Widened mediastinum.": "Enlarged Cardiomediastinum",
    "The mediastinum is widened.": "Enlarged Cardiomediastinum",
    "Old fractures of the left ribs.": "Fracture",
    "Hazy opacity over the right base.": "Lung Opacity",
    "Focal air-space disease in the middle lobe.": "Lung Opacity",
    "Biapical pleural thickening.": "Pleural Thickening",
    # several
    "Left effusion with adjacent atelectasis or consolidation.": "Pleural Effusion, Atelectasis, Consolidation",
    "Cardiomegaly, edema and effusions.": "Cardiomegaly, Edema, Pleural Effusion",
    "Nodule/mass in the left lung.": "Nodule, Mass",
    # abbreviations and devices
    "CHF.": "Edema",
    "ETT and NG tube in good position.": "Support Devices",
    "Right PICC with tip in the SVC.": "Support Devices",
    "Left-sided pacemaker. Lungs are clear.": f"Support Devices, {NO_FINDING}",
    "Chest tube has been removed. Small pneumothorax.": "Pneumothorax",
    # denied
    "No pneumothorax.": NO_FINDING,
    "No evidence of pleural effusion.": NO_FINDING,
    "There is no focal consolidation, pleural effusion, or pneumothorax.": NO_FINDING,
    "No focal consolidation, large pleural effusion, or pneumothorax.": NO_FINDING,
    "The lungs are clear without infiltrate.": NO_FINDING,
    "Lungs are free of focal air space disease.": NO_FINDING,
    "Negative for pneumonia.": NO_FINDING,
    "The heart is not enlarged.": NO_FINDING,
    "Cardiac silhouette is no longer enlarged.": NO_FINDING,
    "Neither effusion nor pneumothorax.": NO_FINDING,
    "Pleural effusion is not seen.": NO_FINDING,
    "Rib fractures are not identified.": NO_FINDING,
    "Edema has resolved.": NO_FINDING,
    "Interval resolution of the left effusion.": NO_FINDING,
    "Pneumonia is unlikely.": NO_FINDING,
    "Pneumothorax has been excluded.": NO_FINDING,
    "CT is advised to exclude a nodule.": NO_FINDING,
    # denied in part
    "No effusion, but there is bibasilar atelectasis.": "Atelectasis",
    "No pneumothorax and a small right effusion.": "Pleural Effusion",
    "No pneumothorax, small right effusion.": "Pleural Effusion",
    "Effusion has resolved, however atelectasis persists.": "Atelectasis",
    "Atelectasis without consolidation.": "Atelectasis",
    "No edema. Edema of the left lung is new.": "Edema",
    "There is no consolidation; cardiomegaly is unchanged.": "Cardiomegaly",
    # hedged, and denials of something else
    "Possible small effusion.": "Pleural Effusion",
    "Findings may represent pneumonia.": "Pneumonia",
    "Atelectasis versus infiltrate.": "Atelectasis, Infiltration",
    "Pneumonia cannot be excluded.": "Pneumonia",
    "A nodule is not entirely excluded.": "Nodule",
    "No change in the left effusion.": "Pleural Effusion",
    "Cardiomegaly, not significantly changed.": "Cardiomegaly",
    # not the label that the word suggests
    "Pericardial effusion.": NOTHING,
    "Subcutaneous emphysema of the neck.": NOTHING,
    "Cystic fibrosis.": NOTHING,
    "No infiltrate. Cystic fibrosis.": NOTHING,
    # normal, abnormal in another way, and nothing at all
    "The heart size is normal. The lungs are clear.": NO_FINDING,
    "No acute cardiopulmonary process.": NO_FINDING,
    "Unremarkable chest.": NO_FINDING,
    "Lungs are clear. Degenerative changes of the spine.": NOTHING,
    "Clear lungs. Calcified granuloma.": NOTHING,
    "No calcified granuloma.": NO_FINDING,
    "Thank you for this referral.": NOTHING,
    "": NOTHING,
    "\n . ,, ;": NOTHING,
}


def test_there_are_enough_sentences_and_every_label_is_among_them():
    assert len(SENTENCES) >= 60
    assert set().union(*(expected.split(", ") for expected in SENTENCES.values())) - {""} == set(LABELS)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_labels_of(sentence):
    expected = frozenset(filter(None, SENTENCES[sentence].split(", ")))
    assert labels(sentence) == expected
    assert labels(sentence.upper()) == expected


def test_the_labels_of_a_report_are_those_of_its_sentences():
    assert labels("Small\neffusion .No edema.Cardiomegaly") == {"Pleural Effusion", "Cardiomegaly"}


def test_agreement_on_a_table_of_four_studies():
    truth = [{"Edema"}, {"Edema"}, {"normal"}, set()]
    found = [{"Edema"}, set(), {NO_FINDING}, {NO_FINDING}]
    table = agreement(found, truth)
    edema, normal = table["Edema"], table["normal"]
    assert (edema["studies"], edema["precision"], edema["recall"]) == (2, 1, 0.5)
    assert edema["F1"] == pytest.approx(2 / 3) and edema["kappa"] == pytest.approx(0.5)
    assert (normal["precision"], normal["recall"], normal["kappa"]) == (0.5, 1, 0.5)
    assert table["Mass"]["F1"] is None
    assert table["micro"]["F1"] == pytest.approx(2 / 3)
    assert table["macro"]["F1"] == pytest.approx(2 / 3)


@pytest.mark.real_data
@pytest.mark.parametrize("part, micro, macro", [("findings", 0.730, 0.508), ("findings_and_impression", 0.879, 0.813)])
def test_agreement_with_the_labels_of_iu_xray_is_what_was_measured(radiology_data, part, micro, macro):
    texts, truth = read_studies(radiology_data / "iu_xray", "val", part)
    table = agreement([labels(text) for text in texts], truth)
    assert set(table) == {*IU_XRAY, "micro", "macro"}
    assert table["micro"]["F1"] > micro - 0.03 and table["macro"]["F1"] > macro - 0.03
