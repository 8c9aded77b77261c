"""The collection of Indiana University: Open-i's reports and R2Gen's annotation become records; bad input is one line.

The reports are made up, in Open-i's format.
"""

import json
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from llava.data.images import check_image
from llava.radiology.annotation import convert_release
from llava.radiology.iu_xray import image_name, labels_of, read_iu_xray, split_of
from llava.radiology.release import choose_images

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{number}"/>
   <pmcId id="{number}"/>
   <MedlineCitation Owner="Indiana University" Status="supplied by publisher">
      <Article PubModel="Electronic">
         <Journal><JournalIssue><PubDate><Year>2013</Year></PubDate></JournalIssue></Journal>
         <Abstract>
{sections}
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{terms}
      <automatic>Infiltrate</automatic>
   </MeSH>
{images}
</eCitation>
"""
NORMAL = {"FINDINGS": "The lungs are clear.", "IMPRESSION": "Normal chest."}
SPLITS = {"CXR1": "train", "CXR7": "val", "CXR2": "test"}


def write_report(root, number, sections, images=(), terms=("normal",)):
    """Writes the report of a study; without `images` it names two, `CXR<number>_IM-0007-1001` and `-2001`."""
    images = [f"CXR{number}_IM-0007-{image}" for image in (1001, 2001)] if images == () else images
    path = root / "ecgen-radiology" / f"{number}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = REPORT.format(
        number=number,
        sections="\n".join(
            f'<AbstractText Label="{name}">{escape(text)}</AbstractText>' for name, text in sections.items()
        ),
        terms="\n".join(f"      <major>{term}</major>" for term in terms),
        images="\n".join(
            f'   <parentImage id="{image}"><caption>PA and Lateral</caption></parentImage>' for image in images
        ),
    )
    path.write_text(text, encoding="utf-8")
    return path


def write_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").resize((16, 16)).save(root / name)


def write_study(root, number, sections=NORMAL, **options):
    write_report(root, number, sections, **options)
    write_images(root, f"NLMCXR_png/CXR{number}_IM-0007-1001.png", f"NLMCXR_png/CXR{number}_IM-0007-2001.png")


def write_projections(root, *rows):
    lines = ["uid,filename,projection", *rows]
    (root / "indiana_projections.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def records(release):
    return [record for split in release.splits.values() for record in split]


def only(release):
    (record,) = records(release)
    assert not release.left_out
    return record


def test_openi_study_is_read_whole(tmp_path):
    sections = {
        "COMPARISON": "None.",
        "INDICATION": "Cough & fever < XXXX\n days",
        "FINDINGS": "Mild  cardiomegaly. Müller's sign.",
        "IMPRESSION": "No acute disease.",
    }
    terms = ["Cardiomegaly/mild", "Opacity/lung/base/left", " Nodule/lung ", "Pleural Effusion"]
    write_study(tmp_path, 2, sections, terms=terms)
    release = read_iu_xray(tmp_path)
    assert release.images == tmp_path
    assert release.splits == {
        "train": [],
        "val": [],
        "test": [
            {
                "id": "CXR2",
                "study_id": "CXR2",
                "subject_id": "CXR2",
                "findings": "Mild cardiomegaly. Müller's sign.",
                "impression": "No acute disease.",
                "indication": "Cough & fever < XXXX days",
                "history": "",
                "comparison": "None.",
                "technique": "",
                "image_path": ["NLMCXR_png/CXR2_IM-0007-1001.png", "NLMCXR_png/CXR2_IM-0007-2001.png"],
                "views": ["", ""],
                "labels": ["Cardiomegaly", "Effusion", "Nodule"],
                "mesh": ["Cardiomegaly/mild", "Opacity/lung/base/left", "Nodule/lung", "Pleural Effusion"],
            }
        ],
    }
    for image in only(release)["image_path"]:
        check_image(release.images / image)


def test_split_is_a_function_of_the_id_alone(tmp_path):
    for study_id in SPLITS:
        write_study(tmp_path, study_id.removeprefix("CXR"))
    release = read_iu_xray(tmp_path)
    found = {record["study_id"]: split for split in release.splits for record in release.splits[split]}
    assert found == SPLITS
    counts = [sum(split_of(f"CXR{number}") == split for number in range(1, 4001)) for split in release.splits]
    assert sum(counts) == 4000
    for count, share in zip(counts, (0.7, 0.1, 0.2), strict=True):
        assert abs(count / 4000 - share) < 0.02


def test_studies_are_in_the_order_of_their_numbers(tmp_path):
    numbers = [number for number in range(1, 40) if split_of(f"CXR{number}") == "train"]
    for number in reversed(numbers):
        write_study(tmp_path, number)
    assert [record["id"] for record in read_iu_xray(tmp_path).splits["train"]] == [f"CXR{number}" for number in numbers]


def test_projections_say_which_image_is_frontal(tmp_path):
    images = ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001", "CXR1_1_IM-0001-5001"]
    write_report(tmp_path, 1, NORMAL, images=images)
    kaggle = [f"images/images_normalized/1_IM-0001-{image}.dcm.png" for image in (3001, 4001, 5001)]
    write_images(tmp_path, *kaggle)
    write_projections(tmp_path, "1,1_IM-0001-3001.dcm.png,Lateral", "1,1_IM-0001-4001.dcm.png,Frontal")
    record = only(read_iu_xray(tmp_path))
    assert record["image_path"] == [kaggle[1], kaggle[2], kaggle[0]]
    assert record["views"] == ["FRONTAL", "", "LATERAL"]


def test_of_two_kinds_of_a_image_the_png_is_taken_also_from_a_linked_folder(tmp_path):
    write_report(tmp_path / "release", 1, NORMAL, images=["CXR1_IM-0007-1001"])
    write_images(tmp_path / "elsewhere", "1_IM-0007-1001.JPG", "CXR1_IM-0007-1001.png")
    (tmp_path / "release/images").symlink_to(tmp_path / "elsewhere")
    record = only(read_iu_xray(tmp_path / "release"))
    assert record["image_path"] == ["images/CXR1_IM-0007-1001.png"]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001"),
        ("CXR1_1_IM-0001-3001.png", "1_IM-0001-3001"),
        ("CXR2_IM-0652-1001.png", "2_IM-0652-1001"),
        ("2_IM-0652-1001.dcm.png", "2_IM-0652-1001"),
        ("2_IM-0652-1001.dcm", "2_IM-0652-1001"),
        ("CXR12_1_IM-0001-3001", "12_1_IM-0001-3001"),
        ("CXR5_IM-2117-1003002.JPG", "5_IM-2117-1003002"),
    ],
)
def test_image_has_one_name_in_all_copies(name, expected):
    assert image_name(name) == expected


def test_images_of_unknown_view_are_taken_in_the_order_of_the_report(tmp_path):
    write_study(tmp_path, 1)
    release = read_iu_xray(tmp_path)
    images = only(release)["image_path"]
    assert only(choose_images(release, "first"))["image_path"] == images[:1]
    assert only(choose_images(release, "all"))["image_path"] == images
    assert records(choose_images(release, "frontal")) == []


def test_labels_are_what_the_terms_mean():
    assert labels_of(["normal"]) == ["normal"]
    assert labels_of(["Lung/hypoinflation", "No Indexing"]) == []
    assert labels_of(["Pneumothorax/left", "Pulmonary Atelectasis/base/left", "Pneumothorax/right"]) == [
        "Atelectasis",
        "Pneumothorax",
    ]


def test_studies_that_cannot_be_used_are_counted(tmp_path):
    write_study(tmp_path, 1)
    write_report(tmp_path, 3, NORMAL, images=[])
    write_report(tmp_path, 4, NORMAL)
    write_images(tmp_path, "NLMCXR_png/CXR4_IM-0007-1001.png")
    write_study(tmp_path, 5, {"FINDINGS": " \n", "INDICATION": "Pain."})
    write_study(tmp_path, 6, {"IMPRESSION": "Normal chest."})
    release = read_iu_xray(tmp_path)
    assert sorted(record["id"] for record in records(release)) == ["CXR1", "CXR6"]
    assert release.left_out == {
        (split_of("CXR3"), "the report names no image"): 1,
        (split_of("CXR4"), "image file missing"): 1,
        (split_of("CXR5"), "neither findings nor impression"): 1,
    }


HIDDEN = ("ecgen-radiology/._1.xml", "__MACOSX/a/1.xml", "__MACOSX/a/._b.xml", ".ipynb_checkpoints/1.xml", ".DS_Store")


@pytest.mark.parametrize("r2gen_too", [False, True])
def test_hidden_files_are_skipped_and_counted(tmp_path, r2gen_too):
    write_study(tmp_path, 1)
    if r2gen_too:
        (tmp_path / "annotation.json").write_text(json.dumps({"train": [r2gen(1)]}))
        write_images(tmp_path, *(f"images/{name}" for name in r2gen(1)["image_path"]))
    plain = read_iu_xray(tmp_path)
    for name in (*HIDDEN, "NLMCXR_png/._CXR1_IM-0007-1001.png", "._indiana_projections.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    found = read_iu_xray(tmp_path)
    assert plain.notes == () and found.notes == ("7 hidden files (._*, __MACOSX) skipped",)
    assert (found.splits, found.left_out) == (plain.splits, plain.left_out)
    shown = convert_release(choose_images(found, "first"), tmp_path, tmp_path / "out", "first", "findings")
    assert found.notes[0] in shown.splitlines()


def r2gen(number, **changes):
    name = f"CXR{number}_IM-0942"
    study = {"id": name, "report": "The lungs are clear.", "image_path": [f"{name}/0.png", f"{name}/1.png"]}
    return study | {"split": "train"} | changes


def test_r2gen_annotation_keeps_its_split(tmp_path):
    studies = {"train": [r2gen(2384), r2gen(7, report=" ")], "val": [r2gen(8)], "test": [r2gen(9, image_path=[])]}
    (tmp_path / "annotation.json").write_text(json.dumps(studies), encoding="utf-8")
    write_report(tmp_path, 1, NORMAL)  # not read beside R2Gen's annotation
    release = read_iu_xray(tmp_path)
    assert release.images == tmp_path / "images"
    assert release.splits["train"] == [
        {
            "id": "CXR2384_IM-0942",
            "study_id": "CXR2384",
            "subject_id": "CXR2384",
            "findings": "The lungs are clear.",
            **dict.fromkeys(("impression", "indication", "history", "comparison", "technique"), ""),
            "image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"],
            "views": ["", ""],
        }
    ]
    assert [record["id"] for record in release.splits["val"]] == ["CXR8_IM-0942"] and release.splits["test"] == []
    assert release.left_out == {
        ("train", "neither findings nor impression"): 1,
        ("test", "the report names no image"): 1,
    }


def make_no_report(root):
    write_images(root, "CXR1_IM-0007-1001.png")


def make_no_image(root):
    write_report(root, 1, NORMAL)


def make_cut_report(root):
    write_study(root, 1)
    path = root / "ecgen-radiology/1.xml"
    path.write_bytes(path.read_bytes()[:-200])


def make_latin_1_report(root):
    write_study(root, 1, {"FINDINGS": "Müller"})
    path = root / "ecgen-radiology/1.xml"
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))


def make_unknown_encoding(root):
    write_study(root, 1)
    path = root / "ecgen-radiology/1.xml"
    path.write_text(path.read_text(encoding="utf-8").replace('"utf-8"', '"klingon"'), encoding="utf-8")


def make_other_xml(root):
    write_study(root, 1)
    (root / "ecgen-radiology/1.xml").write_text("<article><title>Chest</title></article>")


def make_other_table(root):
    write_study(root, 1)
    (root / "indiana_projections.csv").write_text("uid,file\n1,a.png\n")


def make_short_row(root):
    write_study(root, 1)
    write_projections(root, "1,1_IM-0007-1001.dcm.png")


def make_latin_1_table(root):
    write_study(root, 1)
    (root / "indiana_projections.csv").write_bytes("uid,filename,projection\n1,ü,Frontal\n".encode("latin-1"))


def make_unknown_projection(root):
    write_study(root, 1)
    write_projections(root, "1,1_IM-0007-1001.dcm.png,Oblique")


def make_r2gen_text(root):
    (root / "annotation.json").write_text('{"train": [')


def make_r2gen_study(root):
    (root / "annotation.json").write_text(json.dumps({"train": [r2gen(1), r2gen(2, image_path="0.png")]}))


def make_r2gen_no_object(root):
    (root / "annotation.json").write_text(json.dumps({"train": ["text"]}))


def make_annotation(root):
    make_no_report(root)
    (root / "annotation_with_clinic_info.json").write_text("{}")


BROKEN = [
    (make_no_report, "", "holds neither annotation.json nor XML reports; unpack NLMCXR_reports.tgz there"),
    (make_annotation, "", "give --annotation "),
    (make_no_image, "", "holds no images (.png, .jpg, .jpeg, .dcm); unpack NLMCXR_png.tgz there"),
    (make_cut_report, "ecgen-radiology/1.xml", "the report is cut off or damaged"),
    (make_latin_1_report, "ecgen-radiology/1.xml", "the report is cut off or damaged (not well-formed"),
    (make_unknown_encoding, "ecgen-radiology/1.xml", "the report is cut off or damaged"),
    (make_other_xml, "ecgen-radiology/1.xml", "is no report of Open-i's chest images"),
    (make_other_table, "indiana_projections.csv", "has no column 'filename'; copy it again"),
    (make_short_row, "indiana_projections.csv", "line 2: the line is cut off; copy it again"),
    (make_latin_1_table, "indiana_projections.csv", "cannot be read ('utf-8' codec"),
    (make_unknown_projection, "indiana_projections.csv", "unknown projection 'OBLIQUE', known: Frontal, Lateral"),
    (make_r2gen_text, "annotation.json", "is not JSON"),
    (
        make_r2gen_study,
        "annotation.json",
        "train[1]: a study must have the texts id and report and the list image_path",
    ),
    (make_r2gen_no_object, "annotation.json", "train[0]: a study must have"),
]


@pytest.mark.parametrize("make, name, problem", BROKEN, ids=[make.__name__ for make, *_ in BROKEN])
def test_bad_input_is_one_line_that_names_the_file(tmp_path, make, name, problem):
    make(tmp_path)
    with pytest.raises(ValueError) as error:
        read_iu_xray(tmp_path)
    message = str(error.value)
    assert message.startswith(str(tmp_path / name)) and problem in message and "\n" not in message


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder; name that of the collection with --root"):
        read_iu_xray(tmp_path / "nowhere")


@pytest.mark.real_data
def test_labels_are_those_of_the_real_annotation(radiology_data):
    path = radiology_data / "iu_xray/annotation_with_clinic_info.json"
    studies = [study for split in json.loads(path.read_text(encoding="utf-8")).values() for study in split]
    assert len(studies) == 2351
    differ = [study["id"] for study in studies if set(labels_of(study["mesh"])) != set(study["labels"])]
    assert differ == []
