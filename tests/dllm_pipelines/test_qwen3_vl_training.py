"""Qwen3-VL is trained: the documented example, the program on several processes, data of every shape, and mistakes."""

import functools
import importlib.util
import io
import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from dllm.inference.writer import Request
from dllm.pipelines.qwen3_vl import Qwen3VLForMaskedLM, Qwen3VLProcessor, Qwen3VLTrainer, Qwen3VLWriter
from dllm.pipelines.qwen3_vl import create_qwen3_vl_collator as create_collator
from dllm.pipelines.qwen3_vl.dataset import as_dataset
from dllm.pipelines.qwen3_vl.modeling_qwen3_vl import MERGER, VISION
from dllm.training.arguments import MDLMConfig
from oracles import forks, launchers
from oracles.tiny import CHECKOUT, losses
from oracles.visual import picture, save_tiny

PROGRAM = CHECKOUT / "examples/qwen3_vl/sft.py"
COLOURS = ("red", "green", "blue")
PARTS = [{"type": "image"}, {"type": "text", "text": "What is in it?"}]
FSDP = """import runpy, sys
sys.path[:0] = [{tests!r}]
from oracles.fsdp_on_cpu import PartialState, begin_as_accelerator
PartialState.__init__ = begin_as_accelerator
runpy.run_path({program!r}, run_name="__main__")
"""


def korean_row(number: int, image: dict) -> dict:
    """A row as KoDocumentTableVisualSFT has them, whose contents are JSON."""
    contents = {"user": PARTS, "assistant": [{"type": "text", "text": "red"}]}
    turns = [{"role": role, "content": json.dumps(parts)} for role, parts in contents.items()]
    return {"id": number, "image": image, "conversations": turns, "metadata": {"source": "x"}}


def stored(image) -> dict:
    """An image as `datasets` stores it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def messages(question, answer: str = "red") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def processor(folder):
    return Qwen3VLProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of records with one image, two, or none."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for n in range(8):
        sizes = [[(32, 16)], [(16, 16), (48, 32)], []][n % 3]
        names = [f"{n}_{i}.png" for i in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            picture(size, n).save(root / name)
        rows.append(messages("What is in it?" * (n % 2 + 1), COLOURS[n % 3]) | {"images": names})
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "train.jsonl"


def command(folder: str, data: Path, out: Path, **more) -> list[str]:
    """Three steps with four samples each."""
    values = {
        "model_name_or_path": folder, "dataset_args": data, "image_folder": data.parent, "output_dir": out,
        "block_length": 4, "gen_length": 8, "max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 3e-3,
        "freeze_merger": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 1,
    } | more  # fmt: skip
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


@pytest.fixture
def main(monkeypatch, capsys):
    """Runs the program in this process; returns its status, and what it printed."""

    def run_here(arguments: list[str]) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [str(PROGRAM), *arguments])
        status = 0
        try:
            runpy.run_path(str(PROGRAM), run_name="__main__")
        except SystemExit as exit:
            status = exit.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run_here


def test_the_documented_example_runs_as_written_and_what_it_saves_writes_the_same(folder, tmp_path):
    rows = [messages("What is in it?", colour) | {"image": picture((32, 16), n)} for n, colour in enumerate(COLOURS)]
    text = (CHECKOUT / "docs/qwen3_vl.md").read_text().split("```python\n")[1].split("```")[0]
    args = MDLMConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=3, learning_rate=3e-2,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    names = {"training_args": args, "dataset": rows}
    exec(text.replace("Qwen/Qwen3-VL-2B-Instruct", folder), names)
    trainer = names["trainer"]
    before = Qwen3VLForMaskedLM.from_pretrained(folder).state_dict()
    trainer.save_model(str(tmp_path / "saved"))
    merged = Qwen3VLWriter(str(tmp_path / "saved"))
    changed = {name for name, weight in merged.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(re.search(r"language_model\.layers\.\d\.self_attn\.[qkvo]_proj", name) for name in changed)
    unmerged = Qwen3VLWriter(folder)
    unmerged.model = trainer.model.eval()
    requests = [Request([row["image"]], "What is in it?", seed=n) for n, row in enumerate(rows)]
    arguments = {"gen_length": 32, "temperature": 1.0}
    assert unmerged.write(requests, **arguments) == merged.write(requests, **arguments)
    plain = Qwen3VLWriter(folder)
    plain.diffusion.block_length = merged.diffusion.block_length
    assert plain.write(requests, **arguments) != merged.write(requests, **arguments), "the adapter matters"


@pytest.fixture(scope="module")
def output_of(folder, data, tmp_path_factory):
    """The output folder of a run, each made once: of one process, or of two under one of the ways of sharding."""

    @functools.cache
    def run(name: str) -> Path:
        out = tmp_path_factory.mktemp("run") / "out"
        half = {"per_device_train_batch_size": 2}
        with socket.socket() as free:
            free.bind(("", 0))
            environment = {"GPU_NUM": "2", "MASTER_PORT": str(free.getsockname()[1])}
        if name == "one process":
            result = forks.completed(PROGRAM, command(folder, data, out))
        elif name == "DDP":
            result = launchers.start("ddp", command(folder, data, out, **half), str(PROGRAM), **environment)
        elif name == "FSDP2":
            driver = out.parent / "fsdp.py"
            driver.write_text(FSDP.format(tests=str(CHECKOUT / "tests"), program=str(PROGRAM)))
            result = launchers.start("fsdp", command(folder, data, out, **half), str(driver), **environment)
        else:
            arguments = command(
                folder, data, out, per_device_train_batch_size=1, gradient_accumulation_steps=2,
                deepspeed=CHECKOUT / "train/scripts/zero3.json",
            )  # fmt: skip
            result = forks.completed(PROGRAM, arguments, processes=2)
        assert result.returncode == 0, result.stderr[-3000:]
        return out

    return run


@pytest.mark.parametrize("name", ["DDP", "ZeRO-3", "FSDP2"])
def test_several_processes_learn_what_one_learns(name, output_of, folder):
    """With images of other sizes, of none on some rank, and a merger that learns behind a frozen encoder."""
    histories = [
        losses(json.loads((output_of(run) / "trainer_state.json").read_text())["log_history"])
        for run in (name, "one process")
    ]
    assert histories[0] == pytest.approx(histories[1], rel=0, abs=1e-5) and len(set(histories[1])) == 3
    weights, expected = (
        Qwen3VLForMaskedLM.from_pretrained(str(output_of(run))).state_dict() for run in (name, "one process")
    )
    start = Qwen3VLForMaskedLM.from_pretrained(folder).state_dict()
    for key, weight in weights.items():
        torch.testing.assert_close(weight, expected[key], rtol=0, atol=1e-4, msg=key)
        if key.startswith(VISION):
            assert torch.equal(weight, start[key]), key
        elif key.startswith(MERGER) and key.endswith("weight"):
            assert not torch.equal(weight, start[key]), key


def dataset(rows, processor, folder, **settings):
    model = Qwen3VLForMaskedLM.from_pretrained(folder)
    return as_dataset("rows", rows, processor, model.diffusion, settings.get("max_length", 200), False)


def test_rows_of_every_shape_are_the_same_sample(processor, folder, tmp_path):
    image = picture((32, 16), 0)
    image.save(tmp_path / "a.png")
    korean = korean_row(7, stored(image))
    llava = {
        "image": str(tmp_path / "a.png"),
        "conversations": [{"from": "human", "value": "<image>\nWhat is in it?"}, {"from": "gpt", "value": "red"}],
    }
    rows = [
        messages("What is in it?") | {"image": image},
        messages(PARTS) | {"images": [stored(image)]},
        korean,
        llava,
    ]
    samples = [dataset([row], processor, folder)[0] for row in rows]
    table = datasets.Dataset.from_list([messages("What is in it?") | {"image": stored(image)}])
    samples.append(dataset(table.cast_column("image", datasets.Image()), processor, folder)[0])
    tokenizer, first = processor.tokenizer, samples[0]
    text = tokenizer.decode(first["prompt_ids"])
    assert "user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>What is in it?<|im_end|>" in text
    assert tokenizer.decode(first["response_ids"]) == "red<|im_end|>" and first["num_inputs"] == 2
    for sample in samples[1:]:
        assert sample["prompt_ids"].tolist() == first["prompt_ids"].tolist()
        assert torch.equal(sample["pixel_values"], first["pixel_values"])
        assert sample["image_grid_thw"].tolist() == [[1, 2, 4]]


def test_every_answer_is_a_sample_with_the_images_before_it(processor, folder):
    turns = ["<image>What is in it?", "red", "And in <image>?", "blue"]
    rows = [
        {
            "messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)],
            "images": [picture((32, 16), 0), picture((16, 16), 1)],
        }
    ]
    one, two = dataset(rows, processor, folder)
    assert one["image_grid_thw"].tolist() == [[1, 2, 4]]
    assert two["image_grid_thw"].tolist() == [[1, 2, 4], [1, 2, 2]] and two["num_inputs"] == 3


def test_what_cannot_be_learnt_is_left_out_and_the_first_named(processor, folder, tmp_path, capsys):
    (tmp_path / "no.png").write_text("text")
    good = messages("What is in it?") | {"image": picture((16, 16), 0)}
    bad = {
        "does not open": messages("What?") | {"image": str(tmp_path / "no.png")},
        "tokens leaves no room": messages("What? " * 80) | {"image": picture((16, 16), 0)},
        "2 images for 1 <image> marks": messages("<image>?") | {"images": [picture((16, 16), 0)] * 2},
        "no conversation": {"messages": [], "image": None},
    }
    for reason, row in bad.items():
        found = dataset([row, good], processor, folder)
        assert len(found) == 1 and reason in str(found.left_out[0]) and "record" in str(found.left_out[0])
    with pytest.raises(ValueError, match="leaves nothing; the first: rows, record '0': image .*no.png does not open"):
        dataset([bad["does not open"]], processor, folder)
    path = tmp_path / "cut.png"
    picture((64, 64), 0).save(path)
    path.write_bytes(path.read_bytes()[:2000])  # the header is whole
    with pytest.raises(ValueError, match="rows, record '0': .*cut.png is damaged"):
        dataset([messages("What?") | {"image": str(path)}], processor, folder)[0]


def test_mistakes_are_one_line(main, folder, data, tmp_path, processor):
    lame = tmp_path / "lame"
    Qwen3VLForMaskedLM.from_pretrained(folder).save_pretrained(lame)
    processor.tokenizer.save_pretrained(lame)
    for more, line in {
        ("--model_name_or_path", str(lame)): "preprocessor_config.json is missing",
        ("--mask_prompt_loss", "False"): "mask_prompt_loss False would make targets of the tokens of images",
        ("--max_seq_length", "20"): "8 of 8 records left out, which leaves nothing; the first: .*--max_seq_length 20",
    }.items():
        process = main([*command(folder, data, tmp_path / "out"), *more])
        last = process.stderr.splitlines()[-1]
        assert process.returncode == 1 and last.startswith("train: error: ") and re.search(line, last), last
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_dry_run_tells_what_learns_and_counts_visual_tokens(main, folder, data, tmp_path):
    process = main([*command(folder, data, tmp_path / "out"), "--dry_run", "True", "--lora", "True", "--r", "4"])
    assert process.returncode == 0, process.stderr
    assert re.search(r"language_model +[\d,]+ +[\d,]+ +0\.003   LoRA of rank 4", process.stdout)
    assert re.search(r"visual +[\d,]+ +[\d,]+ +0\.003", process.stdout), "the merger"


def test_the_published_command_line_trains(main, folder, tmp_path, monkeypatch):
    """As it is written, with a tiny model and a few rows in the place of what the hub has under these names."""
    shutil.copytree(folder, tmp_path / "models/Qwen/Qwen3-VL-2B-Instruct")
    monkeypatch.setenv("BASE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("BASE_DATASETS_DIR", str(tmp_path / "data"))
    file = tmp_path / "data/jp1924/KoDocumentTableVisualSFT/train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    table = datasets.Dataset.from_list([korean_row(n, stored(picture((32, 16), n))) for n in range(14)])
    table.cast_column("image", datasets.Image()).to_parquet(file)
    monkeypatch.chdir(tmp_path)
    line = "--dataset_args jp1924/KoDocumentTableVisualSFT[train:10,test:2] --num_train_epochs 1 --lora True"
    process = main([*line.split(), "--per_device_train_batch_size", "1"])
    assert process.returncode == 0, process.stderr
    assert "train: model written to exp/qwen3_vl_sft after 10 steps; 10 samples" in process.stdout
    assert (tmp_path / "exp/qwen3_vl_sft/lora/adapter_model.safetensors").is_file()


def test_the_trainer_refuses_what_does_not_fit(folder, processor, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import TrainingArguments

    args = MDLMConfig(output_dir=str(tmp_path), report_to="none")
    model, rows = Qwen3VLForMaskedLM.from_pretrained(folder), [messages("What?") | {"image": picture((16, 16), 0)}]
    with pytest.raises(ValueError, match="must be an MDLMConfig"):
        Qwen3VLTrainer(model, TrainingArguments(str(tmp_path)), rows, data_collator=create_collator(processor))
    with pytest.raises(ValueError, match="that of create_qwen3_vl_collator"):
        Qwen3VLTrainer(model, args, rows)
    with pytest.raises(ValueError, match="has not both"):
        create_collator(processor.tokenizer)
    beyond = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv"]))
    with pytest.raises(ValueError, match="outside the language model"):
        Qwen3VLTrainer(beyond, args, rows, data_collator=create_collator(processor))


@pytest.mark.parametrize("given", [True, False])
def test_the_check_of_an_installation_passes(given, folder, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("setup_check", CHECKOUT / "scripts/test_qwen3_vl_setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["check", *(["--model_name_or_path", folder] if given else [])])
    module.main()
    printed = capsys.readouterr().out
    assert printed.count("\nok   ") == 5 and printed.startswith("ok   data") and "Qwen3-VL is set up" in printed
