"""A model's own reports as training data: what is written, what is left out, and what a stopped run keeps."""

import contextlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from PIL import Image

from dllm.inference.own_responses import own_responses
from dllm.inference.pace import fastest, paces, set_decoding_defaults, word_pairs
from dllm.inference.results_file import ResultsFile
from llava import distill
from llava.data.dataset import read_records
from llava.data.images import load_image
from llava.inference import Report, ReportWriter, Request
from oracles.tiny import widen


@pytest.fixture(scope="module")
def model_path(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill") / "model"
    parts = world.build(mm_resampler_type="none")
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def own_reports(world, model_path, out, data_path=None, limit=5, batch_size=2):
    return distill.own_reports(
        model_path, str(data_path or world.test), str(world.images), out, limit, batch_size, "cpu", "float32"
    )


def test_answers_become_the_models_own_and_all_else_stays(world, model_path, tmp_path, monkeypatch):
    ended = [Report("The lungs are clear.", 6, 6), Report("No effusion.", 4, 4)]
    endless, empty = Report("and and and", 48, 48), Report("", 1, 1)
    monkeypatch.setattr(ReportWriter, "write_all", lambda *_, **__: iter([ended[0], endless, ended[1], empty]))
    assert own_reports(world, model_path, tmp_path / "own.json", limit=4) == (2, 2)
    records = read_records(str(world.test))
    for record, before, report in zip(
        read_records(str(tmp_path / "own.json")), [records[0], records[2]], ended, strict=True
    ):
        assert record["conversations"][1]["value"] == report.text
        record["conversations"][1]["value"] = before["conversations"][1]["value"]
        assert record == before


def test_the_reports_are_those_of_the_model(world, model_path, tmp_path, monkeypatch):
    monkeypatch.setattr(ResultsFile, "add", recorded := Recorder(ResultsFile.add))
    try:
        own_reports(world, model_path, tmp_path / "own.json")
    except ValueError as error:  # random weights may end none of them
        assert "ended none" in str(error)
    writer = ReportWriter(model_path)
    records = read_records(str(world.test))[:5]
    assert [image for image, _ in recorded.calls] == [record["id"] for record in records]
    for record, (_, report) in zip(records, recorded.calls, strict=True):
        film = load_image(world.images / record["image"])
        assert writer.write([Request([film], record["conversations"][0]["value"])]) == [report]


class Recorder:
    """A method that notes its arguments."""

    def __init__(self, method):
        self.method, self.calls = method, []

    def __get__(self, instance, owner):
        return lambda *arguments: self.calls.append(arguments) or self.method(instance, *arguments)


def test_a_stopped_run_goes_on_with_what_is_missing(world, model_path, tmp_path, monkeypatch):
    out, asked = tmp_path / "own.json", []

    def write_all(_, requests, batch_size, threshold):
        for request in requests:
            asked.append(request.question)
            if len(asked) == 3:
                raise KeyboardInterrupt
            yield Report(f"Report {len(asked)}.", 4, 4)

    monkeypatch.setattr(ReportWriter, "write_all", write_all)
    with pytest.raises(KeyboardInterrupt):
        own_reports(world, model_path, out, limit=4)
    assert not out.exists()
    assert own_reports(world, model_path, out, limit=4) == (4, 0)
    answers = [record["conversations"][1]["value"] for record in read_records(str(out))]
    assert answers == ["Report 1.", "Report 2.", "Report 4.", "Report 5."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.json", "own.json.reports"]


def test_records_that_cannot_be_used_are_named(world, model_path, tmp_path):
    records = read_records(str(world.test))[:2]
    data = tmp_path / "data.json"
    for changed, message in [
        ([records[0], records[1] | {"id": records[0]["id"]}], "two records share an id"),
        ([records[0] | {"conversations": records[0]["conversations"] + [
            {"from": "human", "value": "And?"}, {"from": "gpt", "value": "No."}]}], "record .* has several answers"),
    ]:  # fmt: skip
        data.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            own_reports(world, model_path, tmp_path / "own.json", data)
    done = subprocess.run(
        [sys.executable, "-m", "llava.distill", "--model_path", tmp_path, "--data_path", world.test]
        + ["--image_folder", world.images, "--out", tmp_path / "own.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "config.json is missing" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "own.json").exists()


def test_a_file_of_messages_keeps_its_system_turn(world, model_path, tmp_path, monkeypatch):
    record, asked = json.loads(world.test.read_text())[0], []
    texts = zip(("system", "user", "assistant"), ["Be brief.", "<image>\n<|im_end|>", "A."], strict=True)
    messages = [{"role": role, "content": text} for role, text in texts]
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"id": 1, "images": [record["image"]], "messages": messages}))

    def write_all(self, requests, batch_size, threshold):
        asked.extend(requests)
        return iter([Report("Clear.", 2, 2)])

    monkeypatch.setattr(ReportWriter, "write_all", write_all)
    assert own_reports(world, model_path, tmp_path / "own.json", data) == (1, 0)
    assert (asked[0].system, asked[0].question) == ("Be brief.", "<image>\n<|im_end|>")
    (written,) = read_records(str(tmp_path / "own.json"))
    assert (written["system"], written["conversations"][1]["value"]) == ("Be brief.", "Clear.")


def test_an_image_that_shows_nothing_is_named(world, model_path, tmp_path):
    Image.new("L", (64, 64), 70).save(tmp_path / "grey.png")
    record = json.loads(world.test.read_text())[0] | {"image": str(tmp_path / "grey.png")}
    (tmp_path / "data.json").write_text(json.dumps([record]))
    with pytest.raises(ValueError, match="grey.png: the image shows nothing"):
        own_reports(world, model_path, tmp_path / "own.json", tmp_path / "data.json")


def test_the_measured_threshold_becomes_the_models_default(world, model_path, tmp_path, capsys):
    """And own reports are written one token a step all the same; training forgets it."""
    folder = tmp_path / "model"
    shutil.copytree(model_path, folder)
    program = ["distill", "--model_path", folder, "--data_path", world.test, "--image_folder", world.images]
    with patch.object(sys, "argv", [*map(str, program), "--set_threshold", "--limit", "4", "--device", "cpu"]):
        distill.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("one token a step") and said[1].startswith("threshold 0.9 ")
    threshold = ReportWriter(str(folder)).model.decoding().threshold
    assert (
        said[-1] == f"{folder}: {'one token a step' if threshold is None else f'threshold {threshold}'} is its default"
    )

    set_decoding_defaults(folder, {"threshold": 0.001})
    writer, records = ReportWriter(str(folder)), read_records(str(world.test))[:3]
    to_request = distill.requests_of(str(world.images))
    slow = list(writer.write_all(map(to_request, records), 3, threshold=None))
    assert [each.steps for each in writer.write(list(map(to_request, records)))] != [each.steps for each in slow]
    file = ResultsFile(tmp_path / "own.json.reports", {}, names=("image", "report"))
    with contextlib.suppress(ValueError):  # random weights may end none of them
        own_responses(writer, records, to_request, file, 3)
    assert list(file.results.values()) == slow


class Stub:
    """Writes one text at any pace, but stutters below a threshold of .75."""

    def __init__(self, pattern: str):
        self.diffusion = SimpleNamespace(attention_pattern=pattern)
        self.asked = []

    def write_all(self, requests, batch_size, **arguments):
        self.asked.append(arguments)
        threshold = arguments.get("threshold")
        text = "the heart is is normal" if threshold and threshold < 0.75 else "the heart is normal"
        return [Report(text, 4, 1 if threshold or arguments.get("speculative") else 4) for _ in requests]


def test_a_threshold_is_taken_until_it_costs_quality():
    records = [{"conversations": [{}, {"value": "the heart is normal"}]}] * 2
    found = list(paces(Stub("block"), records, dict, 2))
    assert [pace.arguments for pace in found] == [{"threshold": value} for value in (None, 0.9, 0.8, 0.7)]
    assert fastest(found).arguments == {"threshold": 0.9} and found[0].tokens_per_step == 1.0


def test_a_model_that_can_draft_is_measured_speculatively_beside_blocks_of_1():
    records, writer = [{"conversations": [{}, {"value": "the heart is normal"}]}] * 2, Stub("causal_block")
    assert fastest(list(paces(writer, records, dict, 2))).arguments == {"speculative": True}
    assert writer.asked == [{"threshold": None, "block_length": 1}, {"speculative": True}]


@pytest.mark.parametrize("config", [{}, {"text_config": {}}])
def test_a_default_of_none_is_not_written(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for given, kept in (({"threshold": None, "block_length": 1}, {"block_length": 1}), ({"threshold": None}, None)):
        set_decoding_defaults(tmp_path, given)
        written = json.loads((tmp_path / "config.json").read_text())
        assert written.get("text_config", written)["decoding_defaults"] == kept


def test_words_are_compared_in_pairs():
    assert word_pairs(["a b c"], ["a b d"]) == 0.5 and word_pairs(["", "a"], ["", "b"]) == 0
