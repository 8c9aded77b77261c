"""What each stage changes and leaves behind; runs that are killed and go on; one process and several."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffa.model.builder import load_pretrained_model
from diffa.train import train as program
from dllm.pipelines.a2d.tiny import save_language_model, train_tokenizer
from dllm.training.checkpoints import complete_checkpoints
from dllm.training.flops import step_costs
from dllm.training.plan import memory, plan_batches
from oracles.runs import Run
from oracles.sounds import build_trainer, launch
from oracles.tiny import losses

PROGRAM = "diffa/train/train_mem.py"
SAVES = {"save_strategy": "steps", "save_steps": 2}
ONE_RATE = {"lr_scheduler_type": "constant"}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def changed_parts(model, before: dict) -> set[str]:
    return {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}


def history(out) -> list[float]:
    return losses(json.loads((out / "trainer_state.json").read_text())["log_history"])


@pytest.fixture
def no_second_start(monkeypatch):
    """`train` prepares a fresh process; in this one it must not set environment variables for the tests that follow."""
    monkeypatch.setattr("dllm.training.run._prepare_process", lambda: None)


@pytest.fixture(scope="module")
def stage_1(sounds, tmp_path_factory):
    """(the output folder of four undisturbed steps of stage 1 with a checkpoint after two, its trainer)."""
    out = tmp_path_factory.mktemp("stage 1")
    trainer = build_trainer(sounds.arguments(out, **SAVES))
    trainer.first = weights(trainer.model)
    trainer.train()
    trainer.save_result(str(out))
    trainer.state.save_to_json(str(out / "trainer_state.json"))
    return out, trainer


def test_stage_1_changes_the_semantic_adapter_alone(stage_1):
    out, trainer = stage_1
    assert changed_parts(trainer.model, trainer.first) == {"semantic_adapter"}
    after = weights(trainer.model)
    assert all(not torch.equal(after[name], trainer.first[name]) for name in after if name.startswith("semantic"))
    state = load_file(out / "checkpoint-2/model.safetensors")
    assert {name.split(".")[0] for name in state} == {"semantic_adapter"}


def test_stage_2_changes_both_adapters_alone_and_goes_on_from_stage_1(sounds, stage_1, tmp_path):
    out, first = stage_1
    trainer = build_trainer(sounds.arguments(tmp_path, training_stage=2, stage1_ckpt=out, max_steps=2))
    before = weights(trainer.model)
    learnt = {name: weight for name, weight in weights(first.model).items() if "prompts" not in name}
    assert all(torch.equal(before[name], weight) for name, weight in learnt.items())
    trainer.train()
    assert changed_parts(trainer.model, before) == {"semantic_adapter", "acoustic_adapter"}


def test_the_language_model_learns_at_its_own_rate_in_any_pattern(sounds, tmp_path):
    values = {"tunable_parts": "semantic_adapter,language_model", "attention_pattern": "block", "block_length": 8}
    trainer = build_trainer(sounds.arguments(tmp_path, **values, language_model_lr=1e-3, max_steps=1))
    rates = {group["part"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates == {"semantic_adapter": 3e-3, "language_model": 1e-3}
    before = weights(trainer.model)
    trainer.train()
    assert changed_parts(trainer.model, before) == {"semantic_adapter", "language_model"}


def test_lora_is_merged_into_the_language_model_that_the_folder_then_holds(sounds, stage_1, tmp_path):
    lora = {"tunable_parts": "semantic_adapter,acoustic_adapter,language_model", "lora_enable": True, "lora_r": 4}
    arguments = sounds.arguments(tmp_path, training_stage=2, stage1_ckpt=stage_1[0], attention_pattern="block", **lora)
    trainer = build_trainer(arguments)
    trainer.train()
    trainer.save_result(str(tmp_path))
    _, model, _ = load_pretrained_model(str(tmp_path))
    assert list(model.config.frozen) == ["audio_encoder"]
    _, plain, _ = sounds.build()
    assert changed_parts(model.language_model, weights(plain.language_model)) == {"model"}


def test_frozen_parts_are_held_in_the_type_of_the_step(sounds, tmp_path):
    trainer = build_trainer(sounds.arguments(tmp_path, bf16=True, max_steps=2))
    types = {name.split(".")[0]: weight.dtype for name, weight in trainer.model.named_parameters()}
    assert types.pop("semantic_adapter") == torch.float32 and set(types.values()) == {torch.bfloat16}
    frozen = sum(weight.nbytes for weight in trainer.model.parameters() if not weight.requires_grad)
    learnt = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    batches, kept = plan_batches(trainer), step_costs(trainer.model, torch.bfloat16)[1]
    assert memory(trainer, batches, kept, torch.bfloat16)["weights"] == frozen + (4 + 2) * learnt
    trainer.train()
    assert all(loss == loss and loss > 0 for loss in losses(trainer.state.log_history))


class Killed(Exception):
    pass


def test_killed_and_started_again_it_ends_the_same_to_the_bit(sounds, stage_1, tmp_path, monkeypatch):
    killed = build_trainer(sounds.arguments(tmp_path, **SAVES))
    step = killed.training_step

    def die_in_the_fourth(*args, **kwargs):
        if killed.state.global_step == 3:
            raise Killed
        return step(*args, **kwargs)

    monkeypatch.setattr(killed, "training_step", die_in_the_fourth)
    with pytest.raises(Killed):
        killed.train()
    resumed = build_trainer(sounds.arguments(tmp_path, **SAVES))
    with torch.no_grad():
        for weight in resumed.model.semantic_adapter.parameters():
            weight.add_(1)  # all that counts comes from the checkpoint
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed.state.log_history) == losses(stage_1[1].state.log_history)
    expected = weights(stage_1[1].model)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(resumed.model).items())


def test_ddp_and_zero_1_give_what_one_process_gives_and_zero_1_goes_on(sounds, stage_1, tmp_path):
    half = {"per_device_train_batch_size": 2}
    result = launch(sounds.arguments(tmp_path / "ddp", **half), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    arguments = sounds.arguments(tmp_path / "zero", **half, **SAVES, deepspeed="scripts/zero1.json")
    run = Run(arguments, 2, tmp_path / "log", program=PROGRAM)
    run.until(lambda: complete_checkpoints(tmp_path / "zero"))
    run.kill()
    assert not (tmp_path / "zero/config.json").exists()
    states = torch.load(
        next((tmp_path / "zero/checkpoint-2").glob("global_step2/mp_rank_00_model_states.pt")), weights_only=False
    )
    assert {name.split(".")[0] for name in states["module"]} == {"semantic_adapter"}
    result = launch(arguments, processes=2)
    assert result.returncode == 0 and "train: resuming from" in result.stdout, result.stderr[-3000:]
    for name in ("ddp", "zero"):
        out = tmp_path / name
        assert history(out) == pytest.approx(losses(stage_1[1].state.log_history), abs=1e-5), name
        for weight, expected in load_file(stage_1[0] / "model.safetensors").items():
            assert torch.allclose(load_file(out / "model.safetensors")[weight], expected, atol=1e-4), (name, weight)


@pytest.fixture
def main(monkeypatch, capsys, no_second_start):
    """Runs the program in this process; returns its last line of errors."""

    def run(arguments: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        with pytest.raises(SystemExit) as exit:
            program.train()
        assert exit.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    return run


MISTAKES = {
    "stage": ({"training_stage": 3}, "--training_stage 3: give 1 or 2"),
    "no stage 1": ({"training_stage": 2}, "--stage1_ckpt is missing: stage 2 goes on from the output folder"),
    "part": (
        {"tunable_parts": "audio_encoder"},
        "--tunable_parts 'audio_encoder': name some of semantic_adapter, lang",
    ),
    "early part": ({"tunable_parts": "acoustic_adapter"}, "--tunable_parts 'acoustic_adapter': name some of"),
    "layers": ({"acoustic_layers": "2;5"}, "--acoustic_layers '2;5': give numbers, as in 2,5,8,11"),
    "layer": ({"acoustic_layers": "1,9"}, "acoustic_layers: 9 is no state of an encoder of 3 layers"),
    "pattern": ({"attention_pattern": "block"}, "is frozen and knows the attention_pattern bidirectional alone"),
    "lora": ({"lora_enable": True}, "--lora_enable needs language_model among --tunable_parts"),
    "whisper": ({"whisper_model": "none"}, "model folder none does not exist"),
    "data": ({"train_dataset_path": "none.json"}, "--train_dataset_path 'none.json' is not a file; make it with"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(sounds, tmp_path, main, name):
    change, message = MISTAKES[name]
    line = main(sounds.arguments(tmp_path / "out", **change))
    assert line.startswith("train: error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_other_frozen_parts_are_refused_when_a_run_goes_on(sounds, stage_1, tmp_path, main):
    other = shutil.copytree(sounds.language_model, tmp_path / "other")
    state = load_file(other / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in state.items()}, other / "model.safetensors", {"format": "pt"})
    out = shutil.copytree(stage_1[0], tmp_path / "out")
    line = main(sounds.arguments(out, **SAVES, max_steps=6, llm_model=other))
    assert "was written with --model_name_or_path sha256" in line
    line = main(sounds.arguments(tmp_path / "x", training_stage=2, stage1_ckpt=out, llm_model=other))
    assert "was trained with the language_model of" in line


def test_a_plain_language_model_cannot_be_frozen(sounds, tmp_path, main):
    save_language_model(tmp_path / "qwen", train_tokenizer([], 300), 64, 1, plain=True)
    assert "autoregressive" in main(sounds.arguments(tmp_path / "out", llm_model=tmp_path / "qwen"))
