"""Kind 6: a checkpoint whose files are not those that were written is told, and the one before it is gone on from."""

import os
import shutil

import pytest

from dllm.training.checkpoints import COMPLETE, newest_whole_checkpoint
from faults.checkpoints import arguments, start
from oracles.tiny import build_trainer

FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json", "config.json")


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def grow(path):
    with open(path, "ab") as file:
        file.write(b"\0")


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [(cut, "bytes, not"), (flip, "another content"), (os.remove, "is missing"), (grow, "bytes, not")],
)
def test_a_damaged_file(out, name, damage, said):
    damage(out / "checkpoint-3" / name)
    found, (problem,) = newest_whole_checkpoint(out)
    assert found == out / "checkpoint-2"
    assert f"{out / 'checkpoint-3'} is damaged: {name}" in problem and said in problem


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "{", "[" * 200_000, '{"files": {}, "settings": {}}', '{"files": {"a": 1}, "settings": {}}', "7"],
)
def test_a_damaged_marker(out, content):
    (out / "checkpoint-3" / COMPLETE).write_text(content)
    found, (problem,) = newest_whole_checkpoint(out)
    assert found == out / "checkpoint-2" and f"{out / 'checkpoint-3' / COMPLETE}" in problem


def test_the_marker_of_an_earlier_version_is_told(out):
    (out / "checkpoint-3" / COMPLETE).write_text('{"seed": 1}')
    assert "names no files: an earlier version wrote it" in newest_whole_checkpoint(out)[1][0]


def test_where_none_is_whole_nothing_is_lost(world, out):
    for step in (1, 2, 3):
        cut(out / f"checkpoint-{step}" / "optimizer.pt")
    before = sorted(path for path in out.rglob("*"))
    with pytest.raises(ValueError, match="no checkpoint is whole: move them away to start from the beginning"):
        start(world, out)
    assert sorted(path for path in out.rglob("*")) == before


def test_the_run_ends_where_it_did_to_the_bit(world, out, finished, capsys):
    """Without optimizer.pt it went on with a fresh optimizer."""
    (out / "checkpoint-3" / "optimizer.pt").unlink()
    checkpoint = start(world, out)
    assert checkpoint == str(out / "checkpoint-2")
    said = f"train: {out / 'checkpoint-3'} is damaged: optimizer.pt is missing; passed over"
    assert said in capsys.readouterr().out
    build_trainer(arguments(world, out)).train(resume_from_checkpoint=checkpoint)
    for name in ("model.safetensors", "optimizer.pt"):
        assert (out / "checkpoint-3" / name).read_bytes() == (finished / "checkpoint-3" / name).read_bytes()
    assert newest_whole_checkpoint(out) == (out / "checkpoint-3", [])
