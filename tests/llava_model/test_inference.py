"""ReportWriter: requests in, reports out, and what it refuses before it writes."""

import json
from dataclasses import replace
from itertools import islice, repeat

import pytest
import torch

from dllm.core.sampler import Generation
from dllm.inference.writer import cut
from llava.data.images import load_image
from llava.inference import Report, ReportWriter, Request, tokens_per_step


@pytest.fixture
def written(writer, request_, monkeypatch):
    """The report that `write` makes of these texts of a canvas, with further arguments."""

    def write(text, **arguments):
        ids = writer.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        generation = Generation(ids, lengths=torch.tensor([7]), steps=torch.tensor([3]), passes=1)

        def denoise(*args):
            yield from ()
            return generation

        monkeypatch.setattr(writer.model, "denoise", denoise)
        (report,) = writer.write([request_], **arguments)
        assert (report.tokens, report.steps) == (7, 3)
        return report.text

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
    lengths, denoise = [], writer.model.denoise

    def spy(*prepared):
        generation = yield from denoise(*prepared)
        lengths.append(generation.ids.shape[1])
        return generation

    monkeypatch.setattr(writer.model, "denoise", spy)
    writer.write([request_])
    writer.write([request_], gen_length=20)
    assert lengths == [48, 20]


def test_on_step_sees_every_step(writer, request_):
    left = []
    writer.write(
        [request_], gen_length=16, block_length=16, gen_steps=4, on_step=lambda _, todo: left.append(int(todo.sum()))
    )
    assert left == [12, 8, 4, 0]


def test_denoise_is_write_step_by_step(writer, request_):
    arguments, states = {"gen_length": 16, "block_length": 8, "threshold": 0.5}, []
    expected = writer.write([request_], on_step=lambda canvas, _: states.append(canvas.tolist()), **arguments)
    steps = writer.denoise([request_], **arguments)
    for state in states:
        assert next(steps).canvas.tolist() == state
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == expected
    with pytest.raises(ValueError, match="unknown generation argument"):
        next(writer.denoise([request_], gen_lenght=10))


def test_a_film_changes_the_report(writer, request_, world):
    other = load_image(world.images / json.loads(world.test.read_text())[1]["image"])
    films = [request_.inputs[0], request_.inputs[0], other]
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
        ({"blank_length": 0}, "blank_length must be a whole number of at least 1, not 0"),
        ({"cache": "fastdllm_dual"}, "cache 'fastdllm_dual' does not fit the attention pattern 'block'"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(writer, request_, monkeypatch, arguments, message):
    monkeypatch.setattr(writer.model, "denoise", None)
    with pytest.raises(ValueError, match=message):
        writer.write([request_], **arguments)
    with pytest.raises(ValueError, match=message):
        writer.parse(arguments)


def test_all_reports_are_those_of_the_requests_one_by_one(writer, request_):
    requests = [replace(request_, seed=seed) for seed in range(5)]
    arguments = {"temperature": 1.0, "gen_length": 16, "stop_strings": ("e",)}
    alone = [writer.write([request], **arguments)[0] for request in requests]
    assert len(set(alone)) == 5 and not any("e" in report.text for report in alone)
    assert list(writer.write_all(requests, 2, **arguments)) == alone


def test_requests_are_taken_a_batch_at_a_time(writer, request_, monkeypatch):
    taken, batches = [], []

    def requests():
        for seed in range(5):
            taken.append(seed)
            yield replace(request_, seed=seed)

    def write(batch, arguments):
        batches.append([request.seed for request in batch])
        return [Report(str(request.seed), 1, 1) for request in batch]

    monkeypatch.setattr(writer, "write_batch", write)
    reports = writer.write_all(requests(), 2)
    assert taken == []
    assert next(reports).text == "0" and taken == [0, 1]
    assert [report.text for report in reports] == ["1", "2", "3", "4"] and batches == [[0, 1], [2, 3], [4]]
    assert len(list(islice(writer.write_all(repeat(request_), 3), 4))) == 4
    assert list(writer.write_all([], 3)) == []


@pytest.mark.parametrize(
    "batch_size, arguments, message",
    [
        (0, {}, "batch_size must be a whole number of at least 1, not 0"),
        (2, {"gen_lenght": 10}, "unknown generation argument 'gen_lenght'"),
        (2, {"blank_length": 2.5}, "blank_length must be a whole number"),
        (2, {"threshold": 0.5, "gen_steps": 4}, "gen_steps and threshold exclude each other"),
    ],
)
def test_arguments_of_all_are_checked_at_the_call(writer, batch_size, arguments, message):
    def requests():
        raise AssertionError("a request was taken")
        yield

    with pytest.raises(ValueError, match=message):
        writer.write_all(requests(), batch_size, **arguments)


def test_tokens_per_step_is_the_ratio_of_the_sums():
    assert tokens_per_step([Report("", 10, 2), Report("", 2, 4)]) == 2.0
    assert tokens_per_step([]) == 0


def test_the_steps_of_a_report_are_counted(writer, request_):
    (report,) = writer.write([request_], gen_length=16, block_length=16, gen_steps=4)
    assert report.steps == 4 and 1 <= report.tokens <= 16


def test_no_requests_no_reports(writer):
    assert writer.write([]) == []


def test_stop_strings_are_no_generation_argument(writer):
    parsed = writer.parse({"stop_strings": ("a",), "gen_length": 5})
    assert parsed.stop_strings == ("a",) and parsed.decoding.gen_length == 5


@pytest.mark.parametrize("question", ["no mark", "<image>\n<image>\ntwo"])
def test_images_and_marks_must_match(writer, request_, question):
    with pytest.raises(ValueError, match=f"1 images for {question.count('<image>')} <image> marks"):
        writer.write([Request(request_.inputs, question)])


def test_unknown_dtype_and_missing_folder_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="unknown dtype 'int8'; known: float32, bfloat16, float16"):
        ReportWriter(folder, dtype="int8")
    with pytest.raises(ValueError, match=f"model folder {tmp_path}/none does not exist"):
        ReportWriter(str(tmp_path / "none"))
