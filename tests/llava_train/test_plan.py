"""`--dry_run`: the plan against the run that it is of."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from dllm.training import plan
from dllm.training.flops import Cost, step_costs
from dllm.training.metrics import batch_counts
from dllm.training.plan import describe_plan, memory, num_steps, plan_batches
from llava.constants import PARTS
from oracles.tiny import CHECKOUT, STAGE_1, build_trainer, trained

EPOCHS = {"max_steps": None, "num_train_epochs": 2, "warmup_steps": 0.25}


def value(text: str, name: str) -> str:
    """What the table says after a name."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"  {name}  ")]
    return line.removeprefix(f"  {name}").strip()


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"[\d,]*\d(?:\.\d+)?(?:e-?\d+)?", text)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attention_pattern": "prefix", "noise_estimator": "stratified"},
        {"attention_pattern": "bidirectional"},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "train_sampling_strategy": "random"},
    ],
)
def test_the_batches_are_those_of_the_run(world, tmp_path, settings):
    trainer = build_trainer(world.arguments(tmp_path, **EPOCHS | settings))
    planned, real = plan_batches(trainer), list(trainer.get_train_dataloader())
    assert len(planned.trunk_tokens) == len(real) > 1
    for number, batch in enumerate(real):
        counts = {name: count.item() for name, count in batch_counts(trainer.diffusion, True, batch).items()}
        assert planned.padded_tokens[number] == counts["padded_tokens"]
        assert planned.trunk_tokens[number].sum() == counts["trunk_tokens"]
        assert planned.attention_pairs[number].sum() == counts["attention_pairs"]
        assert planned.targets[number].sum() == counts["targets"]
        assert planned.inputs[number] == batch["num_inputs"] == len(batch["images"]) - (batch["num_inputs"] == 0).long()
        tokens = batch["attention_mask"].sum() + (batch["labels"] != -100).sum()
        assert planned.tokens[number].sum() == tokens


def test_a_short_run_is_planned_as_far_as_it_goes(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, max_steps=1, gradient_accumulation_steps=2))
    assert len(plan_batches(trainer).trunk_tokens) == 2 < len(trainer.get_train_dataloader())
    assert num_steps(trainer) == 1


def test_the_steps_are_those_of_the_run(world, tmp_path):
    run = trained(world.arguments(tmp_path, **EPOCHS))
    text = describe_plan(build_trainer(world.arguments(tmp_path, **EPOCHS)))
    assert numbers(value(text, "steps")) == [run.state.global_step, 2] == [8, 2]
    rates = [entry["learning_rate"] for entry in run.state.log_history if "loss" in entry]
    assert rates[1] < rates[2] == max(rates)  # a rate is logged before its step: two steps to warm up
    assert value(text, "samples") == "15"
    assert numbers(value(text, "samples a step"))[0] == 4


@pytest.mark.parametrize("settings", [{}, {"mm_tunable_parts": STAGE_1}, {"lora_enable": True, "lora_r": 8}])
def test_the_parts_are_those_of_the_optimizer(world, tmp_path, settings):
    trainer = build_trainer(world.arguments(tmp_path, **settings))
    text = describe_plan(trainer)
    groups = trainer.create_optimizer().param_groups
    total = 0
    for part, prefix in PARTS.items():
        said = numbers(value(text, part).replace("frozen", "0"))
        weights = [weight for name, weight in trainer.model.named_parameters() if name.startswith(prefix)]
        optimized = [group for group in groups if set(group["params"]) & set(weights)]
        sizes = [weight.numel() for group in optimized for weight in group["params"]]
        assert said[:2] == [sum(weight.numel() for weight in weights), sum(sizes)]
        assert {said[2]} == ({group["lr"] for group in optimized} or {0})
        assert ("frozen" in value(text, part)) == (not sizes)
        total += sum(sizes)
    assert numbers(value(text, "all"))[1] == total
    assert ("LoRA of rank 8" in value(text, "mm_language_model")) == ("lora_r" in settings)


def test_activations_are_what_autograd_keeps_of_the_largest_batch(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, **EPOCHS))
    _, kept = step_costs(trainer.model)
    batches = plan_batches(trainer)
    largest = list(trainer.get_train_dataloader())[batches.padded_tokens.argmax()]
    own, storages = {weight.data_ptr() for weight in trainer.model.parameters()}, {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model.train(), largest)
    length = batches.padded_tokens.max().item() // len(largest["labels"])
    masks = {pointer for pointer, each in storages.items() if each.shape[-2:] == (length, length)}  # a GPU needs none
    size = sum(each.untyped_storage().nbytes() for pointer, each in storages.items() if pointer not in own | masks)
    assert loss.requires_grad and masks
    planned = memory(trainer, batches, kept, torch.float32)["activations"]
    layers = trainer.diffusion.num_hidden_layers
    in_flight = kept.per_token / layers * batches.padded_tokens.max().item()
    assert planned - in_flight == pytest.approx(size, rel=0.1)


def test_memory_of_one_process(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, mm_tunable_parts=STAGE_1))
    batches, (_, kept) = plan_batches(trainer), step_costs(trainer.model)
    N = sum(weight.numel() for weight in trainer.model.parameters())
    T = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    parts = memory(trainer, batches, kept, torch.float32)
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == (4 * N, 4 * T, 8 * T)
    assert memory(trainer, batches, kept, torch.bfloat16)["weights"] == 6 * N
    for cost, most in ((Cost(0, 0, 5), 5 * batches.targets.max()), (Cost(0, 0, 0, 7), 7 * batches.inputs.max())):
        assert memory(trainer, batches, cost, torch.float32)["activations"] == most.item()
    trainer.args.gradient_checkpointing = True
    assert memory(trainer, batches, kept, torch.float32)["activations"] < parts["activations"]


def test_a_known_gpu_has_an_expected_time(world, tmp_path, monkeypatch):
    trainer = build_trainer(world.arguments(tmp_path, **EPOCHS))
    text = describe_plan(trainer)
    assert value(text, "time") == "unknown, as is the peak rate of this device"
    (of_run, *_), (of_step, *_) = numbers(value(text, "of the run")), numbers(value(text, "of a step"))
    batches, (flops, _) = plan_batches(trainer), step_costs(trainer.model)
    sizes = [
        each.sum().item() for each in (batches.trunk_tokens, batches.attention_pairs, batches.targets, batches.inputs)
    ]
    assert value(text, "of the run").endswith("GFLOP") and of_run == pytest.approx(2 * flops(*sizes) / 1e9, rel=0.01)
    assert value(text, "of a step").endswith("GFLOP") and of_step == pytest.approx(of_run / 8, rel=0.01)
    trainer.peak_rate = 2 * flops(*sizes) / plan.ASSUMED_MFU / 3600  # an hour for both epochs
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    assert value(describe_plan(trainer), "time") == "1:00:00 on 1 x a card at 40% MFU"


@pytest.mark.parametrize("settings", [{"mm_tunable_parts": STAGE_1}, {"lora_enable": True, "lora_r": 8}])
def test_a_plan_needs_no_weights(world, tmp_path, settings):
    folders = {"model_name_or_path": world.language_model, "vision_tower": world.vision_tower}
    bare = {name: tmp_path / name for name in folders}
    for name, folder in folders.items():
        shutil.copytree(folder, bare[name], ignore=shutil.ignore_patterns("*.safetensors"))
    plans = [
        describe_plan(build_trainer(world.arguments(tmp_path / "out", dry_run=True, **settings | each)))
        for each in (folders, bare)
    ]
    assert plans[0] == plans[1]
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        build_trainer(world.arguments(tmp_path / "out", **settings | bare))


def test_the_stage_script_prints_the_plan_of_two_zero_3_processes_and_writes_nothing(world, tmp_path):
    out = tmp_path / "out"
    settings = {
        "LM_PATH": world.language_model,
        "VISION_TOWER": world.vision_tower,
        "DATA_PATH": world.mixed,
        "IMAGE_FOLDER": world.images,
        "OUTPUT_DIR": out,
        "BATCH_SIZE": 2,
        "DRY_RUN": True,
        "EXTRA_ARGS": "--mm_qformer_depth 2 --mm_qformer_hidden_size 64 --mm_qformer_latents 4",
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path} | {name: str(setting) for name, setting in settings.items()}
    script = CHECKOUT / "train" / "scripts" / "llada_v_pretrain.sh"
    result = subprocess.run(["bash", script, "1", "2"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not out.exists()
    plan = result.stdout
    assert plan.count("learning rate") == 1  # of one process
    N, T = numbers(value(plan, "all"))
    assert numbers(value(plan, "samples a step"))[0] == 4 and "2 processes" in plan
    kilobytes = [numbers(value(plan, name))[0] for name in ("weights", "gradients", "optimizer")]
    assert kilobytes == pytest.approx([(4 * N + 4 * T) / 2e3, 4 * T / 2e3, 8 * T / 2e3], rel=0.01)
