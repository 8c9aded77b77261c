"""The documents of the task mimic_cxr: every study of the test set, and after each its twin with shuffled images.

Document 2i is study i, document 2i + 1 has the same text with the images of another study. The pairing is over the
whole test set, so that a limit on the number of documents does not change it. Each document also carries the constant
report, another baseline.
"""

import functools
import os
from pathlib import Path

from dllm.data.files import sha256
from dllm.inference.floors import derangement
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.data.records import image_names, read_records
from llava.radiology.checks import check_images
from llava.radiology.release import SPLITS
from report_scores.baselines import constant_report, nearest_images

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "data" / "mimic_cxr"


def data_folder() -> Path:
    """The folder of the LLaVA files: MIMIC_CXR_DATA, or data/mimic_cxr of the repository."""
    return _from_environment("MIMIC_CXR_DATA", DEFAULT_DATA)


def image_folder() -> Path:
    """The folder of the images: MIMIC_CXR_IMAGES, or images in the data folder."""
    return _from_environment("MIMIC_CXR_IMAGES", data_folder() / "images")


def _from_environment(name: str, default: Path) -> Path:
    if os.environ.get(name) == "":
        raise ValueError(f"{name} is empty; name a folder, or unset it for {default}")
    return Path(os.environ.get(name, default))


def split_file(split: str) -> Path:
    """The LLaVA file of a split (train, val, test)."""
    return data_folder() / f"{split}_llava_llada.json"


def read_llava_file(path: Path) -> list[dict]:
    """Read the records with images, as training does; ValueError with one line: no file, no record with an image, or a
    record that training refuses too.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file; make it with convert_data.py or set MIMIC_CXR_DATA")
    records = [record for record in read_records(str(path)) if image_names(record)]
    if not records:
        raise ValueError(f"{path}: no record has an image")
    return records


def read_studies(path: Path) -> list[dict]:
    """Read a LLaVA file as studies: {"images": [file, ...], "system": text or None, "question": text, "report": text}.
    Of a conversation the first answer is the report.
    """
    studies = []
    for record in read_llava_file(path):
        question, report = (turn["value"] for turn in record["conversations"][:2])
        texts = {"system": record.get("system"), "question": question, "report": report}
        studies.append({"images": image_names(record)} | texts)
    return studies


def check_test_set() -> dict[str, str]:
    """Return the test films by path with the fingerprint of each file (`check_images`) as text.

    Raises ValueError with one line unless the test file is sound and all its images can be used.
    """
    fingerprints = check_images(read_llava_file(split_file("test")), image_folder())
    return {image: f"{size} {sample.hex()}" for image, (size, sample) in fingerprints.items()}


def data_hashes() -> dict[str, str]:
    """Return the SHA-256 of each LLaVA file that is there, as train_sha256, val_sha256 and test_sha256."""
    return {f"{split}_sha256": sha256(split_file(split)) for split in SPLITS if split_file(split).exists()}


def load_documents() -> tuple[list[dict], dict]:
    """Return the documents of the task, and the provenance of the scores: files, their hashes, the constant report.

    A document is a study of `read_studies` with `shuffled` and `constant_report`, which is None when there is no
    training file. Raises ValueError with one line.
    """
    test_file = split_file("test")
    studies = read_studies(test_file)
    constant, choice = _choose_constant_report()
    documents = []
    for study, donor in zip(studies, derangement(len(studies)), strict=True):
        for shuffled, images in ((False, study["images"]), (True, studies[donor]["images"])):
            question = with_image_tokens(study["question"], len(images))
            more = {"images": images, "question": question, "shuffled": shuffled, "constant_report": constant}
            documents.append(study | more)
    provenance = {
        "test_file": str(test_file.absolute()),
        "image_folder": str(image_folder().absolute()),
        "test_studies": len(studies),
        **data_hashes(),
        "constant_report": choice,
        "constant_report_text": constant,
    }
    return documents, provenance


@functools.cache
def nearest_reports(test_file: Path, folder: Path, hashes: tuple[str, str], number: int) -> list[str]:
    """Return for the first studies of the test file the report of the training image most like their first image.

    `hashes` are the SHA-256 of test and training file. Raises ValueError with one line: a file is another one by now or
    missing, an image cannot be read.
    """
    files = test_file, test_file.with_name("train_llava_llada.json")
    test, train = map(read_studies, files)
    for file, scored in zip(files, hashes, strict=True):
        if sha256(file) != scored:
            raise ValueError(f"{file}: not the file of the scores any more; evaluate again")
    images = [[folder / study["images"][0] for study in studies] for studies in (test[:number], train)]
    return [train[index]["report"] for index in nearest_images(*images)]


def with_image_tokens(question: str, num_images: int) -> str:
    """Return the question with one image token per image: as it is if it has them, else with the tokens in front."""
    if question.count(DEFAULT_IMAGE_TOKEN) == num_images:
        return question
    text = question.replace(f"{DEFAULT_IMAGE_TOKEN}\n", "").replace(DEFAULT_IMAGE_TOKEN, "")
    return f"{DEFAULT_IMAGE_TOKEN}\n" * num_images + text


def _choose_constant_report() -> tuple[str | None, str]:
    """Return the constant report, or None without a training file, and one line that says how it was chosen."""
    train_file, val_file = files = split_file("train"), split_file("val")
    if not train_file.exists():
        return None, f"left out: {train_file} does not exist"
    train, val = ([study["report"] for study in read_studies(file)] if file.exists() else [] for file in files)
    chosen_on = f"{len(val)} reports of {val_file.name}" if val else f"reports held out of {train_file.name}"
    return constant_report(train, val), f"best ROUGE_L of a sample of {train_file.name} on {chosen_on}"
