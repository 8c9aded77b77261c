"""What a run shows of itself: in its logs, its progress bar, its last line."""

import json
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllm.training.flops import step_costs
from dllm.training.metrics import NOISE_LEVELS
from llava.constants import PARTS
from oracles.tiny import STAGE_1, build_trainer, launch, trained

STEPS = 4
CLIPPED = {"max_steps": STEPS, "logging_steps": 2, "max_grad_norm": 0.5}  # every gradient is clipped
SAME_ON_ALL_RANKS = (
    "loss_tail",
    *(f"loss_noise/{level}" for level in NOISE_LEVELS),
    *(f"grad_norm/{p}" for p in PARTS),
)


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The trainer of a run of one process."""
    return trained(world.arguments(tmp_path_factory.mktemp("alone"), **CLIPPED))


@pytest.fixture(scope="module")
def two(world, tmp_path_factory):
    """Folder and output of the same run on two DDP processes with accumulation."""
    out = tmp_path_factory.mktemp("two")
    halves = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "report_to": "tensorboard"}
    result = launch(world.arguments(out, **CLIPPED, **halves), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return out, result


def steps(history: list[dict]) -> list[dict]:
    return [entry for entry in history if "loss" in entry]


def history_of(out) -> list[dict]:
    return json.loads((out / "trainer_state.json").read_text())["log_history"]


def test_two_processes_log_what_one_does(alone, two):
    expected, logs = steps(alone.state.log_history), steps(history_of(two[0]))
    assert len(logs) == len(expected) == STEPS / 2
    for entry, one in zip(logs, expected, strict=True):
        assert {name: entry[name] for name in SAME_ON_ALL_RANKS} == pytest.approx(
            {name: one[name] for name in SAME_ON_ALL_RANKS}, rel=1e-4
        )


def test_tensorboard_gets_every_figure(two):
    out, _ = two
    (events,) = {path.parent for path in out.rglob("events.out.tfevents.*")}
    tensorboard = EventAccumulator(str(events)).Reload()
    logs = steps(history_of(out))
    names = {*SAME_ON_ALL_RANKS, "tokens_per_second", "images_per_second", "padding", "peak_memory_gb"}
    assert names <= logs[0].keys() and "mfu" not in logs[0]  # of GPUs only
    for name in names:
        scalars = tensorboard.Scalars(f"train/{name}")
        assert [scalar.step for scalar in scalars] == [2, 4]
        assert [scalar.value for scalar in scalars] == pytest.approx([entry[name] for entry in logs], rel=1e-6)


def test_the_run_says_once_what_it_did(two):
    out, result = two
    line, curves = [line for line in result.stdout.splitlines() if line.startswith("train:")]
    loss = steps(history_of(out))[-1]["loss"]
    expected = (
        rf"train: model written to {out} after 4 steps; 16 samples in [\d:]+, [\d,]+ tokens/s, last loss {loss:.4f}"
    )
    assert re.fullmatch(expected, line)
    assert curves == f"train: its losses, rates and gradient norms: {out}/curves.png"


def test_the_bar_is_readable_in_a_log_file(two):
    _, result = two
    assert "{'loss'" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("train:")]
    assert 1 <= len(lines) <= 3  # of one process
    assert re.search(r"4/4 .*loss [\d.]+, [\d,]+ tokens/s, [\d.]+ images/s, [\d.]+ GB, padding [\d.]+%", lines[-1])


def test_norms_are_those_of_the_gradient_before_it_is_clipped(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, **CLIPPED | {"max_steps": 2, "logging_steps": 1}))
    squares = []  # of every step

    def collect():
        squares.append({})
        for part, prefix in PARTS.items():
            weights = [weight for name, weight in trainer.model.named_parameters() if name.startswith(prefix)]
            squares[-1][part] = sum(weight.grad.double().square().sum().item() for weight in weights)

    clip = trainer._clip_grad_norm
    trainer._clip_grad_norm = lambda model: collect() or clip(model)
    trainer.train()
    for log, expected in zip(steps(trainer.state.log_history), squares, strict=True):
        assert log["grad_norm"] > 2 * CLIPPED["max_grad_norm"]
        assert sum(expected.values()) == pytest.approx(log["grad_norm"] ** 2, rel=1e-5)
        for part, square in expected.items():
            assert log[f"grad_norm/{part}"] == pytest.approx(square**0.5, rel=1e-5)


def test_frozen_parts_have_no_norm_and_text_no_images(world, tmp_path):
    """Stage 1 on records without films: a blank image brings the modules' calls, but is not counted."""
    records = [record for record in json.loads(world.mixed.read_text()) if "image" not in record]
    data = tmp_path / "text.json"
    data.write_text(json.dumps(records))
    trainer = trained(world.arguments(tmp_path / "out", mm_tunable_parts=STAGE_1, max_steps=1, data_path=data))
    (log,) = steps(trainer.state.log_history)
    assert {name for name in log if name.startswith("grad_norm/")} == {
        f"grad_norm/{part}" for part in STAGE_1.split(",")
    }
    assert log["images_per_second"] == 0 < log["tokens_per_second"]


FREEZING = {"stage 1": {"mm_tunable_parts": STAGE_1}, "stage 2": {}, "LoRA": {"lora_enable": True}}


@pytest.mark.parametrize("resampler", ["qformer", "masked_drop"])
@pytest.mark.parametrize("stage", FREEZING)
def test_operations_are_those_of_a_real_step(world, tmp_path, stage, resampler):
    trainer = build_trainer(world.arguments(tmp_path, **FREEZING[stage], mm_resampler_type=resampler))
    flops, _ = step_costs(trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.compute_loss(trainer.model.train(), batch).backward()
    B, length = len(batch["labels"]), batch["input_ids"].shape[1] + 3 * batch["labels"].shape[1]
    targets, images = (batch["labels"] != -100).sum().item(), len(batch["images"])
    dense = flops(B * length, B * length**2, targets, images)
    assert dense == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.parametrize("resampler", ["qformer", "masked_drop"])
def test_an_image_costs_what_its_path_does(world, resampler):
    _, model, _ = world.build(mm_resampler_type=resampler)
    flops, _ = step_costs(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.model.train()(torch.randn(3, 3, 32, 32), torch.arange(3)).sum().backward()
    assert 3 * flops.per_input == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_mfu_is_the_share_of_the_peak_rate(world, tmp_path, monkeypatch):
    """On a GPU of a known name; here the rate is given."""
    trainer = build_trainer(world.arguments(tmp_path, max_steps=2))
    trainer.peak_rate, trainer.step_flops = 1e12, step_costs(trainer.model)[0]
    read, seen = trainer.meter.read, []
    monkeypatch.setattr(trainer.meter, "read", lambda over_ranks: seen.append(read(over_ranks)) or seen[-1])
    trainer.train()
    for log, (counts, seconds) in zip(steps(trainer.state.log_history), seen, strict=True):
        done = trainer.step_flops(
            *(counts[name].item() for name in ("trunk_tokens", "attention_pairs", "targets", "inputs"))
        )
        assert done > 0
        assert log["mfu"] == pytest.approx(done / seconds / 1e12)
        assert torch.all(counts["inputs"] > 0)
