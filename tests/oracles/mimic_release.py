"""The chest phantom as a release of MIMIC-CXR: reports, JPEG images and tables as PhysioNet ships them, with all that
makes the real ones hard to read.

    python tests/oracles/mimic_release.py --out exp/phantom_mimic --train 30 --val 6 --test 6 --seed 0 --size 128

The numbers are patients, each with one to three studies, whose reports take the forms SHAPES in turn and whose images
those of IMAGES. Every split also gets one study of each of CASES, of a patient of its own: the studies that a reader of
the release must leave out, but for the last. An image that cannot be read is none of them: it is an error, not a case.
"""

import csv
import gzip
import hashlib
import io
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dllm.program import run_program
from llava.phantom.generate import JPEG_QUALITY, SPLITS, Study, check_request, main, make_study, render
from llava.phantom.report import write_caption

BANNER = f"{'_' * 60}\n{'FINAL REPORT':^60}\n\n"
SHAPES = {
    "headed": "EXAMINATION: CHEST (PA AND LAT)\n\nINDICATION: {indication}\n\nTECHNIQUE: {technique}\n\n"
    "COMPARISON: {comparison}\n\nFINDINGS:\n\n{findings}\n\nIMPRESSION:\n\n{impression}",
    "wet read": f"WET READ: ___ ___ 9:10 AM\nNo change.\n{BANNER}"
    "CLINICAL HISTORY: {history}\n\nCOMPARISON: {comparison}\n\nFINDINGS: {findings}\n\nIMPRESSION: {impression}",
    "small letters": "Reason for examination: {indication}\n\nComparison: {comparison}\n\n"
    "Findings: {findings}\n\nImpression: {impression}",
    "joined": "INDICATION: {indication}\n\nFINDINGS AND IMPRESSION: {findings}",
    "headed by the views": "HISTORY: {history}\n\nPA AND LATERAL VIEWS OF THE CHEST: {findings}\n\n"
    "IMPRESSION: {impression}",
    "no impression": "INDICATION: {indication}\n\nFINDINGS: {findings}",
    "no headings": "{findings}",
    "one paragraph": "INDICATION: {indication} COMPARISON: {comparison} FINDINGS: {findings} IMPRESSION: {impression}",
    "addendum": f"ADDENDUM: The earlier image was not at hand.\n{BANNER}"
    "INDICATION: {indication}\n\nFINDINGS: {findings}\n\nIMPRESSION: {impression}",
}
IMAGES = (("PA", "LATERAL"), ("AP",), ("LATERAL", "PA", "AP"), ("PA", "LL"))
LATERAL_VIEWS = ("LATERAL", "LL")


@dataclass(frozen=True)
class Case:
    """A study as the release has it: its report (None: no file), the views of its images, and what is not there."""

    report: str | None
    views: tuple[str, ...] = ("PA",)
    absent: tuple[str, ...] = ()  # views whose image files are missing
    in_metadata: bool = True


CASES = {
    "no report file": Case(None),
    "empty report file": Case("\n \n"),
    "impression only": Case("INDICATION: {indication}\n\nIMPRESSION: {impression}"),
    "one word": Case("INDICATION: {indication}\n\nFINDINGS: Normal.\n\nIMPRESSION: {impression}"),
    "quoted": Case("HISTORY: Read before: {findings}\n\nFINDINGS: {findings}\n\nIMPRESSION: {impression}"),
    "lateral image only": Case(SHAPES["headed"], ("LATERAL",)),
    "unknown view": Case(SHAPES["headed"], ("",)),
    "image missing": Case(SHAPES["headed"], ("PA", "LATERAL"), absent=("PA",)),
    "not in the metadata": Case(SHAPES["headed"], in_metadata=False),
    "lateral image missing": Case(SHAPES["headed"], ("PA", "LATERAL"), absent=("LATERAL",)),
}

PUBLISHED_SPLITS = {"train": "train", "val": "validate", "test": "test"}
UNKNOWN_CONTEXT = {"indication": "M with cough", "comparison": "None.", "history": "Smoker.", "technique": "PA image."}
STUDIES_PER_PATIENT = (1, 2, 3)
OTHER_EXPOSURE = 1_000_000  # added to the number of a study: the same findings on an image of other noise

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
).split(",")
LABELS = {
    "Atelectasis": ("atelectasis",),
    "Cardiomegaly": ("cardiomegaly",),
    "Consolidation": ("consolidation",),
    "Edema": ("edema",),
    "Enlarged Cardiomediastinum": (),
    "Fracture": (),
    "Lung Lesion": ("nodule",),
    "Lung Opacity": (),
    "No Finding": (),
    "Pleural Effusion": ("effusion",),
    "Pleural Other": (),
    "Pneumonia": (),
    "Pneumothorax": ("pneumothorax",),
    "Support Devices": ("pacemaker", "line", "tube"),
}


@dataclass(frozen=True)
class Entry:
    """A study of the release with the case that it is, or the shape of its report."""

    study: Study
    name: str
    case: Case

    @property
    def folder(self) -> str:
        """Folder of the images below files/; the report is beside it."""
        return self.study.image_path.rpartition("/")[0]

    def images(self) -> dict[str, str]:
        """View of each image by its DICOM id; the study's own id is that of the first."""
        ids = [self.study.dicom_id, *(_dicom_id(self.study.dicom_id, n) for n in range(1, len(self.case.views)))]
        return dict(zip(ids, self.case.views, strict=True))

    def report(self) -> str | None:
        """The text of the report file, wrapped and indented as in MIMIC-CXR."""
        if self.case.report is None:
            return None
        study = self.study
        context = UNKNOWN_CONTEXT | {name: text for name, text in study.context.items() if text}
        text = self.case.report.format(findings=study.report, impression=write_impression(study), **context)
        wrap = textwrap.TextWrapper(76, initial_indent=" ", subsequent_indent=" ")
        return "\n".join(wrap.fill(line) for line in text.splitlines()) + "\n"


def write_impression(study: Study) -> str:
    """The impression of a study: its findings, in one sentence."""
    if not study.findings:
        return "No acute cardiopulmonary process."
    return f"Image with {write_caption(study.findings)}."


def entries(split: str, patients: int, seed: int) -> list[Entry]:
    """The studies of a split, those of the patients and then one for each of CASES; none if there are no patients."""
    if patients == 0:
        return []
    found, shapes = [], list(SHAPES)
    for patient in range(patients):
        subject_id = make_study(seed, split, len(found)).subject_id
        for _ in range(STUDIES_PER_PATIENT[patient % len(STUDIES_PER_PATIENT)]):
            number = len(found)
            name, views = shapes[number % len(shapes)], IMAGES[number % len(IMAGES)]
            study = replace(make_study(seed, split, number), subject_id=subject_id)
            found.append(Entry(study, name, Case(SHAPES[name], views)))
    return found + [Entry(make_study(seed, split, len(found) + n), *case) for n, case in enumerate(CASES.items())]


def write_mimic_release(out: str | Path, patients: Mapping[str, int], seed: int, size_px: int) -> Path:
    """Writes the release to `out`, its split file last, and returns `out`.

    Args:
        out: the folder to write.
        patients: number of patients for each of train, val and test. A split with 0 is left out.
        seed: seed of the release, 0 or more.
        size_px: width and height of a frontal image.

    Raises:
        ValueError: a number, the seed or the size is out of range, or `out` already holds a release.
    """
    check_request(patients, seed, size_px)
    out = Path(out)
    split_file = out / "mimic-cxr-2.0.0-split.csv.gz"
    if split_file.exists():
        raise ValueError(f"{split_file} is there already: remove the folder or choose another --out")
    studies = [entry for split in SPLITS for entry in entries(split, patients.get(split, 0), seed)]
    for entry in tqdm(studies, desc="phantom studies", unit="study"):
        _write_study(out / "files" / entry.folder, entry, size_px)
    images = [(entry, dicom_id, view) for entry in studies for dicom_id, view in entry.images().items()]
    listed = [image for image in images if image[0].case.in_metadata]
    _write_table(out / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA, [_metadata(*image, size_px) for image in listed])
    labelled = [_labels(entry.study) for entry in studies]
    _write_table(out / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *LABELS], labelled)
    rows = [_split_row(entry.study, dicom_id) for entry in studies for dicom_id in sorted(entry.images())]
    _write_table(split_file, ["dicom_id", "study_id", "subject_id", "split"], rows)
    return out


def _write_study(folder: Path, entry: Entry, size_px: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (report := entry.report()) is not None:
        folder.with_name(f"{folder.name}.txt").write_text(report, encoding="utf-8")
    for number, (dicom_id, view) in enumerate(entry.images().items()):
        if view not in entry.case.absent:
            image = _image(entry.study, number, view in LATERAL_VIEWS, size_px)
            Image.fromarray(image).save(folder / f"{dicom_id}.jpg", quality=JPEG_QUALITY)


def _image(study: Study, number: int, lateral: bool, size_px: int) -> np.ndarray:
    """Image `number` of a study, uint8 [size_px, size_px or less]. On a lateral image one lung lies over the other."""
    image = render(replace(study, number=study.number + OTHER_EXPOSURE * number), size_px)
    if not lateral:
        return image
    overlaid = (image.astype(np.float32) + image[:, ::-1]) / 2
    return overlaid[:, size_px // 8 : -size_px // 8].astype(np.uint8)


def _dicom_id(first: str, number: int) -> str:
    digest = hashlib.blake2b(f"{first} {number}".encode(), digest_size=20).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def _metadata(entry: Entry, dicom_id: str, view: str, size_px: int) -> list:
    study, number = entry.study, entry.study.number
    procedure = "CHEST (PORTABLE AP)" if entry.case.views == ("AP",) else "CHEST (PA AND LAT)"
    width = size_px - 2 * (size_px // 8) if view in LATERAL_VIEWS else size_px
    meaning = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral", "": ""}
    date, time = 21800101 + 100 * (number % 12), f"{80000 + number % 60}.125"
    ids = (dicom_id, study.subject_id, study.study_id)
    return [*ids, procedure, view, size_px, width, date, time, procedure, meaning[view], "Erect"]


def _split_row(study: Study, dicom_id: str) -> tuple:
    return dicom_id, study.study_id, study.subject_id, PUBLISHED_SPLITS[study.split]


def _labels(study: Study) -> list:
    """1.0 for what is on the image, 0.0 for a pneumothorax that is not, -1.0 (uncertain) for pneumonia."""
    names = {finding.name for finding in study.findings}
    values = {label: "1.0" if names & set(found) else "" for label, found in LABELS.items()}
    values["Pneumothorax"] = values["Pneumothorax"] or "0.0"
    values["Pneumonia"] = "-1.0" if "consolidation" in names else ""
    values["No Finding"] = "" if names - set(LABELS["Support Devices"]) else "1.0"
    return [study.subject_id, study.study_id, *values.values()]


def _write_table(path: Path, columns: list[str], rows: list) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


if __name__ == "__main__":
    run_program(partial(main, "Write the chest phantom as MIMIC-CXR is shipped.", "patients", write_mimic_release))
