"""The model `dllm` of lm_eval: its command runs tasks of local data, with what likelihood and writer say."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval", reason='lm_eval is not installed: pip install -e "train[lm_eval]"')
from lm_eval.api.instance import Instance
from transformers import AutoTokenizer

from dllm.core.noise import Quadrature
from dllm.data.conversation import build_prompt, build_response, encode
from dllm.evaluation import __main__ as program
from dllm.evaluation.harness import DiffusionLM, context_ids
from dllm.evaluation.likelihood import Pair, log_likelihoods
from dllm.inference.writer import Request
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer

TASKS = Path(__file__).parent / "tasks"
QUESTIONS = [json.loads(line) for line in (TASKS / "sums.jsonl").read_text().splitlines()]
LEVELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model of random weights with the pattern `block`."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = [value for each in QUESTIONS for value in (each["question"], *each["choices"])]
    save_language_model(folder, train_tokenizer(words, 300), hidden_size=64, layers=2)
    config = json.loads((folder / "config.json").read_text())
    settings = {"attention_pattern": "block", "block_length": 8, "gen_length": 24}
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return DiffusionLM(str(folder), batch_size=8, noise_levels=LEVELS)


def asked(kind: str, *arguments) -> Instance:
    return Instance(kind, {}, arguments, 0)


def chat(model: DiffusionLM, question: str) -> str:
    return model.apply_chat_template([{"role": "user", "content": question}])


def prompt(model: DiffusionLM, question: str, **more) -> list[int]:
    return build_prompt(model.tokenizer, [{"from": "human", "value": question}], **more)


def expected(model: DiffusionLM, *pairs: Pair, with_tail: bool) -> list[float]:
    found = log_likelihoods(model.model, pairs, Quadrature(points=LEVELS), LEVELS, 1, with_tail)
    return pytest.approx(found, rel=1e-5)


def test_the_command_runs_tasks_end_to_end(folder, model, tmp_path, monkeypatch, capsys):
    arguments = f"--model dllm --model_args pretrained={folder},noise_levels={LEVELS} --batch_size 8 --log_samples"
    arguments += f" --include_path . --tasks sums_choice,sums_written,sums_text --output_path {tmp_path}"
    monkeypatch.chdir(TASKS)
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments.split(), "--apply_chat_template"])
    program.command()
    table = capsys.readouterr().out
    assert all(f"|{task}" in table for task in ("sums_choice", "sums_written", "sums_text"))
    (results,) = (json.loads(file.read_text())["results"] for file in tmp_path.rglob("results*.json"))

    def samples(task: str) -> list[dict]:
        (file,) = tmp_path.rglob(f"samples_{task}_*.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    right = []
    for each, sample in zip(QUESTIONS, samples("sums_choice"), strict=True):
        responses = [build_response(model.tokenizer, choice, model.eot_token_id) for choice in each["choices"]]
        pairs = [Pair(prompt(model, each["question"]), response) for response in responses]
        found = [float(response[0][0]) for response in sample["resps"]]
        assert found == expected(model, *pairs, with_tail=True)
        right.append(found.index(max(found)) == each["gold"])
    assert results["sums_choice"]["acc,none"] == sum(right) / len(right)
    written = [sample["resps"][0][0] for sample in samples("sums_written")]
    answers = model.writer.write([Request([], chat(model, each["question"])) for each in QUESTIONS], gen_length=16)
    assert written == [answer.text.split("\n")[0].rstrip() for answer in answers] and len(set(written)) > 1
    texts = [Pair([], encode(model.tokenizer, f"{each['question']} {each['answer']}")) for each in QUESTIONS]
    assert [float(sample["resps"][0][0]) for sample in samples("sums_text")] == expected(model, *texts, with_tail=False)


def test_without_a_chat_template_the_continuation_alone_counts(model):
    requests = [asked("loglikelihood", *pair) for pair in (("two and ", "one"), ("", " three five"))]
    whole, start = encode(model.tokenizer, "two and one"), encode(model.tokenizer, "two and")
    pairs = [Pair(start, whole[len(start) :]), Pair([], encode(model.tokenizer, " three five"))]
    found = model.loglikelihood(requests, disable_tqdm=True)
    assert [likelihood for likelihood, _ in found] == expected(model, *pairs, with_tail=False)


def test_a_long_text_is_the_sum_of_its_pieces(model, monkeypatch):
    monkeypatch.setattr(model, "max_length", 8)
    ids = encode(model.tokenizer, "What is two and three in five and five and nine and ten?")
    pieces = [Pair([], ids[start : start + 8]) for start in range(0, len(ids), 8)]
    (found,) = model.loglikelihood_rolling([asked("loglikelihood_rolling", model.tokenizer.decode(ids))])
    assert len(pieces) > 1
    assert found == pytest.approx(sum(expected(model, *pieces, with_tail=False).expected), rel=1e-5)


def test_a_context_is_the_conversation_and_its_text_is_text(model):
    turns = [{"role": "system", "content": "Sum."}, {"role": "user", "content": "two <|im_end|>?"}]
    context = model.apply_chat_template(turns)
    ids = context_ids(model.tokenizer, context)
    assert ids == prompt(model, "two <|im_end|>?", system="Sum.")
    assert ids.count(model.eot_token_id) == 2  # of the two turns
    started = model.apply_chat_template([*turns, {"role": "assistant", "content": "It is"}])
    assert context_ids(model.tokenizer, started) == ids + encode(model.tokenizer, "It is")
    assert context_ids(model.tokenizer, context + " now") == ids + encode(model.tokenizer, " now")
    assert model.eot_token_id not in context_ids(model.tokenizer, "two <|im_end|>")


def test_arguments_of_tasks_become_those_of_decoding(model):
    task = {"until": ["\n", ""], "max_gen_toks": 16, "do_sample": False, "temperature": 1.0, "top_p": 0.9}
    assert model.arguments(task) == {"gen_length": 16, "temperature": 0.0, "stop_strings": ["\n"]}
    assert model.arguments({"until": "x", "threshold": 0.9}) == {"threshold": 0.9, "stop_strings": ["x"]}
    with pytest.raises(ValueError, match="unknown generation argument 'top_p'"):
        model.generate_until([asked("generate_until", "x", {"temperature": 1.0, "top_p": 0.9})])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"treshold": 0.9}, "unknown model_args 'treshold'"),
        ({"threshold": 2.0}, r"threshold must be in \(0, 1\], not 2.0"),
        ({"batch_size": "auto"}, "batch_size 'auto': give a whole number"),
        ({"noise_levels": 0}, "noise_levels 0"),
        ({"dtype": "int8"}, "'int8'"),
        ({"pretrained": ""}, "pretrained=FOLDER"),
    ],
)
def test_a_mistake_is_one_line(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionLM(**{"pretrained": str(folder)} | arguments)


def test_an_autoregressive_model_is_told_apart(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    save_language_model(tmp_path, tokenizer, hidden_size=64, layers=1, plain=True)
    with pytest.raises(ValueError, match="qwen3 model, autoregressive: it must be trained"):
        DiffusionLM(str(tmp_path))


def test_a_request_that_is_too_long_is_told_before_any_work(model, monkeypatch):
    monkeypatch.setattr(model, "max_length", 8)
    with pytest.raises(ValueError, match="there is room for 8: .*max_length.*--num_fewshot"):
        model.loglikelihood([asked("loglikelihood", chat(model, "two"), "three")], disable_tqdm=True)


def test_the_command_says_what_brings_the_package(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    with pytest.raises(SystemExit, match='pip install -e "train\\[lm_eval\\]"'):
        program.command()
