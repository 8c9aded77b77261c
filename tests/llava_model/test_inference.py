"""ReportWriter: requests in, reports out, and what it refuses before it writes."""

import json

import pytest

from llava.data.images import load_image
from llava.inference import ReportWriter, Request, cut
from oracles.tiny import widen


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    parts = world.build(mm_resampler_type="masked_drop")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def writer(folder):
    return ReportWriter(folder)


@pytest.fixture(scope="module")
def request_(world):
    record = json.loads(world.test.read_text())[0]
    return Request([load_image(world.images / record["image"])], record["conversations"][0]["value"])


@pytest.fixture
def written(writer, request_, monkeypatch):
    """The report that `write` makes of these texts of a canvas, with further arguments."""

    def write(text, **arguments):
        ids = writer.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        monkeypatch.setattr(writer.model, "generate", lambda *args, **kwargs: ids)
        (report,) = writer.write([request_], **arguments)
        return report

    return write


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>"])
def test_a_report_is_the_text_before_the_first_stop_token(written, stop):
    assert written(f"The lungs are clear.{stop}<|endoftext|> No effusion.") == "The lungs are clear."
    assert written(f" <think>\n\n</think>\n\nThe lungs are clear. \n{stop}<|im_end|>").endswith("The lungs are clear.")
    assert written("The lungs are clear. No") == "The lungs are clear. No"
    assert written(f"{stop} No effusion.") == ""


def test_a_report_ends_before_the_first_stop_string(written):
    text = "One. Two. Three.<|im_end|>Four."
    assert written(text, stop_strings=("Three", "Two")) == "One."
    assert written(text, stop_strings=("Four",)) == "One. Two. Three."
    assert cut("a b c", ("c", "b")) == "a"
    assert cut("a b c", ()) == "a b c"


def test_settings_of_the_checkpoint_are_the_defaults_and_arguments_replace_them(writer, request_, monkeypatch):
    shapes = []
    generate = writer.model.generate
    monkeypatch.setattr(writer.model, "generate", lambda *a, **k: shapes.append(generate(*a, **k)) or shapes[-1])
    writer.write([request_])
    writer.write([request_], gen_length=20)
    assert [ids.shape[1] for ids in shapes] == [48, 20]


def test_on_step_sees_every_step(writer, request_):
    left = []
    writer.write(
        [request_], gen_length=16, block_length=16, gen_steps=4, on_step=lambda _, todo: left.append(int(todo.sum()))
    )
    assert left == [12, 8, 4, 0]


def test_a_film_changes_the_report(writer, request_, world):
    other = load_image(world.images / json.loads(world.test.read_text())[1]["image"])
    films = [request_.images[0], request_.images[0], other]
    first, again, different = writer.write([Request([film], request_.question) for film in films])
    assert first == again != different


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gen_lenght": 10}, "unknown generation argument 'gen_lenght'; known: gen_length"),
        ({"remasking": "x"}, "unknown remasking 'x'; known: low_confidence, random"),
        ({"gen_length": 0}, "gen_length must be a whole number of at least 1"),
        ({"threshold": 2}, r"threshold must be in \(0, 1\]"),
        ({"temperature": -1}, "temperature must be"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(writer, request_, monkeypatch, arguments, message):
    monkeypatch.setattr(writer.model, "generate", None)
    with pytest.raises(ValueError, match=message):
        writer.write([request_], **arguments)
    with pytest.raises(ValueError, match=message):
        writer.check(arguments)


def test_stop_strings_are_no_generation_argument(writer):
    writer.check({"stop_strings": ("a",), "gen_length": 5})


@pytest.mark.parametrize("question", ["no mark", "<image>\n<image>\ntwo"])
def test_images_and_marks_must_match(writer, request_, question):
    with pytest.raises(ValueError, match=f"1 images for {question.count('<image>')} <image> marks"):
        writer.write([Request(request_.images, question)])


def test_unknown_dtype_and_missing_folder_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="unknown dtype 'int8'; known: float32, bfloat16, float16"):
        ReportWriter(folder, dtype="int8")
    with pytest.raises(ValueError, match=f"model folder {tmp_path}/none does not exist"):
        ReportWriter(str(tmp_path / "none"))
