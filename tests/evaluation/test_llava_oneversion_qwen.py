"""The model of the overlay between lmms_eval's requests and ReportWriter, with a writer that writes down its calls and
with a real one.
"""

import json
import shutil
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
from lmms_eval.models import get_model
from lmms_eval.utils import simple_parse_args_string
from PIL import Image

from dllm.core.decoding import Decoding
from llava.inference import Report, ReportWriter
from oracles.tiny import widen

KNOWN = {"gen_length", "temperature", "stop_strings"}


class StubWriter:
    write_all = ReportWriter.write_all

    def __init__(self, model_path, device, dtype):
        self.made_with = (model_path, device, dtype)
        self.batches = []

    def parse(self, gen_kwargs):
        if unknown := set(gen_kwargs) - KNOWN:
            raise ValueError(f"unknown generation argument {unknown}")
        return gen_kwargs

    def write_batch(self, requests, gen_kwargs):
        self.batches.append((requests, gen_kwargs))
        return [Report(f"report {request.seed}", tokens=10, steps=4) for request in requests]


@pytest.fixture
def make_model(monkeypatch):
    monkeypatch.setattr("llava.inference.ReportWriter", StubWriter)

    def make(arguments: str = "pretrained=exp/model", **harness):
        return get_model("llava_oneversion_qwen").create_from_arg_string(arguments, {"batch_size": "2"} | harness)

    return make


def requests_for(model, contexts: list[str], gen_kwargs: dict | list[dict], images: int = 1) -> list:
    """One request per context, whose document has that many images."""
    docs = [{"images": [Image.new("RGB", (8, 8))] * images} for _ in contexts]
    model.task_dict = {"task": {"test": docs}}
    each = gen_kwargs if isinstance(gen_kwargs, list) else [gen_kwargs] * len(contexts)
    return [
        SimpleNamespace(args=(context, kwargs, lambda doc: doc["images"], doc_id, "task", "test"))
        for doc_id, (context, kwargs) in enumerate(zip(contexts, each, strict=True))
    ]


def test_reports_come_in_the_order_of_the_requests_in_batches(make_model):
    model = make_model()
    requests = requests_for(model, ["<image>\nDescribe."] * 5, {"until": [], "gen_length": 64})
    assert model.generate_until(requests[::-1]) == [f"report {doc_id}" for doc_id in (4, 3, 2, 1, 0)]
    assert [[request.seed for request in batch] for batch, _ in model.writer.batches] == [[4, 3], [2, 1], [0]]
    assert all(gen_kwargs == {"gen_length": 64} for _, gen_kwargs in model.writer.batches)


def test_other_arguments_start_another_batch(make_model):
    model = make_model(batch_size="8")
    lengths = [{"gen_length": 64}, {"gen_length": 64}, {"gen_length": 32}]
    assert model.generate_until(requests_for(model, ["Describe."] * 3, lengths)) == ["report 0", "report 1", "report 2"]
    assert [(len(batch), gen_kwargs["gen_length"]) for batch, gen_kwargs in model.writer.batches] == [(2, 64), (1, 32)]


def test_at_the_end_rank_0_says_the_tokens_per_step(make_model, capsys):
    model = make_model()
    model.generate_until(requests_for(model, ["Describe."] * 3, {}))
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "2.50 tokens per step over 3 reports" and said.out == ""
    model._rank = 1
    model.generate_until(requests_for(model, ["Describe."] * 3, {}))
    assert "tokens per step" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms eval") / "model"
    parts = world.build()
    widen(parts[1])
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def load(checkpoint):
    """A model with a real writer that computes in fp64, where ties do not hang on the batch."""

    def load(batch_size: int, more: str = "", path=checkpoint):
        arguments = {"batch_size": str(batch_size), "device": "cpu"}
        model = get_model("llava_oneversion_qwen").create_from_arg_string(f"pretrained={path}{more}", arguments)
        model.writer.model.double()
        return model

    return load


def test_reports_do_not_depend_on_the_batch_size(load):
    contexts = [f"Describe the image{', please' * number}." for number in range(5)]
    gen_kwargs = [{"until": ["e"], "temperature": 0.8, "gen_length": length} for length in (16, 16, 16, 16, 32)]
    reports = {}
    for batch_size in (1, 3):
        model = load(batch_size)
        reports[batch_size] = model.generate_until(requests_for(model, contexts, gen_kwargs))
    assert reports[3] == reports[1] and len(set(reports[1])) == 5
    assert not any("e" in report for report in reports[1])


@pytest.mark.parametrize("rule", ["threshold=0.9", "factor=2"])
def test_arguments_of_the_command_line_reach_the_model_unchanged(load, monkeypatch, rule):
    model = load(2)
    given, denoise = [], model.writer.model.denoise

    def spy(prompt, unconditional, decoding, *more):
        given.append({name: getattr(decoding, name) for name in expected})
        return denoise(prompt, unconditional, replace(decoding, compile=False), *more)

    monkeypatch.setattr(model.writer.model, "denoise", spy)
    name, value = rule.split("=")
    expected = {name: float(value), "cache": "exact", "compile": True, "gen_length": 16}
    arguments = simple_parse_args_string(f"{rule},cache=exact,compile=True,gen_length=16")
    model.generate_until(requests_for(model, ["Describe."] * 3, {"until": []} | arguments))
    assert given == [expected, expected]


@pytest.mark.parametrize("argument", ["cache=fastdllm_dual", "threshold=2", "factor=0", "compile=1"])
def test_impossible_arguments_are_one_line_before_any_work(load, monkeypatch, argument):
    model = load(2)
    monkeypatch.setattr(model.writer.model, "denoise", None)
    with pytest.raises(SystemExit, match=f"error: .*{argument.split('=')[0]}"):
        model.generate_until(requests_for(model, ["Describe."], simple_parse_args_string(argument)))


def count_writing(model, monkeypatch) -> list[int]:
    """The seeds of the requests that the model writes from now on."""
    written, write = [], model.writer.write_batch

    def spy(requests, arguments):
        written.extend(request.seed for request in requests)
        return write(requests, arguments)

    monkeypatch.setattr(model.writer, "write_batch", spy)
    return written


def write(model, part=slice(None)) -> list[str]:
    return model.generate_until(requests_for(model, CONTEXTS, GEN_KWARGS)[part])


CONTEXTS = ["Describe.", "Describe the image.", "What is there?", "And here?"]
GEN_KWARGS = {"until": [], "gen_length": 16, "temperature": 0.7}


def test_finished_reports_are_not_written_again(load, tmp_path, monkeypatch, capsys):
    expected = write(load(1))
    reports = f",reports={tmp_path}/re ports"
    assert write(load(2, reports), slice(3)) == expected[:3]
    [file] = (tmp_path / "re ports").glob("*.jsonl")
    lines = file.read_text().split("\n")
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # the process was killed in the third line

    second = load(2, reports)
    written = count_writing(second, monkeypatch)
    assert write(second, slice(None, None, -1)) == expected[::-1]
    assert written == [3, 2] and "2 of 4 reports are those of an earlier run" in capsys.readouterr().err

    third = load(2, reports)  # what came after the torn line is whole
    written = count_writing(third, monkeypatch)
    assert write(third) == expected and written == []


def test_processes_share_what_an_earlier_number_of_them_finished(load, tmp_path, monkeypatch):
    reports = f",reports={tmp_path}"
    even = write(load(1, reports), slice(0, None, 2))
    other = load(1, reports)
    monkeypatch.setattr(other.finished, "file", open(tmp_path / "rank1.jsonl", "a"))
    odd = write(other, slice(1, None, 2))
    alone = load(1, reports)
    written = count_writing(alone, monkeypatch)
    found = write(alone)
    assert (found[::2], found[1::2], written) == (even, odd, [])


def test_a_report_is_written_again_as_soon_as_anything_differs(load, checkpoint, tmp_path, monkeypatch):
    reports = f",reports={tmp_path}/reports"
    write(load(1, reports), slice(1))
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    config = changed / "preprocessor_config.json"
    config.write_text(config.read_text() + "\n")

    def written(model, contexts=("Describe.",), gen_kwargs=GEN_KWARGS, image=None) -> bool:
        seeds = count_writing(model, monkeypatch)
        requests = requests_for(model, list(contexts), gen_kwargs)[-1:]
        if image is not None:
            model.task_dict["task"]["test"][-1]["images"][0] = image
        model.generate_until(requests)
        return bool(seeds)

    assert not written(load(1, reports))
    assert not written(load(2, reports), gen_kwargs=GEN_KWARGS | {"cfg_scale": 0.0})  # the default by its name
    assert written(load(1, reports), gen_kwargs=GEN_KWARGS | {"gen_length": 32})
    assert written(load(1, reports), gen_kwargs=GEN_KWARGS | {"until": ["."]})
    assert written(load(1, reports), ["Describe it."])
    assert written(load(1, reports), ["Describe."] * 2)  # another index in the test set is another seed
    assert written(load(1, reports), image=Image.new("RGB", (8, 8), (0, 0, 1)))
    assert written(load(1, f"{reports},dtype=bfloat16"))
    assert written(load(1, reports, path=changed))


def test_the_settings_in_use_are_written_down(load, checkpoint, tmp_path):
    model = load(1, f",reports={tmp_path}")
    model.generate_until(requests_for(model, ["Describe."], {"until": ["END"], "temperature": 0.5}))
    settings = json.loads((tmp_path / "settings.json").read_text())
    generation, config = settings["generation"], model.writer.config.text_config
    assert generation["temperature"] == 0.5 and generation["stop_strings"] == ["END"]
    assert generation["gen_length"] == config.gen_length and generation["cache"] in ("none", "exact")
    assert generation.keys() > {field.name for field in fields(Decoding)}
    assert settings["checkpoint"] == str(checkpoint) and "model.safetensors" in settings["checkpoint_files"]
    assert settings["device"] == "cpu" and settings["dtype"] == "float32"
    assert {"git", "versions", "code_sha256", "conv_template"} < settings.keys()


def test_a_folder_that_cannot_be_written_is_one_line(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*file/reports: cannot be written"):
        load(1, f",reports={tmp_path}/file/reports")


@pytest.mark.parametrize("until, expected", [(["\n\n"], ["\n\n"]), ("END", ["END"]), ([], None), (None, None)])
def test_until_becomes_stop_strings(make_model, until, expected):
    model = make_model()
    model.generate_until(requests_for(model, ["Describe."], {"until": until}))
    [(_, gen_kwargs)] = model.writer.batches
    assert gen_kwargs.get("stop_strings") == expected and "until" not in gen_kwargs


def test_image_tokens_are_put_in_front_where_there_are_none(make_model):
    model = make_model()
    model.generate_until(requests_for(model, ["Describe.", "<image> and <image>"], {}, images=2))
    [(batch, _)] = model.writer.batches
    assert [request.question for request in batch] == ["<image>\n<image>\nDescribe.", "<image> and <image>"]
    assert [len(request.inputs) for request in batch] == [2, 2]


def test_nothing_is_generated_before_all_arguments_are_checked(make_model):
    model = make_model(batch_size="1")
    requests = requests_for(model, ["Describe."] * 2, [{"gen_length": 64}, {"gen_lenght": 64}])
    with pytest.raises(SystemExit, match="error: unknown generation argument {'gen_lenght'}"):
        model.generate_until(requests)
    assert model.writer.batches == []


def test_no_requests_no_reports(make_model):
    assert make_model().generate_until([]) == []


def test_model_arguments_reach_the_writer(make_model):
    model = make_model("pretrained=exp/model,conv_template=qwen,dtype=bfloat16", device="cpu")
    assert model.writer.made_with == ("exp/model", "cpu", "bfloat16")
    assert model.device == torch.device("cpu") and model.batch_size == 2


@pytest.mark.parametrize(
    "arguments, harness, message",
    [
        ("pretrained=exp/model,temperature=1", {}, "unknown model_args temperature"),
        (
            "pretrained=exp/model,conv_template=llama_3",
            {},
            r"unknown conversation 'llama_3' \(--version, conv_template\)",
        ),
        ("conv_template=qwen", {}, "pretrained=FOLDER"),
        ("pretrained=exp/model", {"batch_size": "auto"}, "batch_size 'auto'"),
        ("pretrained=exp/model", {"batch_size": "0"}, "batch_size '0'"),
    ],
)
def test_wrong_model_arguments_are_one_line(make_model, arguments, harness, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        make_model(arguments, **harness)


def test_an_incomplete_checkpoint_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=f"error: .*{tmp_path.name}"):
        get_model("llava_oneversion_qwen").create_from_arg_string(f"pretrained={tmp_path}", {"batch_size": "1"})


def test_it_only_generates(make_model):
    model = make_model()
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError):
        model.generate_until_multi_round([])


def test_a_document_brings_its_system_prompt_and_its_text_stays_text(make_model):
    model = make_model()
    (request,) = requests_for(model, ["<image>\n<|im_end|>"], {})
    for doc, system in (({}, None), ({"system": "Be brief."}, "Be brief.")):
        model.task_dict["task"]["test"][0] |= doc
        asked = model.request(request.args)
        assert (asked.system, asked.question) == (system, "<image>\n<|im_end|>")


@pytest.mark.parametrize("name", ["conv_template", "device", "dtype", "reports"])
def test_an_empty_argument_is_named(make_model, name):
    with pytest.raises(SystemExit, match=f"model_args {name} is empty"):
        make_model(f"pretrained=exp/model,{name}=")
