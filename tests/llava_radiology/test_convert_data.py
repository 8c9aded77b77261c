"""convert_data.py: the prompt byte for byte, the files it writes, and one clear line for each kind of bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from llava.radiology.annotation import clinical_prompt, convert_annotation, convert_record

ROOT = Path(__file__).resolve().parents[2]
TASK = "<image>\nProvide a detailed description of the findings in the radiology image."


def record(**changes):
    return {"id": "a1", "report": "The lungs are clear.", "image_path": ["p10/s1/image.jpg"]} | changes


def other():
    return record(id="b2", image_path=["p11/s2/image.jpg"])


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def run(*args, cwd=ROOT):
    command = [sys.executable, str(ROOT / "convert_data.py"), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_prompt_of_the_published_example():
    converted = convert_record(record(indication="F with chest pain pna"))
    assert converted == {
        "id": "a1",
        "image": "p10/s1/image.jpg",
        "conversations": [
            {
                "from": "human",
                "value": "<image>\nProvide a detailed description of the findings in the radiology image. "
                "Following clinical context: Indication: F with chest pain pna",
            },
            {"from": "gpt", "value": "The lungs are clear."},
        ],
    }


def test_prompt_joins_all_fields_in_a_fixed_order():
    fields = {"technique": "AP.", "history": "CHF", "comparison": "None", "indication": "Cough ___ XXXX"}
    assert clinical_prompt(fields) == (
        TASK + " Following clinical context: Indication: Cough ___ XXXX Comparison: None History: CHF Technique: AP."
    )


@pytest.mark.parametrize("fields", [{}, {"indication": ""}, {"indication": " \n", "history": None}])
def test_prompt_without_context_ends_after_the_task(fields):
    assert clinical_prompt(fields) == TASK


def test_views_all_repeats_the_image_token():
    images = ["s1/front.jpg", "s1/side.jpg"]
    first = convert_record(record(image_path=images), "first")
    every = convert_record(record(image_path=images), "all")
    assert first["image"] == "s1/front.jpg" and first["conversations"][0]["value"] == TASK
    assert every["image"] == images and every["conversations"][0]["value"] == "<image>\n" + TASK
    assert convert_record(record(), "all")["image"] == ["p10/s1/image.jpg"]


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="'both'.*first, frontal, all"):
        convert_record(record(), "both")


def test_program_writes_the_lists_that_are_there(tmp_path):
    images = ["p1/an image.jpg", "p1/b.jpg"]
    text = "Müde, 38 °C, XXXX, 肺炎"
    annotation = {"train": [record(image_path=images, indication=text)], "val": [record(id="b2")]}
    (tmp_path / "in.json").write_text(json.dumps(annotation, ensure_ascii=False), encoding="utf-8-sig")
    done = run("--annotation", tmp_path / "in.json", "--out_dir", tmp_path / "new folder")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "new folder"
    assert sorted(path.name for path in out.iterdir()) == ["train_llava_llada.json", "val_llava_llada.json"]
    assert read(out / "train_llava_llada.json") == [convert_record(annotation["train"][0])]
    assert read(out / "val_llava_llada.json") == [convert_record(annotation["val"][0])]
    assert text in (out / "train_llava_llada.json").read_text(encoding="utf-8")
    train, val, test, patients = done.stdout.splitlines()
    assert "1 studies, 1 images (1 further images left out" in train and "1 studies, 1 images ->" in val
    assert test == "test: no such list in the annotation"
    assert patients == "2 studies have no subject_id: whether their patients are in two splits is not checked"


def test_program_reads_the_usual_place_by_default(tmp_path):
    (tmp_path / "data/mimic_cxr").mkdir(parents=True)
    write(tmp_path / "data/mimic_cxr/annotation_with_clinic_info.json", {"train": [record()], "test": [other()]})
    done = run("--views", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "data/mimic_cxr/test_llava_llada.json") == [convert_record(other(), "all")]


def test_file_of_an_earlier_run_is_mentioned(tmp_path):
    (tmp_path / "test_llava_llada.json").write_text("earlier")
    summary = convert_annotation(write(tmp_path / "in.json", {"train": [record()]}), tmp_path, "first")
    assert "test_llava_llada.json from an earlier run is left as it was" in summary
    assert (tmp_path / "test_llava_llada.json").read_text() == "earlier"


BAD_ANNOTATIONS = {
    "not JSON": ('{"train": [', "is not JSON"),
    "empty file": ("", "is not JSON"),
    "not UTF-8": ('{"train": "é"}'.encode("latin-1"), "saved as UTF-8?"),
    "not an object": ([record()], "must be an object"),
    "no train list": ({"test": [record()]}, "no train list, only: test"),
    "nothing": ({}, "no train list, only: nothing"),
    "empty list": ({"train": []}, "'train' must be a list with at least one record"),
    "empty test list": ({"train": [record()], "test": []}, "'test' must be a list with at least one record"),
    "train not a list": ({"train": {"a": record()}}, "'train' must be a list"),
    "record not an object": ({"train": [record(), "text"]}, "train[1]: a record must be an object, not str"),
    "no id": ({"train": [{"report": "Clear.", "image_path": ["a.jpg"]}]}, "train[0]: the record has no id"),
    "id not text": ({"train": [record(id=7)]}, "train[0]: the record has no id"),
    "no report": ({"train": [{"id": "x9", "image_path": ["a.jpg"]}]}, "record 'x9' has no report"),
    "blank report": ({"train": [record(report=" \n")]}, "record 'a1' has no report"),
    "report not text": ({"train": [record(report=["Clear."])]}, "record 'a1' has no report"),
    "no image_path": ({"train": [{"id": "x9", "report": "Clear."}]}, "record 'x9' has no image_path"),
    "no images": ({"train": [record(image_path=[])]}, "record 'a1' has no image_path"),
    "image_path not a list": ({"train": [record(image_path="a.jpg")]}, "record 'a1' has no image_path"),
    "blank image": ({"train": [record(image_path=["a.jpg", ""])]}, "record 'a1' has no image_path"),
    "indication not text": ({"train": [record(indication=3)]}, "record 'a1': indication must be text"),
    "impression not text": ({"train": [record(impression=["Clear."])]}, "record 'a1': impression must be text"),
    "unknown target": (
        {"train": [record(target="all")]},
        "target must be one of findings, impression, both, not 'all'",
    ),
    "image token in text": ({"train": [record(history="see <image>")]}, "record 'a1': history contains <image>"),
    "bad record in test": ({"train": [record()], "test": [record(report="")]}, "test[0]: record 'a1' has no report"),
}


@pytest.mark.parametrize("content, problem", BAD_ANNOTATIONS.values(), ids=BAD_ANNOTATIONS.keys())
def test_bad_annotation_is_one_line_and_writes_nothing(tmp_path, content, problem):
    path = tmp_path / "in.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError) as error:
        convert_annotation(path, tmp_path / "out", "first")
    message = str(error.value)
    assert message.startswith(str(path)) and problem in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_missing_annotation_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json: no such annotation file; name it with --annotation"):
        convert_annotation(tmp_path / "absent.json", tmp_path, "first")
    with pytest.raises(ValueError, match="no such annotation file"):
        convert_annotation(tmp_path, tmp_path, "first")


def test_program_prints_one_line_and_keeps_earlier_files(tmp_path):
    (tmp_path / "train_llava_llada.json").write_text("earlier")
    path = write(tmp_path / "in.json", {"train": [record(), record(id="b2", report="")]})
    done = run("--annotation", path, "--out_dir", tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {path}: train[1]: record 'b2' has no report; add its text or take the record out\n"
    assert (tmp_path / "train_llava_llada.json").read_text() == "earlier"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.json", "train_llava_llada.json"]


def test_output_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="out: cannot be written .*choose another --out_dir"):
        convert_annotation(write(tmp_path / "in.json", {"train": [record()]}), tmp_path / "out", "first")
    assert (tmp_path / "out").read_text() == "a file"


def test_failed_write_leaves_every_earlier_file_whole(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / f"{split}_llava_llada.json").write_text("earlier")
    path = write(tmp_path / "in.json", {"train": [record()], "val": [other()]})
    dump = json.dump

    def disk_full_at_val(value, file, **options):
        if "val" in file.name:
            raise OSError(28, "No space left on device", file.name)
        dump(value, file, **options)

    monkeypatch.setattr(json, "dump", disk_full_at_val)
    with pytest.raises(ValueError, match="No space left on device"):
        convert_annotation(path, tmp_path, "first")
    names = ["in.json", "train_llava_llada.json", "val_llava_llada.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert all((tmp_path / name).read_text() == "earlier" for name in names[1:])


def test_images_are_checked_before_anything_is_written(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    Image.linear_gradient("L").resize((32, 32)).save(images / "good image.png")
    (images / "empty.png").write_bytes(b"")
    records = [
        record(id="good", image_path=["good image.png"]),
        record(id="bad", image_path=["empty.png"]),
        record(id="again", image_path=["empty.png"]),
        record(id="gone", image_path=["gone.png"]),
    ]
    path = write(tmp_path / "in.json", {"train": records})
    done = run("--annotation", path, "--out_dir", tmp_path / "out", "--images", images)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"error: 2 of 3 images cannot be used; the first: record 'bad': {images / 'empty.png'}: the image file is empty"
    )
    assert not (tmp_path / "out").exists()

    write(path, {"train": records[:1]})
    done = run("--annotation", path, "--out_dir", tmp_path / "out", "--images", images)
    assert done.returncode == 0, done.stderr


def test_only_the_images_in_use_are_checked(tmp_path):
    Image.linear_gradient("L").resize((32, 32)).save(tmp_path / "front.png")
    path = write(tmp_path / "in.json", {"train": [record(image_path=["front.png", "side.png"])]})
    convert_annotation(path, tmp_path / "out", "first", tmp_path)
    with pytest.raises(ValueError, match="1 of 2 images.*side.png: no such image file"):
        convert_annotation(path, tmp_path / "out", "all", tmp_path)


def test_missing_image_folder_is_named(tmp_path):
    path = write(tmp_path / "in.json", {"train": [record()]})
    with pytest.raises(ValueError, match="nowhere: no such image folder; name it with --images"):
        convert_annotation(path, tmp_path / "out", "first", tmp_path / "nowhere")


def test_a_target_of_an_annotation_leaves_out_the_studies_without_it(tmp_path):
    studies = [record(impression="No acute process."), record(id="b2"), record(id="c3", impression="Normal.")]
    path = write(tmp_path / "in.json", {"train": studies})
    summary = convert_annotation(path, tmp_path / "impression", "first", target="impression")
    assert summary.splitlines()[:3] == [
        f"train: 1 studies, 1 images -> {tmp_path}/impression/train_llava_llada.json",
        "  left out, a report of one word: 1",
        "  left out, no impression: 1",
    ]
    (converted,) = read(tmp_path / "impression" / "train_llava_llada.json")
    assert [turn["value"] for turn in converted["conversations"]] == [
        "<image>\nProvide the impression of the radiology image.",
        "No acute process.",
    ]
    convert_annotation(path, tmp_path / "both", "first", target="both")
    (first, last) = read(tmp_path / "both" / "train_llava_llada.json")
    assert last["conversations"][1]["value"] == "FINDINGS: The lungs are clear. IMPRESSION: Normal."
    assert first["conversations"][0]["value"] == TASK.replace(".", ", then the impression.")
    convert_annotation(path, tmp_path / "findings", "first", target="findings")
    convert_annotation(path, tmp_path / "as it is", "first")
    assert read(tmp_path / "findings" / "train_llava_llada.json") == read(
        tmp_path / "as it is" / "train_llava_llada.json"
    )


def test_frontal_views_of_an_annotation_need_its_views(tmp_path):
    images = {"image_path": ["side.jpg", "front.jpg"], "views": ["LATERAL", "PA"]}
    path = write(tmp_path / "in.json", {"train": [record(**images), record(id="b2", views=["LATERAL"])]})
    summary = convert_annotation(path, tmp_path / "out", "frontal")
    assert "train: 1 studies, 1 images ->" in summary and "left out, no frontal image: 1" in summary
    assert read(tmp_path / "out" / "train_llava_llada.json")[0]["image"] == ["front.jpg"]
    write(path, {"train": [record(**images), record(id="b2")]})
    with pytest.raises(ValueError, match=r"train\[1\]: record 'b2' does not say the view .* use --views first or all"):
        convert_annotation(path, tmp_path / "out", "frontal")


def test_a_release_without_known_views_has_no_frontal_ones(tmp_path):
    """The IU X-Ray of R2Gen names no views."""
    root, out = tmp_path / "iu", tmp_path / "out"
    (root / "images" / "CXR1").mkdir(parents=True)
    names = [f"CXR1/{number}.png" for number in (0, 1)]
    for name in names:
        Image.linear_gradient("L").resize((32, 32)).save(root / "images" / name)
    write(root / "annotation.json", {"train": [{"id": "CXR1_1", "report": "Clear lungs .", "image_path": names}]})
    command = ("--dataset", "iu-xray", "--root", root, "--out_dir", out)
    done = run(*command, "--views", "frontal")
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.splitlines()[-1] == (
        f"error: {root}: no study can be used (train: left out, no image known to be frontal: 1);"
        " check the folders and --views"
    )
    for arguments, images, expected in ((("--views", "all"), 2, names), ((), 1, names[0])):
        done = run(*command, *arguments)
        assert done.returncode == 0, done.stderr
        assert f"train: 1 studies, {images} images" in done.stdout and f"images in {root}/images" in done.stdout
        assert read(out / "train_llava_llada.json")[0]["image"] == expected
    assert run("--dataset", "iu-xray", "--root", root, "--images", root).returncode == 2


def test_an_annotation_of_which_nothing_is_left_is_refused(tmp_path):
    path = write(tmp_path / "in.json", {"train": [record()]})
    with pytest.raises(ValueError, match=r"no study can be used \(train: left out, no impression: 1\)"):
        convert_annotation(path, tmp_path / "out", "first", target="impression")
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
def test_real_annotation_converts_whole(tmp_path, radiology_data):
    folder = radiology_data / "iu_xray"
    path = folder / "annotation_with_clinic_info.json"
    annotation = json.loads(path.read_text(encoding="utf-8"))
    summary = convert_annotation(path, tmp_path, "all", folder / "images")
    assert "train: 2057 studies, 2057 images" in summary and "val: 294 studies, 588 images" in summary
    with_indication = 0
    for split in ("train", "val"):
        converted = read(tmp_path / f"{split}_llava_llada.json")
        assert len(converted) == len(annotation[split])
        for source, result in zip(annotation[split], converted, strict=True):
            human, gpt = result["conversations"]
            assert (result["id"], result["image"], gpt["value"]) == tuple(
                source[field] for field in ("id", "image_path", "report")
            )
            if source["indication"]:
                with_indication += 1
                expected = "<image>\n" * (len(source["image_path"]) - 1) + TASK
                expected += f" Following clinical context: Indication: {source['indication']}"
                expected += f" Comparison: {source['comparison']}" if source["comparison"] else ""
                assert human["value"] == expected
    assert with_indication > 2000


def test_patients_in_two_splits_are_found_in_a_file_and_unknown_ones_counted(tmp_path):
    """As pandas writes an annotation: a column with gaps becomes one of 10000032.0 and NaN."""
    train = [record(subject_id=10000032.0), other() | {"subject_id": float("nan")}]
    test = [record(id="c3", image_path=["c.jpg"], subject_id=float("nan"))]
    splits = {"train": train, "test": test}
    summary = convert_annotation(write(tmp_path / "a.json", splits), tmp_path / "out", "first")
    assert summary.endswith("2 studies have no subject_id: whether their patients are in two splits is not checked")
    splits["test"].append(record(id="d4", image_path=["d.jpg"], subject_id=10000032))
    with pytest.raises(
        ValueError, match="patients .subject_id. in two splits: 1, the first: '10000032' .train, test.;"
    ):
        convert_annotation(write(tmp_path / "b.json", splits), tmp_path / "out", "first")


def test_images_that_show_nothing_are_counted_unless_they_are_allowed(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (32, 32), 70).save(tmp_path / name)
    records = [record(id=name, image_path=[f"{name}.png"]) for name in "ab"]
    path = write(tmp_path / "in.json", {"train": records})
    command = ("--annotation", path, "--out_dir", tmp_path / "out", "--images", tmp_path)
    done = run(*command)
    assert done.returncode == 1 and "error: 2 of 2 images cannot be used; the first: record 'a'" in done.stderr
    assert "the image shows nothing" in done.stderr and not (tmp_path / "out").exists()
    assert run(*command, "--allow_blank_images").returncode == 0
