"""Folders are whole or do not count, wherever the process that writes or deletes them is killed."""

import multiprocessing
import os
import shutil
from pathlib import Path

import pytest
import torch

from dllm.data.files import sha256
from dllm.training import checkpoints
from dllm.training.checkpoints import (
    COMPLETE,
    check_settings,
    complete_checkpoints,
    discard,
    flush,
    mark_complete,
    newest_whole_checkpoint,
    rotate,
    written_aside,
)
from llava.model.builder import check_folder
from oracles.tiny import build_trainer

FILES = ("model.safetensors", "trainer_state.json", "config.json", "global_step5/weights.safetensors")
CALLS = (("os", "fsync"), ("os", "replace"), ("os", "rename"), ("os", "unlink"), ("os", "rmdir"), ("os", "mkdir"))


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    (folder / "global_step5").mkdir()
    for name in FILES:
        (folder / name).write_text("whole")
    flush(folder)
    mark_complete(folder, {"seed": 1})


def killed_at(place, action, *arguments):
    """Runs an action in a process that is killed before its `place`-th change on disk; False if it had no more."""

    def child():
        done = 0

        def counted(call):
            def counting(*args, **kwargs):
                nonlocal done
                if done == place:
                    os._exit(9)
                done += 1
                return call(*args, **kwargs)

            return counting

        def written_in_halves(path, text):
            with open(path, "w") as file:
                file.write(text[: len(text) // 2])
                file.flush()
                counted(file.write)(text[len(text) // 2 :])

        for module, name in CALLS:
            module = __import__(module)
            setattr(module, name, counted(getattr(module, name)))
        Path.write_text = written_in_halves
        action(*arguments)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, 9)
    return process.exitcode == 9


def test_the_newest_whole_checkpoint_is_the_highest_step(tmp_path):
    assert newest_whole_checkpoint(tmp_path) == (None, [])
    assert newest_whole_checkpoint(tmp_path / "none") == (None, [])
    for step in (500, 1000, 90):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    for name in ("checkpoint-1500", "checkpoint-best", "checkpoint-2000-copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-2000-copy" / COMPLETE).touch()
    assert newest_whole_checkpoint(tmp_path) == (tmp_path / "checkpoint-1000", [])


def test_no_marker_before_everything_is_written(world, tmp_path, monkeypatch):
    trainer = build_trainer(world.arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1))
    seen = []

    def full(folder):
        seen.append(sorted(os.listdir(folder)))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trainer, "_save_rng_state", full)
    with pytest.raises(ValueError, match=r"checkpoint-1 cannot be written: No space left on device \(\d+ MiB are free"):
        trainer.train()
    (names,) = seen
    assert "model.safetensors" in names and COMPLETE not in names
    assert not (tmp_path / "checkpoint-1").exists()  # gives back what it took of the disk


def test_the_old_checkpoint_goes_once_the_new_one_is_whole(world, tmp_path, monkeypatch):
    arguments = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer, seen = build_trainer(world.arguments(tmp_path, **arguments)), []

    def marking(folder, settings):
        seen.append([path.name for path in complete_checkpoints(tmp_path)])
        mark_complete(folder, settings)

    monkeypatch.setattr("dllm.training.resumable.mark_complete", marking)
    trainer.train()
    assert seen == [[], ["checkpoint-1"], ["checkpoint-2"]]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_checkpoint_that_is_written_counts_only_when_whole(tmp_path):
    place = 0
    while killed_at(place, write_checkpoint, tmp_path / "checkpoint-5"):
        for folder in complete_checkpoints(tmp_path):
            assert [(folder / name).read_text() for name in FILES] == ["whole"] * len(FILES)
            check_settings(folder, {"seed": 1}, [])
        shutil.rmtree(tmp_path / "checkpoint-5", ignore_errors=True)
        place += 1
    assert place > 6 and len(complete_checkpoints(tmp_path)) == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_rotation_that_is_killed_leaves_only_whole_ones_that_count(tmp_path, limit):
    place, killed = 0, True
    while killed:
        for step in (5, 10, 15):
            write_checkpoint(tmp_path / f"checkpoint-{step}")
        killed = killed_at(place, rotate, tmp_path, limit, None)
        for folder in complete_checkpoints(tmp_path):
            assert [(folder / name).read_text() for name in FILES] == ["whole"] * len(FILES)
        assert newest_whole_checkpoint(tmp_path) == (tmp_path / "checkpoint-15", [])
        rotate(tmp_path, limit, None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-15"][2 - limit :]
        for folder in tmp_path.iterdir():
            discard(folder)
        place += 1
    assert place > 6


def test_rotation_counts_no_interrupted_checkpoint_and_keeps_the_best(tmp_path):
    for step in (5, 10, 15, 20):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    for step in (12, 25):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-mine").mkdir()
    rotate(tmp_path, 2, str(tmp_path / "checkpoint-5"))
    names = ["checkpoint-15", "checkpoint-20", "checkpoint-25", "checkpoint-5", "checkpoint-mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    rotate(tmp_path, None, None)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.fixture(scope="module")
def two_models(world, tmp_path_factory):
    """Folders of an old model, in two files of weights, and of a new one, in one."""
    tokenizer, model, processor = world.build(mm_resampler_type="none")
    folders = []
    for name, settings in {"old": {"max_shard_size": "500KB"}, "new": {}}.items():
        folders.append(tmp_path_factory.mktemp(name))
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, len(folders))
        for part, more in ((tokenizer, {}), (model, settings), (processor, {})):
            part.save_pretrained(folders[-1], **more)
    assert (folders[0] / "model.safetensors.index.json").is_file()
    return folders


def contents(folder):
    return {path.name: sha256(path) for path in folder.iterdir() if path.is_file()}


def publish(new, folder):
    with written_aside(folder, publish=True) as aside:
        shutil.copytree(new, aside, dirs_exist_ok=True)


def test_a_model_that_is_published_is_the_old_one_the_new_one_or_refused(two_models, tmp_path):
    old, new = two_models
    seen, place, killed, folder = set(), 0, True, tmp_path / "model"
    while killed:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)
        killed = killed_at(place, publish, new, folder)
        try:
            check_folder(str(folder), "tokenizer.json")
            assert contents(folder) in (contents(old), contents(new))
            seen.add("old" if contents(folder) == contents(old) else "new")
        except ValueError as error:
            assert "config.json is missing; copy or train it again" in str(error)
            seen.add("refused")
        publish(new, folder)  # as the next start does
        assert contents(folder) == contents(new)
        assert not (folder / checkpoints.UNFINISHED).exists()
        place += 1
    assert seen == {"old", "refused", "new"}


def test_a_disk_that_is_full_in_the_end_leaves_the_old_model(two_models, tmp_path):
    old, _ = two_models
    shutil.copytree(old, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="cannot be written: .* make room and start again"):
        with written_aside(tmp_path, publish=True) as aside:
            open(f"{aside}/config.json", "w").close()
            raise OSError(28, "No space left on device")
    assert contents(tmp_path) == contents(old)
    assert not (tmp_path / checkpoints.UNFINISHED).exists()
