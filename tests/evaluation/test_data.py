"""The documents of the task: every study, its twin with the images of another one, and the constant report."""

import hashlib
import json

import pytest
from PIL import Image

import report_scores.data
from oracles.report_runs import write_noise_images
from report_scores.data import check_test_set, load_documents, nearest_reports, with_image_tokens


def edit(folder, split: str, change) -> None:
    """Rewrite a LLaVA file with its records changed."""
    file = folder / f"{split}_llava_llada.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def test_each_study_is_followed_by_a_twin_with_other_images_and_its_own_text(data):
    documents, _ = load_documents()
    real, twins = documents[::2], documents[1::2]
    assert [doc["images"] for doc in real] == [["test/study 0.png"], ["test/study 1.png"], ["test/study 2.png"]]
    assert sorted(doc["images"] for doc in twins) == [doc["images"] for doc in real]
    for doc, twin in zip(real, twins, strict=True):
        assert not doc["shuffled"] and twin["shuffled"]
        assert doc["images"] != twin["images"]
        assert (doc["question"], doc["report"]) == (twin["question"], twin["report"])
    assert real[1]["report"] == "Small left effusion. No pneumothorax. Image 1."


def test_a_twin_with_more_images_gets_more_image_tokens(data):
    def with_two_images(records):
        records[0]["image"] = ["test/study 0.png", "train/study 0.png"]
        records[0]["conversations"][0]["value"] = "<image>\n<image>\nDescribe."
        return records

    edit(data, "test", with_two_images)
    documents, _ = load_documents()
    assert sorted(len(twin["images"]) for twin in documents[1::2]) == [1, 1, 2]
    assert documents[1]["question"] == "<image>\nDescribe."  # the twin of the study with two images
    for doc in documents:
        text = doc["question"].removeprefix("<image>\n" * len(doc["images"]))
        assert text != doc["question"] and "<image>" not in text


def test_provenance_names_the_file_by_its_hash(data):
    _, provenance = load_documents()
    file = data / "test_llava_llada.json"
    assert provenance["test_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert provenance["test_studies"] == 3 and provenance["test_file"] == str(file)
    assert provenance["image_folder"] == str(data / "images")
    for split in ("train", "val"):
        content = (data / f"{split}_llava_llada.json").read_bytes()
        assert provenance[f"{split}_sha256"] == hashlib.sha256(content).hexdigest()
    assert "4 reports of val_llava_llada.json" in provenance["constant_report"]


def test_constant_report_is_a_training_report_on_every_document(data):
    documents, provenance = load_documents()
    train = json.loads((data / "train_llava_llada.json").read_text())
    [constant] = {doc["constant_report"] for doc in documents}
    assert constant == provenance["constant_report_text"]
    assert constant in [record["conversations"][1]["value"] for record in train]


def test_without_validation_or_training_file_the_baseline_says_so(data):
    (data / "val_llava_llada.json").unlink()
    documents, provenance = load_documents()
    assert documents[0]["constant_report"] and "held out" in provenance["constant_report"]
    (data / "train_llava_llada.json").unlink()
    documents, provenance = load_documents()
    assert documents[0]["constant_report"] is None
    assert provenance["constant_report"] == f"left out: {data}/train_llava_llada.json does not exist"
    assert provenance["constant_report_text"] is None and "train_sha256" not in provenance


def test_nearest_reports_are_those_of_the_most_similar_training_images(data):
    write_noise_images(data, train=12, test_from=5)
    _, provenance = load_documents()
    where = data / "test_llava_llada.json", data / "images"
    hashes = provenance["test_sha256"], provenance["train_sha256"]
    file = data / "train_llava_llada.json"
    train = [record["conversations"][1]["value"] for record in json.loads(file.read_text())]
    assert nearest_reports(*where, hashes, 3) == train[5:8]
    assert nearest_reports(*where, hashes, 2) == train[5:7]
    with pytest.raises(ValueError, match="test_llava_llada.json: not the file of the scores any more"):
        nearest_reports(*where, ("0" * 64, hashes[1]), 3)
    edit(data, "train", lambda records: records[1:])
    with pytest.raises(ValueError, match="train_llava_llada.json: not the file of the scores any more"):
        nearest_reports(*where, hashes, 1)
    file.unlink()
    with pytest.raises(ValueError, match="train_llava_llada.json: no such file"):
        nearest_reports(*where, hashes, 1)


def test_folders_come_from_the_environment(data, monkeypatch):
    assert report_scores.data.image_folder() == data / "images"
    monkeypatch.setenv("MIMIC_CXR_IMAGES", "/images")
    assert str(report_scores.data.image_folder()) == "/images"
    monkeypatch.delenv("MIMIC_CXR_DATA")
    assert report_scores.data.split_file("test").parts[-3:] == ("data", "mimic_cxr", "test_llava_llada.json")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda records: [], "no list of records"),
        (lambda records: {"test": records}, "no list of records"),
        (lambda records: [records[0], {"id": "x"}], "json, record 1 has no conversation"),
        (lambda records: [records[0] | {"image": 5}], r"json, record 0 \(id 'test-0'\): image must be a path"),
        (lambda records: [records[0] | {"image": []}], r"json, record 0 \(id 'test-0'\) has 0 images for 1 <image>"),
        (lambda records: [records[0] | {"conversations": records[0]["conversations"][::-1]}], "must be a text from"),
        (lambda records: records[:1], "at least 2 records"),
    ],
)
def test_a_file_of_another_form_is_one_line(data, change, message):
    edit(data, "test", change)
    with pytest.raises(ValueError, match=message) as error:
        load_documents()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, message", [(None, "no such file"), (b"[{", "is not JSON"), (b"\xff\xfe", "is not JSON")]
)
def test_a_file_that_cannot_be_read_is_one_line(data, content, message):
    file = data / "test_llava_llada.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=f"test_llava_llada.json:? {message}"):
        load_documents()


def test_a_damaged_image_is_found_before_anything_runs(data):
    images = check_test_set()
    assert list(images) == [f"test/study {index}.png" for index in range(3)] and len(set(images.values())) == 3
    (data / "images" / "test" / "study 1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="test-1.*study 1.png"):
        check_test_set()


@pytest.mark.parametrize(
    "question, num_images, expected",
    [
        ("Describe.", 2, "<image>\n<image>\nDescribe."),
        ("<image>\nDescribe.", 1, "<image>\nDescribe."),
        ("Compare <image> with <image>.", 2, "Compare <image> with <image>."),
        ("<image>\n<image>\nDescribe.", 1, "<image>\nDescribe."),
        ("Describe.", 0, "Describe."),
    ],
)
def test_image_tokens(question, num_images, expected):
    assert with_image_tokens(question, num_images) == expected


def test_what_training_reads_evaluation_reads_in_every_shape(data):
    """JSON Lines, a BOM, `messages`, a system turn, `images`, whole numbers as ids, text-only records."""
    before, _ = load_documents()
    for split in ("train", "test"):
        file = data / f"{split}_llava_llada.json"
        lines = [{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}]
        for number, record in enumerate(json.loads(file.read_text())):
            texts = [turn["value"] for turn in record["conversations"]]
            roles = zip(("system", "user", "assistant"), ["Be brief.", *texts], strict=True)
            messages = [{"role": role, "content": text} for role, text in roles]
            lines.append({"id": number, "images": [record["image"]], "messages": messages})
        file.write_text("\ufeff" + "\n".join(map(json.dumps, lines)), encoding="utf-8")
    after, _ = load_documents()
    assert check_test_set()
    assert [doc | {"system": None} for doc in after] == before and {doc["system"] for doc in after} == {"Be brief."}


def test_a_file_without_images_is_named(data):
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    edit(data, "test", lambda records: [{"conversations": turns}])
    with pytest.raises(ValueError, match="test_llava_llada.json: no record has an image"):
        load_documents()


def test_an_image_that_shows_nothing_is_named_unless_it_is_allowed(data, monkeypatch):
    Image.new("L", (32, 32), 70).save(data / "images/test/study 1.png")
    with pytest.raises(
        ValueError, match="1 of 3 images cannot be used; .* 'test-1': .*study 1.png: the image shows nothing"
    ):
        check_test_set()
    monkeypatch.setenv("ALLOW_BLANK_IMAGES", "1")
    assert len(check_test_set()) == 3
