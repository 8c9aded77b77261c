"""What makes an experiment worthless is refused before anything is written, with its number and first places."""

import pytest
from PIL import Image

from dllm.data.parallel import FEW, map_parallel
from llava.radiology import checks
from llava.radiology.annotation import convert_annotation, read_annotation
from llava.radiology.checks import check_contents, check_images, check_records, without_patient
from llava.radiology.leakage import QUOTE_WORDS, leaks_report

REPORT = "The heart is normal in size and the lungs are clear without effusion."


def study(number, **changes):
    record = {"id": f"s{number}", "subject_id": number, "report": REPORT, "image_path": [f"p{number}/image.png"]}
    return record | changes


def refused(splits):
    with pytest.raises(ValueError) as error:
        check_records(splits)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_sound_experiment_passes():
    same_patient = [study(1), study(2, subject_id=1), study(3, indication="Chest pain. Are the lungs clear?")]
    check_records({"train": same_patient, "val": [study(4)], "test": [study(5, subject_id=None)]})


def test_ids_given_twice():
    splits = {
        "train": [study(1), study(2), study(3)],
        "test": [study(4, id="s2"), study(5, id="s1"), study(6, id="s3")],
    }
    assert refused(splits) == "ids given twice: 3, the first: 's1' and 's2'; give each study its own id"
    assert refused({"train": [study(1), study(1)]}).startswith("ids given twice: 1, the first: 's1';")


def test_patients_in_two_splits_whether_named_by_number_or_text():
    splits = {"train": [study(1), study(2)], "val": [study(3, subject_id="2")], "test": [study(4, subject_id=2)]}
    assert refused(splits) == (
        "patients (subject_id) in two splits: 1, the first: '2' (train, val, test); keep them in one split only"
    )


@pytest.mark.parametrize("other", [10000032.0, "10000032.0", " 10000032", "p10000032", "010000032", 10000032])
def test_a_patient_is_one_however_the_id_is_written(other):
    for first in (10000032, "10000032", 10000032.0):
        splits = {"train": [study(1, subject_id=first)], "test": [study(2, subject_id=other)]}
        assert refused(splits).startswith(
            "patients (subject_id) in two splits: 1, the first: '10000032' (train, test);"
        )
    check_records({"train": [study(1, subject_id=10000033)], "test": [study(2, subject_id=other)]})


UNKNOWN = [float("nan"), "nan", "NaN", None, "", " ", "None", "null", "<NA>"]


def test_an_unknown_patient_is_nobody_and_counted():
    splits = {
        "train": [study(number, subject_id=unknown) for number, unknown in enumerate(UNKNOWN)] + [study(99)],
        "test": [study(100 + number, subject_id=unknown) for number, unknown in enumerate(UNKNOWN)],
    }
    check_records(splits)
    assert without_patient(splits) == 2 * len(UNKNOWN)


def test_images_in_two_splits_however_the_path_is_written():
    splits = {"train": [study(1), study(2)], "test": [study(3, image_path=["other.png", "./p1//image.png"])]}
    assert refused(splits) == (
        "images in two splits: 1, the first: 'p1/image.png' (train, test); keep them in one split only"
    )
    check_records({"train": [study(1), study(2, image_path=["p1/image.png"])]})  # one split may use an image twice


@pytest.mark.parametrize("report", ["Normal.", " Clear \n"])
def test_reports_of_one_word(report):
    splits = {"train": [study(1), study(2, report=report)], "val": [study(3, report=report)]}
    assert refused(splits) == "reports of one word: 2, the first: 's2' and 's3'; take these studies out"


def test_prompts_that_quote_the_report():
    quoted = "PRIOR READING: the HEART is normal, in size - and the lungs"
    splits = {"train": [study(n, history=quoted) for n in range(3)] + [study(9, history="Heart is normal in size.")]}
    assert refused(splits) == (
        "prompts that quote 8 words of their report in a row: 3, the first: 's0' and 's1';"
        " take the report out of the clinical context"
    )


def test_a_quote_is_a_run_of_words_of_one_text():
    words = "one two three four five six seven eight nine ten"
    run = " ".join(words.split()[1 : 1 + QUOTE_WORDS])
    assert leaks_report(words, [run]) and leaks_report(words, ["", f"before, {run}; after"])
    assert not leaks_report(words, [run.rsplit(" ", 1)[0]])
    assert not leaks_report(words, [run.replace("five", "5")])
    first, last = run.split()[:4], run.split()[4:]
    assert not leaks_report(words, [" ".join(first), " ".join(last)])


# Images


@pytest.fixture
def images(tmp_path):
    """Writes an image of its own grey for each name and returns the folder."""

    def write(*names):
        for number, name in enumerate(names):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.linear_gradient("L").resize((32, 32)).point(lambda p, n=number: (p + n) % 256).save(tmp_path / name)
        return tmp_path

    return write


def llava(number, *names):
    return {"id": f"s{number}", "image": list(names) if len(names) > 1 else names[0]}


def test_images_that_cannot_be_used_are_named_with_their_record(images):
    folder = images("a.png", "b.png", "c.png")
    (folder / "b.png").write_bytes(b"")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:50])
    with pytest.raises(ValueError) as error:
        check_images([llava(1, "a.png", "b.png"), llava(2, "b.png"), llava(3, "c.png"), llava(4, "gone.png")], folder)
    message = str(error.value)
    assert message.startswith(
        f"3 of 4 images cannot be used; the first: record 's1': {folder}/b.png: the image file is"
    )
    assert f"; the second: record 's3': {folder}/c.png: the image is truncated" in message and "gone" not in message


def test_images_of_the_same_bytes_in_two_splits(images):
    folder = images("a.png", "b.png", "c.png", "d.png")
    for original, copy in (("a", "A"), ("b", "B")):
        (folder / f"{copy}.png").write_bytes((folder / f"{original}.png").read_bytes())
    splits = {"train": [llava(1, "a.png", "b.png"), llava(2, "B.png")], "test": [llava(3, "c.png"), llava(4, "d.png")]}
    fingerprints = check_images([record for records in splits.values() for record in records], folder)
    check_contents(splits, fingerprints, folder)  # b and B are in one split
    splits["test"].append(llava(5, "A.png"))
    fingerprints |= check_images(splits["test"], folder)
    with pytest.raises(ValueError) as error:
        check_contents(splits, fingerprints, folder)
    assert str(error.value) == (
        "images in two splits under two names: 1, the first: a.png (train) = A.png (test); keep them in one split only"
    )


def test_only_images_of_one_fingerprint_are_read_whole(images, monkeypatch):
    folder = images("a.png", "b.png")
    splits = {"train": [llava(1, "a.png")], "test": [llava(2, "b.png")]}
    same = dict.fromkeys(("a.png", "b.png"), (1, b"the same"))
    check_contents(splits, same, folder)  # read whole, they differ
    monkeypatch.setattr(checks.Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    check_contents(splits, check_images([llava(1, "a.png", "b.png")], folder), folder)


def test_every_process_checks_and_the_order_is_kept(images):
    folder = images(*(f"{number}.png" for number in range(FEW + 40)))
    (folder / f"{FEW + 7}.png").unlink()
    records = [llava(number, f"{number}.png") for number in range(FEW + 40)]
    with pytest.raises(ValueError, match=f"1 of {FEW + 40} images cannot be used; the first: record 's{FEW + 7}'"):
        check_images(records, folder)
    assert list(map_parallel(str, range(3 * FEW), "counting", "number")) == [str(n) for n in range(3 * FEW)]


# Real images and reports


@pytest.mark.real_data
def test_the_real_annotation_is_a_sound_experiment(tmp_path, radiology_data):
    folder = radiology_data / "iu_xray"
    path = folder / "annotation_with_clinic_info.json"
    splits = read_annotation(path)
    check_records(splits)
    convert_annotation(path, tmp_path, "all", folder / "images")
    splits["val"][0]["subject_id"] = splits["train"][5]["subject_id"]
    assert "patients (subject_id) in two splits: 1" in refused(splits)
