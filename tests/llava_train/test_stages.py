"""What each stage trains, with which learning rate, and what it leaves behind."""

import json

import pytest
import torch

from llava.constants import PARTS
from llava.model.builder import ADAPTER_FILE, load_pretrained_model
from llava.model.multimodal_resampler.builder import RESAMPLERS
from llava.train import train as program
from oracles.tiny import ALL_PARTS, STAGE_1, build_trainer, losses, trained

PREFIXES = {
    "mm_vision_tower": "model.vision_tower.",
    "mm_vision_resampler": "model.vision_resampler.",
    "mm_mlp_adapter": "model.mm_projector.",
    "mm_language_model": "language_model.",
}
RATES = {"mm_vision_tower": 1e-3, "mm_vision_resampler": 2e-3, "mm_mlp_adapter": 2e-3, "mm_language_model": 3e-3}


def part_of(name):
    (part,) = [part for part, prefix in PREFIXES.items() if name.startswith(prefix)]
    return part


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


@pytest.mark.parametrize("resampler", RESAMPLERS)
def test_stage_1_changes_projector_and_resampler_and_no_bit_of_the_rest(world, tmp_path, resampler):
    trainer = build_trainer(
        world.arguments(tmp_path, mm_resampler_type=resampler, mm_tunable_parts=STAGE_1, max_steps=2, weight_decay=0.0)
    )
    before = weights(trainer)
    trainer.train()
    for name, weight in weights(trainer).items():
        changed = not torch.equal(weight, before[name])
        assert changed == (part_of(name) in STAGE_1.split(",")), name
    assert resampler in ("qformer", "perceiver") or not list(trainer.model.model.vision_resampler.parameters())


@pytest.mark.parametrize("part", PREFIXES)
def test_each_part_can_be_trained_alone(world, tmp_path, part):
    trainer = build_trainer(world.arguments(tmp_path, mm_tunable_parts=part, max_steps=1))
    before = weights(trainer)
    trainer.train()
    changed = {part_of(name) for name, weight in weights(trainer).items() if not torch.equal(weight, before[name])}
    assert changed == {part}
    assert PARTS == PREFIXES


def test_every_weight_is_in_one_group_of_its_parts_rate(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path))
    groups = trainer.create_optimizer().param_groups
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    seen = [parameter for group in groups for parameter in group["params"]]
    assert len(seen) == len(set(seen)) == len(names)
    for group in groups:
        for parameter in group["params"]:
            name = names[parameter]
            assert group["lr"] == RATES[part_of(name)], name
            norm_or_bias = "norm" in name.lower() or name.endswith("bias")
            assert group["weight_decay"] == (0.0 if norm_or_bias else 0.1), name


def test_rates_that_are_not_given_are_the_learning_rate(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, mm_projector_lr=None, mm_vision_tower_lr=None))
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {3e-3}


def test_frozen_weights_are_in_no_group(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, mm_tunable_parts=STAGE_1))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    seen = {
        part_of(names[parameter]) for group in trainer.create_optimizer().param_groups for parameter in group["params"]
    }
    assert seen == set(STAGE_1.split(","))


def test_the_first_step_moves_each_part_by_its_rate(world, tmp_path):
    """Adam's first step is the learning rate times the sign of the gradient, where the gradient is not tiny."""
    trainer = build_trainer(
        world.arguments(
            tmp_path, max_steps=1, weight_decay=0.0, lr_scheduler_type="constant", warmup_steps=0, adam_epsilon=1e-15
        )
    )
    before = weights(trainer)
    trainer.train()
    moves = dict.fromkeys(RATES, 0.0)
    for name, weight in weights(trainer).items():
        moves[part_of(name)] = max(moves[part_of(name)], (weight - before[name]).abs().max().item())
    assert moves == pytest.approx(RATES, rel=1e-2)


def test_gradient_checkpointing_gives_the_same_losses(world, tmp_path):
    plain = trained(world.arguments(tmp_path, max_steps=3))
    trainer = build_trainer(world.arguments(tmp_path, max_steps=3, gradient_checkpointing=True))
    calls = []
    trainer.model.language_model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 2 * 3  # once more in each backward pass
    assert losses(trainer.state.log_history) == pytest.approx(losses(plain.state.log_history), abs=1e-5)


def run(world, monkeypatch, capsys, out, **overrides):
    """The program as a whole, in this process; returns its standard output."""
    monkeypatch.setattr("sys.argv", ["train_mem.py", *world.arguments(out, **overrides)])
    program.train()
    return capsys.readouterr().out


@pytest.fixture
def no_second_start(monkeypatch):
    """`train` prepares a fresh process; in this one it must not set environment variables for the tests that follow."""
    monkeypatch.setattr("dllm.training.run._prepare_process", lambda: None)


def test_stage_1_leaves_an_adapter_and_stage_2_a_model_that_starts_from_it(
    world, tmp_path, monkeypatch, capsys, no_second_start
):
    first, second = tmp_path / "first", tmp_path / "second"
    printed = run(world, monkeypatch, capsys, first, mm_tunable_parts=STAGE_1, max_steps=2)
    assert f"train: adapter written to {first / ADAPTER_FILE}" in printed
    assert not list(first.glob("model*.safetensors"))
    assert json.loads((first / "config.json").read_text())["mm_resampler_type"] == "qformer"

    adapter = {"pretrain_mm_mlp_adapter": first / ADAPTER_FILE}
    stage_1 = weights(trained(world.arguments(tmp_path / "again", mm_tunable_parts=STAGE_1, max_steps=2)))
    started = weights(build_trainer(world.arguments(tmp_path / "start", **adapter)))
    assert all(torch.equal(weight, stage_1[name]) for name, weight in started.items())

    printed = run(world, monkeypatch, capsys, second, mm_tunable_parts=ALL_PARTS, max_steps=2, **adapter)
    assert f"train: model written to {second}" in printed
    stage_2 = weights(trained(world.arguments(tmp_path / "more", max_steps=2, **adapter)))
    _, model, _ = load_pretrained_model(str(second))
    assert all(torch.equal(weight, stage_2[name]) for name, weight in model.named_parameters())
    assert len(list(model.parameters())) == len(stage_2)


def test_loss_weights_are_not_rounded_with_the_pixels(world, tmp_path, monkeypatch):
    trainer = build_trainer(world.arguments(tmp_path))

    def rounded(_, inputs):  # as transformers does under DeepSpeed with bf16
        return {name: each.bfloat16() if each.is_floating_point() else each for name, each in inputs.items()}

    monkeypatch.setattr("transformers.Trainer._prepare_inputs", rounded)
    batch = next(iter(trainer.get_train_dataloader()))
    prepared = trainer._prepare_inputs(batch)
    assert prepared["images"].dtype == torch.bfloat16
    assert torch.equal(prepared["weights"], batch["weights"])


def test_the_tail_is_logged_apart_from_the_loss(world, tmp_path):
    history = trained(world.arguments(tmp_path, max_steps=2)).state.log_history
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 2
    assert all(0 < entry["loss_tail"] < entry["loss"] for entry in steps)
