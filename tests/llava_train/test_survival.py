"""Runs of two processes that are killed, or meet what clusters do, and end where the undisturbed run ends, to the bit.

All start from the same command, with a checkpoint every fourth of forty steps.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from dllm.data.files import sha256
from dllm.training.checkpoints import COMPLETE, complete_checkpoints
from oracles.runs import Run
from oracles.tiny import CHECKOUT, build_trainer

STEPS, EVERY, KEPT = 40, 4, 2
SETTINGS = {
    "per_device_train_batch_size": 2,
    "max_steps": STEPS,
    "save_strategy": "steps",
    "save_steps": EVERY,
}


def steps_of(folders) -> list[int]:
    return [int(folder.name.removeprefix("checkpoint-")) for folder in folders]


def logged(out: Path) -> dict[int, float]:
    """Loss by step of a finished run."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def reference(world, tmp_path_factory):
    """The output folder of the run that nothing disturbs, in new interpreters with hash seeds of their own; all its
    checkpoints are kept.
    """
    out = tmp_path_factory.mktemp("reference")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "llava/train/train_mem.py", *world.arguments(out, **SETTINGS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=CHECKOUT / "train", env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return out


@dataclass
class Ending:
    """How a start of the run ended: what was on disk, what it printed."""

    complete: list[int]
    unfinished: list[int]
    status: int
    errors: list[str]
    text: str = field(repr=False)


class Chain:
    """The same command started again and again in one output folder."""

    def __init__(self, world, out: Path):
        self.out, self.arguments, self.endings = out, world.arguments(out, **SETTINGS, save_total_limit=KEPT), {}

    def start(self, name: str) -> Run:
        self.name = name
        return Run(self.arguments, 2, self.out.with_name(f"{self.out.name} {name}.log"))

    def ended(self, run: Run) -> Ending:
        status, folders = run.wait(), sorted(self.out.glob("checkpoint-*"))
        unfinished = [folder for folder in folders if not (folder / COMPLETE).is_file()]
        complete = steps_of(complete_checkpoints(self.out))
        ending = Ending(complete, steps_of(unfinished), status, run.error_lines(), run.text())
        self.endings[self.name] = ending
        return ending

    def newest(self) -> int:
        return max(steps_of(complete_checkpoints(self.out)), default=0)

    def unfinished(self, after: int) -> bool:
        """Whether a checkpoint beyond this step is being written."""
        return any(
            step > after and not (self.out / f"checkpoint-{step}" / COMPLETE).exists()
            for step in steps_of(self.out.glob("checkpoint-*"))
        )


@pytest.fixture(scope="module")
def chain(world, tmp_path_factory):
    """Robbed of torchrun, killed in a save, robbed of a process, told to stop; then left alone."""
    chain = Chain(world, tmp_path_factory.mktemp("chain"))

    run = chain.start("torchrun lost")
    run.until(lambda: chain.newest() >= 2 * EVERY)
    orphans = run.members()[1:]
    run.launcher.kill()
    run.launcher.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in orphans):
        time.sleep(0.05)
    chain.ended(run)

    for _ in range(3):  # a save that ends before the kill arrives does not count
        run = chain.start("in a save")
        after = max(chain.newest(), 3 * EVERY)
        run.until(lambda: chain.unfinished(after))  # noqa: B023
        run.kill()
        if chain.ended(run).unfinished:
            break

    run = chain.start("a process lost")
    after = chain.newest() + EVERY
    run.until(lambda: chain.newest() >= after)
    os.kill(run.trainer(rank=1), signal.SIGKILL)
    chain.ended(run)

    run = chain.start("SIGTERM")
    after = chain.newest() + EVERY
    run.until(lambda: chain.newest() >= after)
    run.launcher.send_signal(signal.SIGTERM)
    chain.ended(run)

    chain.ended(chain.start("undisturbed"))
    return chain


def test_a_kill_of_torchrun_ends_its_processes(chain):
    """Otherwise the next start would have to share the folder with them."""
    ending = chain.endings["torchrun lost"]
    assert ending.status == -signal.SIGKILL
    assert 2 * EVERY in ending.complete and max(ending.complete) < STEPS
    (line,) = ending.errors
    assert "torchrun is lost, at step" in line and "start again with the same command" in line


def test_a_kill_in_a_save_leaves_the_checkpoint_before_it(chain):
    ending = chain.endings["in a save"]
    assert ending.status == -signal.SIGKILL
    (unfinished,) = ending.unfinished
    assert ending.complete[-1] == unfinished - EVERY
    assert f"train: resuming from {chain.out / f'checkpoint-{unfinished - EVERY}'}" in (
        chain.endings["a process lost"].text
    )


def test_a_lost_process_ends_the_run_in_one_line(chain):
    ending = chain.endings["a process lost"]
    assert ending.status > 0
    (line,) = ending.errors
    assert "another process of the run is lost" in line and "start again with the same command" in line
    assert "Traceback" not in ending.text.split("torch/distributed/elastic")[0]
    assert ending.complete


def test_sigterm_ends_the_run_with_a_checkpoint(chain):
    ending = chain.endings["SIGTERM"]
    assert ending.status != 0
    (line,) = ending.errors
    stopped = ending.complete[-1]
    assert f"stopped by SIGTERM at step {stopped}" in line and stopped < STEPS
    assert ending.unfinished == []
    assert f"train: resuming from {chain.out / f'checkpoint-{stopped}'}" in chain.endings["undisturbed"].text


def test_the_last_start_ends_where_the_undisturbed_run_does_to_the_bit(chain, reference):
    assert chain.endings["undisturbed"].status == 0
    assert sorted(logged(chain.out)) == list(range(1, STEPS + 1))
    assert logged(chain.out) == logged(reference)
    assert (chain.out / "model.safetensors").read_bytes() == (reference / "model.safetensors").read_bytes()
    assert {path.name for path in reference.iterdir()} >= {path.name for path in chain.out.iterdir()}


def test_rotation_keeps_the_newest_and_leaves_nothing_behind(chain):
    assert sorted(path.name for path in chain.out.iterdir() if path.is_dir()) == ["checkpoint-36", "checkpoint-40"]
    assert chain.endings["undisturbed"].complete == [36, 40]


@pytest.fixture
def resumable(reference, tmp_path):
    """An output folder with the checkpoint of step 20."""
    shutil.copytree(reference / "checkpoint-20", tmp_path / "out" / "checkpoint-20")
    return tmp_path / "out"


def assert_ends_in_one_line(out, arguments, *parts, **limits):
    """And leaves the folder as it was, so that the next start goes on from the checkpoint of step 20."""
    before = contents(out)
    run = Run(arguments, 2, out.with_suffix(".log"), **limits)
    assert run.wait() > 0
    (line,) = run.error_lines()
    assert all(part in line for part in parts), line
    assert f"train: resuming from {out / 'checkpoint-20'}" in run.text()
    assert contents(out) == before


def test_a_full_disk_in_a_save(world, resumable):
    """The weights can be written, the optimizer's state, which is twice as large, cannot."""
    weights = (resumable / "checkpoint-20" / "model.safetensors").stat().st_size
    assert_ends_in_one_line(
        resumable,
        world.arguments(resumable, **SETTINGS, save_total_limit=1),
        f"{resumable / 'checkpoint-24'} cannot be written: ",
        "MiB are free there); make room and start again",
        most_bytes=weights + 100_000,
    )


def test_films_that_are_damaged_where_the_check_at_the_start_does_not_look(world, resumable, tmp_path):
    """Both processes meet one, in the processes that load their data."""
    films = shutil.copytree(world.images, tmp_path / "films")
    for path in films.rglob("*.jpg"):
        Image.effect_noise((300, 300), 60).save(path)  # large enough not to be decoded at the start
        content = bytearray(path.read_bytes())
        place = len(content) * 3 // 4
        content[place : place + 2] = b"\xff\xc8"  # a marker that no decoder knows
        path.write_bytes(content)
    arguments = world.arguments(resumable, **SETTINGS, image_folder=films, dataloader_num_workers=1)
    said = (f"train: error: {films}/", ".jpg: the image is truncated or damaged", "copy it again")
    assert_ends_in_one_line(resumable, arguments, *said)


def test_a_loss_that_is_no_number(world, resumable, tmp_path):
    """Pixels that are divided by a deviation of almost 0; the text-only samples of the step keep their losses."""
    tower = shutil.copytree(world.vision_tower, tmp_path / "tower")
    settings = json.loads((tower / "preprocessor_config.json").read_text())
    (tower / "preprocessor_config.json").write_text(json.dumps(settings | {"image_std": [1e-38] * 3}))
    films, text_only = records_of_step(world, 21)
    assert films and text_only
    said = f"the loss is no finite number at step 21, in {', '.join(films)}; look at these samples or lower the"
    assert_ends_in_one_line(resumable, world.arguments(resumable, **SETTINGS, vision_tower=tower), said)


def records_of_step(world, step) -> tuple[list[str], list[str]]:
    """What a message calls the samples of a step (from 1) that have films, in order, and those that have none."""
    trainer = build_trainer(world.arguments(Path("unused"), per_device_train_batch_size=4))
    trainer.get_train_dataloader()
    epoch, start = divmod((step - 1) * 4, len(trainer.sampler))
    trainer.sampler.set_epoch(epoch)
    data, indices = trainer.train_dataset.dataset, [index for _, index in trainer.sampler][start : start + 4]
    films = [index for index in indices if data[index]["images"]]
    return [data.name(index) for index in films], [data.name(index) for index in indices if index not in films]


def launched(command: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dllm.launch", "bash", "-c", command]
    return subprocess.run(command, cwd=CHECKOUT / "train", capture_output=True, text=True)


def test_a_run_that_was_killed_as_a_whole_is_told_by_the_launcher():
    result = launched("echo step 3 >&2; kill -9 $$; echo not reached")
    assert result.returncode == 1 and "not reached" not in result.stdout.partition("\n")[2]
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("train: error: ")]
    assert "the run ended without a word, by SIGKILL" in line and "step 3" in result.stderr


def test_the_cause_is_found_wherever_it_stands_in_the_output():
    """On the open line of a bar it was missed, and the run called killed."""
    told = 'for name in a.png b; do echo "train: error: $name: empty" | tee -a $ERROR_FILE >&2; done'
    for message in (told, "echo 'train: error: a.png: empty' >&2"):
        result = launched(f"printf 'train:  10%%| 4/40' >&2; {message}; exit 3")
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == "train: error: a.png: empty"
