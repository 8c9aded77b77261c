"""Kind 11: files have the modes that the umask leaves to new files: a colleague can read a checkpoint."""

import os
import stat

import pytest
from safetensors.torch import save_file

from dllm.data.files import replacing, write_json
from dllm.training.checkpoints import flush, mark_complete, written_aside
from faults.checkpoints import arguments
from oracles.tiny import build_trainer


def modes(folder) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_checkpoint_and_the_model(world, tmp_path, umask):
    if umask == 0o022:  # a whole run; the others share its functions
        trainer = build_trainer(arguments(world, tmp_path, max_steps=1))
        trainer.train()
        with written_aside(tmp_path, publish=True) as aside:
            trainer.save_model(aside)
        assert (tmp_path / "model.safetensors").is_file() and (tmp_path / "checkpoint-1/model.safetensors").is_file()
    else:
        with written_aside(tmp_path, publish=True) as aside:
            save_file({}, f"{aside}/model.safetensors")
    assert modes(tmp_path) == {0o666 & ~umask}


def test_files_that_are_written_aside(tmp_path, umask):
    with replacing(tmp_path / "adapter.safetensors") as partial:
        save_file({}, partial)
    write_json(tmp_path / "summary.json", {})
    assert modes(tmp_path) == {0o666 & ~umask}


def test_a_marker(tmp_path, umask):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    save_file({}, folder / "model.safetensors")
    flush(folder)
    mark_complete(folder, {})
    assert modes(folder) == {0o666 & ~umask}
