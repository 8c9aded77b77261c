"""The programs of text models: the published system's command lines as they are typed, and what they answer."""

import contextlib
import io
import json
import os
import pty
import re
import runpy
import shlex
import subprocess
import sys
from types import SimpleNamespace

import datasets
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from dllm.core.patterns import NO_PROMPT
from dllm.data.specs import parse_spec
from dllm.inference.command_line import LiveText
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.pipelines.text import DataArguments, PlainDataArguments
from dllm.training.arguments import MDLMConfig, ModelArguments
from dllm.training.command_line import ArgumentParser
from oracles import launchers
from oracles.tiny import CHECKOUT, losses

LLAMA = "examples/llama3/sft.py"
MODELS = {
    "meta-llama/Llama-3.2-1B-Instruct": "llama",
    "google/gemma-2-2b-it": "gemma2",
    "Qwen/Qwen3-0.6B": "qwen3",
}
WORDS = ("heart", "lung", "rib", "bone")
ONE_GPU = """accelerate launch --config_file scripts/accelerate_configs/ddp.yaml --num_processes 1
    examples/llama3/sft.py --lora True --per_device_train_batch_size 4"""
MULTI_GPU = "accelerate launch --config_file scripts/accelerate_configs/{}.yaml examples/llama3/sft.py --lora True"
SLURM = ["--accelerate_config", "fsdp", "--script_path", LLAMA, "--lora", "True"]
FEW = ["--max_steps", "3", "--logging_steps", "1"]
SMALL = ["--block_length", "8", "--gen_length", "16", "--max_seq_length", "128", "--report_to", "none", *FEW]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder like the repository's root, beside tiny models and sets by the names of the published ones."""
    root = tmp_path_factory.mktemp("root")
    for name in ("examples", "scripts", "train", "tests"):
        (root / name).symlink_to(CHECKOUT / name)
    rows = [{"instruction": f"Say {word}.", "input": f"{n} times", "output": word} for n in range(3) for word in WORDS]
    (root / "data/tatsu-lab/alpaca").mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(root / "data/tatsu-lab/alpaca/train.parquet")
    for name, family in MODELS.items():
        torch.manual_seed(0)
        tokenizer = train_tokenizer([row["instruction"] for row in rows], 320, family)
        save_language_model(str(root / "models" / name), tokenizer, 64, 2, family, plain=True)
    return root


@pytest.fixture(scope="module")
def variables(root):
    return {
        "BASE_MODELS_DIR": str(root / "models"),
        "BASE_DATASETS_DIR": str(root / "data"),
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.fixture(scope="module")
def trained(root, variables):
    """The output folder of the published command for one GPU, and its process."""
    command = [*ONE_GPU.split(), *FEW]
    process = subprocess.run(command, cwd=root, env=os.environ | variables, capture_output=True, text=True)
    return root / "exp/llama3_sft", process


@pytest.fixture
def program(root, variables, monkeypatch, capfd):
    """Runs a program of examples/ in this process; returns its status and what it printed."""
    monkeypatch.chdir(root)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def run(path: str, *arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        status = 0
        try:
            runpy.run_path(str(CHECKOUT / "examples" / path), run_name="__main__")
        except SystemExit as exit:
            if isinstance(exit.code, str):
                print(exit.code, file=sys.stderr)
            status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        return SimpleNamespace(status=status, **capfd.readouterr()._asdict())

    return run


def losses_of(out) -> list[float]:
    return losses(json.loads((out / "trainer_state.json").read_text())["log_history"])


def test_the_published_line_for_one_gpu_trains(trained):
    out, process = trained
    assert process.returncode == 0, process.stderr
    assert "train: model written to exp/llama3_sft after 3 steps; 12 samples" in process.stdout
    assert "train: mask token <|reserved_special_token_0|>" in process.stdout
    assert (out / "model.safetensors").is_file() and (out / "lora/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name, kind", [("ddp", "multi_gpu"), ("fsdp", "use_fsdp"), ("deepspeed", "use_deepspeed")])
def test_the_published_lines_for_eight_gpus_say_all_that_accelerate_asks(root, monkeypatch, name, kind):
    monkeypatch.chdir(root)
    line = MULTI_GPU.format(name).split()[2:]
    for arguments, number in ((line, 8), (["--num_processes", "2", *line], 2)):
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
        assert (args.num_processes, args.training_script, args.training_script_args) == (number, LLAMA, line[-2:])
        assert getattr(args, kind) and args.mixed_precision == "no"


@pytest.mark.parametrize("config", ["fsdp", "ddp", "deepspeed"])
def test_the_published_line_for_slurm_trains_on_two_processes_as_on_one(trained, variables, tmp_path, config):
    """The line is of FSDP, for which on CPUs accelerate must be told to ask PyTorch."""
    more = ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "out"), *FEW]
    program = launchers.FSDP_ON_CPU if config == "fsdp" else LLAMA
    arguments = [{LLAMA: program, "fsdp": config}.get(argument, argument) for argument in SLURM]
    process = launchers.run([*arguments, *more], GPU_NUM="2", **variables | {"PROGRAM": LLAMA})
    assert process.returncode == 0, process.stderr
    assert losses_of(tmp_path / "out") == pytest.approx(losses_of(trained[0]), rel=1e-4)


def test_the_lines_of_the_guide_are_understood(monkeypatch, root):
    monkeypatch.chdir(root)
    text = (CHECKOUT / "docs/text.md").read_text().replace("\\\n", " ")
    lines = [shlex.split(line, comments=True)[2:] for line in text.splitlines() if line.startswith("accelerate launch")]
    assert len(lines) == 3
    for line in lines:
        args, _, _ = _validate_launch_command(launch_command_parser().parse_args(line))
        data = PlainDataArguments if args.training_script == "examples/pt.py" else DataArguments
        defaults = {"model_name_or_path": "x", "dataset_args": "x", "output_dir": "x"}
        model_args, data_args, _ = ArgumentParser((ModelArguments, data, MDLMConfig), **defaults).parse(
            args.training_script_args
        )
        assert (root / args.training_script).is_file() and parse_spec(data_args.dataset_args)
        model_args.check()


def test_on_cpus_fsdp_is_refused_in_one_line(program, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    done = program("llama3/sft.py", *SMALL, "--output_dir", str(tmp_path / "out"))
    assert done.status == 1 and "FSDP needs GPUs: on CPUs accelerate would train" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    "path, name, pattern",
    [("gemma2/sft.py", "google/gemma-2-2b-it", "block"), ("qwen3/sft.py", "Qwen/Qwen3-0.6B", "causal_block")],
)
def test_the_other_families_train_and_evaluate(program, tmp_path, path, name, pattern):
    spec = ["--dataset_args", "tatsu-lab/alpaca[train:8,test:2]+tatsu-lab/alpaca[train:2]", "--eval_strategy", "steps"]
    spec += ["--eval_steps", "3", "--attention_pattern", pattern]
    done = program(path, *SMALL, *spec, "--output_dir", str(tmp_path / "out"))
    assert done.status == 0, done.err
    history = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    assert any("eval_loss" in entry for entry in history)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["attention_pattern"]) == (f"a2d-{MODELS[name]}", pattern)


@pytest.mark.parametrize("pattern, canvas", [("block", 16), ("bidirectional", 64)])
def test_plain_text_trains_any_family_and_is_gone_on_with(program, root, tmp_path, pattern, canvas):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"Say {word}. " * 9}) + "\n" for word in WORDS))
    model = root / "models/Qwen/Qwen3-0.6B"
    spec = ["--model_name_or_path", str(model), "--dataset_args", f"{tmp_path / 'texts.jsonl'}", *SMALL]
    more = ["--max_seq_length", "69", "--attention_pattern", pattern, "--output_dir", str(tmp_path / "out")]
    done = program("pt.py", *spec, *more)
    assert done.status == 0, done.err
    assert json.loads((tmp_path / "out/config.json").read_text())["gen_length"] == canvas
    done = program("sample.py", "--model_name_or_path", str(tmp_path / "out"), "--plain", "--prompt", "Say")
    assert done.status == 0 and "answer: " in done.out, done.err


def test_plain_text_is_refused_where_tokens_follow_the_one_before(program, tmp_path):
    spec = ["--model_name_or_path", "none", "--dataset_args", "none", "--output_dir", str(tmp_path / "out")]
    done = program("pt.py", *spec, *SMALL, "--attention_pattern", "causal_block")
    assert done.status == 1 and done.err.splitlines()[-1].endswith(NO_PROMPT), done.err


def test_a_base_model_without_chat_template_trains_on_plain_text_alone(program, root, tmp_path):
    model = tmp_path / "base"
    tokenizer = train_tokenizer(["Say it."], 300, "llama")
    tokenizer.chat_template = None
    save_language_model(str(model), tokenizer, 32, 1, "llama", plain=True)
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "Say it. " * 99}))
    spec = ["--model_name_or_path", str(model), *SMALL, "--output_dir", str(tmp_path / "out")]
    done = program("llama3/sft.py", *spec)
    assert done.status == 1 and "has no chat template" in done.err.splitlines()[-1]
    assert program("pt.py", *spec, "--dataset_args", f"{tmp_path / 'texts.jsonl'}").status == 0


BAD = [
    (
        ["--dataset_args", "tatsu-lab/alpaca[valid:3]"],
        "--dataset_args tatsu-lab/alpaca[valid:...]: its splits are train",
    ),
    (["--dataset_args", "someone/set"], "--dataset_args someone/set is no file or folder here, and the hub cannot be"),
    (["--dataset_args", "empty.json"], "--dataset_args empty.json: train has no rows"),
    (["--dataset_args", "shown.jsonl"], "record '0': it has image, which a text model cannot take"),
    (
        ["--eval_strategy", "epoch"],
        "--eval_strategy: tatsu-lab/alpaca holds no rows out; ask for some, as name[test:100]",
    ),
    (
        ["--max_seq_length", "16"],
        "12 of 12 records left out, which leaves nothing; the first: tatsu-lab/alpaca, record '0'",
    ),
    (
        ["--model_name_or_path", "someone/model"],
        "--model_name_or_path someone/model is no folder here, and the hub does not",
    ),
    (["--model_name_or_path", "exp/none/x"], "--model_name_or_path exp/none/x is no folder"),
    (["--warmup_ratio", "0.1"], "unknown argument --warmup_ratio; --warmup_steps takes a share of all steps"),
    (["--group_by_length", "True"], "unknown argument --group_by_length; --train_sampling_strategy group_by_length"),
    (["--overwrite_output_dir"], "unknown argument --overwrite_output_dir; leave it out"),
    (["--logging-dir=x"], "unknown argument --logging-dir; set the environment variable TENSORBOARD_LOGGING_DIR"),
    (["--load_in_4bit", "True"], "unknown argument --load_in_4bit; leave it out"),
    (["--no_such", "1"], "unknown argument --no_such; --help lists those that there are"),
    (["--r", "x"], "argument --lora_r/--lora-r/--r: invalid int value: 'x'"),
    (["--lora", "True", "--r", "0"], "--lora_r 0, --lora_alpha 16: both must be at least 1"),
    (["--dataset_args", ""], "--dataset_args is empty"),
    (["--attention_pattern", "causal_block", "--mask_prompt_loss", "False"], NO_PROMPT),
]


@pytest.mark.parametrize("arguments, said", BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_a_mistake_is_one_line(program, root, tmp_path, arguments, said):
    (root / "empty.json").write_text("[]")
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (root / "shown.jsonl").write_text(json.dumps({"image": "a.png", "messages": talk}))
    done = program("llama3/sft.py", *SMALL, "--output_dir", str(tmp_path / "out"), *arguments)
    errors = [line for line in done.err.splitlines() if line.startswith("train: error: ")]
    assert done.status == 1 and len(errors) == 1 and said in errors[0], done.err
    assert "Traceback" not in done.err and not (tmp_path / "out/config.json").exists()


def test_rows_held_out_in_vain_and_left_out_ones_are_told(program, root, tmp_path):
    spec = "tatsu-lab/alpaca[test:2]+mixed.jsonl"
    row = {"instruction": "Say it.", "output": "yes <|eot_id|>"}
    (root / "mixed.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row | {'output': 'long ' * 60})}\n")
    done = program("llama3/sft.py", *SMALL, "--dataset_args", spec, "--output_dir", str(tmp_path), "--dry_run", "True")
    assert "2 rows are held out and not read; --eval_strategy epoch evaluates on them" in done.out
    assert "samples               11" in done.out, done.err
    assert f"{spec}: 1 of 12 records left out, or their later answers; the first: {spec}, record '1'" in done.err
    assert f"{spec}: 1 records hold text like a special token, read as text; the first: record '0'" in done.err


def test_help_names_the_arguments(program):
    done = program("llama3/sft.py", "--help")
    assert done.status == 0 and "accelerate launch --config_file" in done.out
    assert all(name in done.out for name in ("--dataset_args", "--max_seq_length", "--lora", "--mask_prompt_loss"))


def test_a_prompt_is_answered_step_by_step_and_a_template_is_filled_in(program, trained):
    model = ["--model_name_or_path", str(trained[0]), "--gen_length", "32"]
    done = program("sample.py", *model, "--prompt", "Say heart.", "--template", "rib ____ bone", "--show_steps")
    assert done.status == 0, done.err
    steps = re.findall(r"^ +\d+ (.*)$", done.out, flags=re.MULTILINE)
    assert 1 <= len(steps) <= 16 and [step.count("·") for step in steps] == list(range(len(steps) - 1, -1, -1))
    assert re.search(r"^answer: rib(.|\n)* bone$", done.out, flags=re.MULTILINE)


def test_a_file_of_prompts_is_answered_once(program, trained, tmp_path):
    (tmp_path / "p.txt").write_text("Say rib.\n\nSay <|eot_id|>\nSay lung.\n")
    line = ["--model_name_or_path", str(trained[0]), "--prompts", str(tmp_path / "p.txt"), "--gen_length", "32"]
    line += ["--batch_size", "2", "--temperature", "0.5"]
    assert program("sample.py", *line, "--out", str(tmp_path / "a.jsonl")).status == 0
    whole = (tmp_path / "a.jsonl").read_text()
    assert [json.loads(text)["id"] for text in whole.splitlines()] == ["0", "1", "2"]
    first, *_ = whole.splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text(first + '{"id": "1", "ans')
    done = program("sample.py", *line, "--out", str(tmp_path / "a.jsonl"))
    assert "3 answers (1 from before)" in done.out and (tmp_path / "a.jsonl").read_text() == whole
    rows = [{"id": "b", "prompt": "Say lung."}, {"prompt": "Say rib.", "template": "x ____"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line[3] = str(tmp_path / "p.jsonl")
    done = program("sample.py", *line, "--out", str(tmp_path / "a.jsonl"))
    assert done.status == 1 and "was written with prompts" in done.err
    assert program("sample.py", *line, "--out", str(tmp_path / "b.jsonl")).status == 0
    found = [json.loads(text) for text in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in found] == ["b", "1"] and found[1]["answer"].startswith("x")


@pytest.mark.parametrize(
    "content, said",
    [
        ('{"prompt": 3}', "p.jsonl, row 0: a row needs a text `prompt`"),
        ('{"text": "a"}', "p.jsonl, row 0: a row needs a text `prompt`"),
        ('{"id": "1", "prompt": "a"}\n{"prompt": "b"}', "p.jsonl, row 1: a second prompt with the id 1"),
        ('[{"prompt"', "p.jsonl"),
        (None, "p.jsonl is no file or folder here"),
    ],
)
def test_prompts_that_cannot_be_read_are_one_line(program, tmp_path, content, said):
    if content:
        (tmp_path / "p.jsonl").write_text(content)
    line = ["--model_name_or_path", "x/y", "--prompts", str(tmp_path / "p.jsonl"), "--out", str(tmp_path / "a.jsonl")]
    done = program("sample.py", *line)
    assert done.status == 1 and said in done.err.splitlines()[-1] and "Traceback" not in done.err
    assert not (tmp_path / "a.jsonl").exists()


def test_a_conversation_goes_on_until_it_is_cleared(program, trained, monkeypatch):
    questions = ["Say rib.", "", "Say rib.", "/clear", "Say rib.", "/exit", "Say lung."]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(questions)))
    done = program("chat.py", "--model_name_or_path", str(trained[0]), "--gen_length", "32")
    assert done.status == 0, done.err
    first, second, third = done.out.strip("\n").split("\n")[-3:]
    assert first == third != second


def test_a_conversation_that_is_too_long_goes_on_after_clear(program, trained, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(["Say rib. " * 900, "Say rib."])))
    done = program("chat.py", "--model_name_or_path", str(trained[0]), "--gen_length", "32")
    error, answer = done.out.strip("\n").split("\n")[-2:]
    assert error.startswith("error: the conversation (/clear begins a new one): a prompt of ") and answer
    done = program("chat.py", "--model_name_or_path", str(trained[0]), "--threshold", "2")
    assert done.status == 1 and "threshold must be in (0, 1]" in done.err


def test_on_a_terminal_the_answer_is_seen_as_it_denoises(trained):
    command = [sys.executable, "examples/chat.py", "--model_name_or_path", str(trained[0]), "--gen_length", "32"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    os.write(ours, b"Say rib.\n/exit\n")
    seen = b""
    with contextlib.suppress(OSError):  # of the terminal, once the process has ended
        while part := os.read(ours, 4096):
            seen += part
    os.close(ours)
    assert process.wait() == 0
    assert b"> " in seen and seen.count(b"\x1b[J") == 33 and "·".encode() in seen


@pytest.mark.parametrize(
    "texts, seen",
    [
        (["abc", "abcdefgh"], "\r\x1b[Jabc\r\x1b[Jabcde\r\nfgh"),
        (["a\nb", "c"], "\r\x1b[Ja\r\nb\r\x1b[1A\x1b[Jc"),
        (["가나다", "\x1b[2Jx"], "\r\x1b[J가나\r\n다\r\x1b[1A\x1b[J [2Jx"),
        (["a\nb\nc\nd"], "\r\x1b[Jb\r\nc\r\nd"),  # a screen of four rows shows the last three
    ],
)
def test_live_text_takes_the_place_of_what_was_shown(monkeypatch, capsys, texts, seen):
    monkeypatch.setenv("COLUMNS", "5")
    monkeypatch.setenv("LINES", "4")
    live = LiveText()
    for text in texts:
        live.show(text)
    assert capsys.readouterr().out == seen
