"""Kind 5: no file of a checkpoint runs anything when it is read, even if the marker agrees with it."""

import copyreg
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dllm.training.checkpoints import COMPLETE, check_files, mark_complete, pickle_by_value


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    numbers = {"numpy": np.random.get_state(), "cpu": torch.random.get_rng_state(), "python": (3, (1, 2), None)}
    torch.save(numbers, folder / "rng_state_0.pth")
    torch.save({"step": torch.ones(3)}, folder / "optimizer.pt")
    torch.save({"module": {"weight": torch.ones(3)}}, folder / "global_step3/mp_rank_00_model_states.pt")
    torch.save({"last_epoch": 3}, folder / "scheduler.pt")
    mark_complete(folder, {})
    return folder


def test_what_a_run_writes_is_read(checkpoint):
    check_files(checkpoint)


def test_a_member_of_an_enum_is_read_whatever_python_wrote_it(checkpoint, monkeypatch):
    """Python 3.11.0 to 3.11.3 write a call of getattr, which is played here."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", lambda self, _: (getattr, (type(self), self.name)))
    monkeypatch.delitem(copyreg.dispatch_table, ZeroStageEnum, raising=False)
    file = checkpoint / "optimizer.pt"

    def write() -> None:
        torch.save({"zero_stage": ZeroStageEnum.weights}, file)
        (checkpoint / COMPLETE).unlink()
        mark_complete(checkpoint, {})

    write()
    with pytest.raises(ValueError, match="would run builtins.getattr"):
        check_files(checkpoint)
    pickle_by_value(ZeroStageEnum)
    write()
    check_files(checkpoint)
    assert torch.load(file, weights_only=False) == {"zero_stage": ZeroStageEnum.weights}


@pytest.mark.parametrize(
    "name",
    ["global_step3/mp_rank_00_model_states.pt", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "optimizer.bin"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_something_is_refused_and_not_run(checkpoint, tmp_path, name, zipped):
    if zipped:
        torch.save({"optimizer": Evil(tmp_path / "ran")}, checkpoint / name)
    else:
        (checkpoint / name).write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    (checkpoint / COMPLETE).unlink()
    mark_complete(checkpoint, {})  # whoever can write the file can write the marker too
    with pytest.raises(ValueError, match=f"{name} (would run|is no file of a checkpoint)"):
        check_files(checkpoint)
    assert not (tmp_path / "ran").exists()
    torch.load(checkpoint / name, weights_only=False) if zipped else pickle.loads((checkpoint / name).read_bytes())
    assert (tmp_path / "ran").exists()  # it would have


def test_the_copy_of_the_arguments_which_nobody_reads_is_not_refused(checkpoint):
    torch.save(Evil(checkpoint / "ran"), checkpoint / "training_args.bin")
    (checkpoint / COMPLETE).unlink()
    mark_complete(checkpoint, {})
    check_files(checkpoint)
