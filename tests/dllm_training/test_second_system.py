"""What stands on the floor of dllm without llava: a text model is trained by the program of its users, killed, resumed,
adapted, planned, asked.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dllm.inference.own_responses import own_responses
from dllm.inference.results_file import ResultsFile
from dllm.inference.text import TextRequest
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.pipelines.text import load_writer, sft
from dllm.training.checkpoints import complete_checkpoints
from oracles.forks import completed
from oracles.runs import Run
from oracles.tiny import CHECKOUT, losses
from oracles.tiny import turns as conversation

PROGRAM = CHECKOUT / "examples/qwen3/sft.py"
WORDS = ("heart", "lung", "rib", "bone", "vein", "skin", "nose", "hand")
LORA = ("--lora_enable", "True", "--lora_r", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny language model, and conversations whose answers repeat a word of the question."""
    folder = tmp_path_factory.mktemp("text")
    records = [
        {"id": str(n), "conversations": conversation(f"Say {word} {times} times.", " ".join([word] * times))}
        for n, (word, times) in enumerate((word, times) for word in WORDS for times in (1, 2, 3))
    ]
    (folder / "data.json").write_text(json.dumps(records))
    torch.manual_seed(0)
    texts = [turn["value"] for record in records for turn in record["conversations"]]
    save_language_model(folder / "model", train_tokenizer(texts, 300), hidden_size=64, layers=2)
    return folder


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """Arguments of eight steps with eight samples each, a checkpoint after every second one."""
    line = (
        "--block_length 8 --gen_length 16 --per_device_train_batch_size 8 --max_steps 8 --learning_rate 3e-3 --seed 1"
    )
    line += " --logging_steps 1 --save_strategy steps --save_steps 2 --report_to none"
    paths = ["--model_name_or_path", folder / "model", "--dataset_args", folder / "data.json", "--output_dir", out]
    return [*map(str, paths), *line.split(), *more]


def start(arguments: list[str]) -> subprocess.CompletedProcess:
    return completed(PROGRAM, arguments)


def losses_of(out: Path) -> list[float]:
    return losses(json.loads((out / "trainer_state.json").read_text())["log_history"])


@pytest.fixture
def main(monkeypatch, capsys):
    """Runs the program in this process; returns what it printed, and its status."""

    def run_here(arguments: list[str]) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        status = 0
        try:
            sft(None)
        except SystemExit as exit:
            status = exit.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run_here


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """(the output folder of an undisturbed run, its process)."""
    out = tmp_path_factory.mktemp("whole")
    return out, start(command(folder, out))


def test_it_trains_and_says_so(trained):
    out, process = trained
    assert process.returncode == 0, process.stderr
    assert re.search(rf"train: model written to {out} after 8 steps; 64 samples in ", process.stdout)
    assert losses_of(out)[-1] < 0.7 * losses_of(out)[0]
    assert "tokens/s" in process.stderr and "images/s" not in process.stderr


def test_killed_and_started_again_it_ends_the_same_to_the_bit(folder, trained, tmp_path):
    out, arguments = tmp_path / "out", command(folder, tmp_path / "out")
    run = Run(arguments, 0, tmp_path / "log", program=PROGRAM)
    run.until(lambda: complete_checkpoints(out))
    run.kill()
    assert not (out / "config.json").exists()
    assert "train: resuming from" in start(arguments).stdout
    assert losses_of(out) == losses_of(trained[0])


def test_an_adapter_is_merged_into_a_plain_model(folder, tmp_path, main):
    process = main(command(folder, tmp_path, *LORA))
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "lora/adapter_model.safetensors").is_file()
    before, after = (load_writer(str(path)).model.state_dict() for path in (folder / "model", tmp_path))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(re.match(r"model\.layers\.\d+\.(self_attn|mlp)\.", name) for name in changed)


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder, tmp_path, main):
    process = main(command(folder, tmp_path / "out", "--dry_run", "True", *LORA))
    assert process.returncode == 0, process.stderr
    assert re.search(r"language_model +[\d,]+ +[\d,]+ +0\.003   LoRA of rank 4", process.stdout)
    assert "samples               24" in process.stdout and "images" not in process.stdout
    assert not (tmp_path / "out").exists()


def test_a_mistake_is_one_line(folder, tmp_path, main):
    process = main(command(folder, tmp_path, "--dataset_args", str(tmp_path / "none.json")))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("train: error: --dataset_args")


def test_it_answers_in_batches_as_alone_and_fills_templates(folder, trained):
    writer = load_writer(str(trained[0]))
    requests = [TextRequest([], f"Say {word} {n} times.", seed=n, name=word) for n, word in enumerate(WORDS, start=1)]
    requests[3].template = "rib ____"
    together = list(writer.write_all(requests, 3, temperature=0.5))
    assert together == [writer.write([request], temperature=0.5)[0] for request in requests]
    assert together[3].text.startswith("rib")
    with pytest.raises(ValueError, match="heart: a prompt of .* leaves no room for gen_length 2040"):
        writer.write([requests[0]], gen_length=2040)
    with pytest.raises(ValueError, match="'blank_inputs' is for models that are given more than text"):
        writer.write([requests[0]], cfg_scale=1.0, cfg_against="blank_inputs")


def test_its_own_responses_become_data_and_an_interrupted_run_goes_on(folder, trained, tmp_path, monkeypatch):
    writer, records = load_writer(str(trained[0])), json.loads((folder / "data.json").read_text())[:6]
    monkeypatch.setattr(writer.diffusion, "gen_length", 32)
    asked = []

    def to_request(record: dict) -> TextRequest:
        asked.append(record["id"])
        return TextRequest([], record["conversations"][0]["value"], template="____ rib")  # so that all of them end

    def results() -> ResultsFile:
        return ResultsFile(tmp_path / "own.jsonl", {"model": "m"}, names=("id", "response"))

    whole = own_responses(writer, records, to_request, results(), batch_size=2)
    lines = (tmp_path / "own.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "own.jsonl").write_text("".join(lines[:4]) + lines[4][:9])
    asked.clear()
    assert own_responses(writer, records, to_request, results(), batch_size=2) == whole
    assert asked == ["4", "5"] and len(whole) == 6
    assert all(record["conversations"][0] == records[int(record["id"])]["conversations"][0] for record in whole)


def test_no_line_of_llava_runs(folder, trained):
    code = "import sys; from dllm.pipelines.text import load_writer; from dllm.inference.text import TextRequest\n"
    code += f"load_writer({str(trained[0])!r}).write([TextRequest([], 'Say rib 1 times.')])\n"
    code += "print([name for name in sys.modules if name.split('.')[0] == 'llava'])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout.splitlines()[-1] == "[]", process.stderr
