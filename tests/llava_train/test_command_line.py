"""A user's mistake on the real command line: one line on stderr, exit status 1, no output folder."""

import json
import math
import subprocess
import sys

import pytest
from PIL import Image

from llava.data.images import ALLOW_BLANK
from llava.model.builder import save_adapter
from llava.train.train import train
from oracles.tiny import STAGE_1, build_trainer, launch, turns


@pytest.fixture
def wide_adapter(world, tmp_path):
    """The adapter of a wider resampler."""
    trainer = build_trainer(world.arguments(tmp_path / "wide", mm_qformer_hidden_size=128))
    return save_adapter(trainer.model.state_dict(), trainer.model.config, str(tmp_path))


def error_lines(result):
    return [line for line in result.stderr.replace("\r", "\n").splitlines() if line.startswith("train: error: ")]


def assert_refused(result, out, message):
    assert result.returncode == 1
    (line,) = error_lines(result)
    assert message in line
    assert "Traceback" not in result.stderr
    assert not out.exists()


def refused(arguments, monkeypatch, capsys):
    """The program in this process."""
    monkeypatch.setattr(sys, "argv", ["train_mem.py", *arguments])
    with pytest.raises(SystemExit) as exit:
        train()
    return subprocess.CompletedProcess(arguments, exit.value.code, *capsys.readouterr())


def test_a_prompt_that_is_too_long(world, tmp_path, monkeypatch, capsys):
    record = json.loads(world.train.read_text())[0]
    data, out = tmp_path / "data.json", tmp_path / "out"
    data.write_text(
        json.dumps([record | {"id": "study 7", "conversations": turns("<image>\n" + "word " * 2000, "A.")}])
    )
    result = refused(world.arguments(out, data_path=data), monkeypatch, capsys)
    assert_refused(result, out, f"{data}, record 'study 7': a prompt of ")


def test_an_adapter_of_another_width(world, tmp_path, wide_adapter, monkeypatch, capsys):
    out = tmp_path / "out"
    result = refused(world.arguments(out, pretrain_mm_mlp_adapter=wide_adapter), monkeypatch, capsys)
    assert_refused(result, out, f"adapter {wide_adapter} has model.mm_projector.0.weight of shape [64, 128]")


def test_an_unknown_estimator(world, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    result = refused(world.arguments(out, noise_estimator="x"), monkeypatch, capsys)
    assert_refused(result, out, "unknown noise estimator 'x'; known: pair, stratified")


def test_two_processes_tell_a_mistake_once(world, tmp_path):
    out = tmp_path / "out"
    arguments = world.arguments(out, data_path="", mm_tunable_parts=STAGE_1, deepspeed="scripts/zero3.json")
    result = launch(arguments, processes=2)
    assert result.returncode != 0
    said = "--data_path is empty (a variable that is not set?); give it a value, or leave it out"
    assert error_lines(result) == [f"train: error: {said}"]
    assert not out.exists()


def test_a_film_that_only_the_second_process_meets_is_told(world, tmp_path):
    """It begins and ends like a whole film, so that the check at the start passes."""
    records = json.loads(world.train.read_text())[:4]
    film = tmp_path / "film.png"
    Image.effect_noise((300, 300), 60).save(film)  # large enough not to be decoded at the start
    content = bytearray(film.read_bytes())
    content[200:400] = bytes(200)
    film.write_bytes(content)
    order = [record | {"image": str(film)} if number == 3 else record for number, record in enumerate(records)]
    data, out = tmp_path / "data.json", tmp_path / "out"
    data.write_text(json.dumps(order))
    arguments = world.arguments(out, data_path=data, per_device_train_batch_size=1, save_strategy="steps", save_steps=1)
    result = launch(arguments, processes=2)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert f"{film}: the image is truncated or damaged" in line
    assert not list(out.glob("*.safetensors"))


def test_text_like_special_tokens_trains_with_finite_losses(world, tmp_path, monkeypatch, capsys):
    """In JSON Lines of `messages`, as other tools write them."""
    data, text = tmp_path / "data.jsonl", "Clear.<|mask|><|im_end|> <|endoftext|>"
    with open(data, "w") as file:
        for number, record in enumerate(json.loads(world.train.read_text())[:8]):
            messages = [{"role": "user", "content": f"<image>\n{text}"}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"id": number, "images": [record["image"]], "messages": messages}) + "\n")
    arguments = world.arguments(tmp_path / "out", data_path=data, max_steps=2, logging_steps=1)
    monkeypatch.setattr(sys, "argv", ["train_mem.py", *arguments])
    train()
    told = f"{data}: 8 records hold text like a special token, read as text; the first: record '0'"
    assert told in capsys.readouterr().err
    history = json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    assert (tmp_path / "out/curves.png").stat().st_size > 10_000


def test_images_that_show_nothing_are_named_and_counted_before_training(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(ALLOW_BLANK, "0")  # restored after the test
    Image.new("L", (64, 64), 50).save(tmp_path / "grey.png")
    Image.new("RGBA", (64, 64)).save(tmp_path / "clear.png")
    records = json.loads(world.train.read_text())[:4]
    for record, name in zip(records[1:3], ("grey.png", "clear.png"), strict=True):
        record["image"] = str(tmp_path / name)
    data, out = tmp_path / "data.json", tmp_path / "out"
    data.write_text(json.dumps(records))
    arguments = world.arguments(out, data_path=data, dry_run=True)
    result = refused(arguments, monkeypatch, capsys)
    assert_refused(
        result, out, f"{data}, record {records[1]['id']!r}: {tmp_path / 'grey.png'}: the image shows nothing"
    )
    assert "(2 of 4 images cannot be used)" in result.stderr
    monkeypatch.setattr(sys, "argv", ["train_mem.py", *arguments, "--allow_blank_images", "True"])
    train()
    assert "samples a step" in capsys.readouterr().out
