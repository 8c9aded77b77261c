"""LoRA: what trains, what is saved, and that the merged model is the one that was trained.

One run in this process and one on two ZeRO-3 processes are shared by the tests.
"""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from dllm.pipelines.a2d import load_qwen3
from dllm.training.checkpoints import COMPLETE, check_settings, newest_whole_checkpoint
from llava.data.images import load_image
from llava.inference import ReportWriter, Request
from llava.model.builder import load_pretrained_model, save_adapter
from oracles.tiny import STAGE_1, build_trainer, launch, losses, trained, widen

LORA = {"lora_enable": True, "lora_r": 4, "learning_rate": 2e-2}
SAVING = {"save_strategy": "steps", "save_steps": 3}
LANGUAGE = "language_model."


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


@pytest.fixture(scope="module")
def stage_1(world, tmp_path_factory):
    """The adapter file of stage 1."""
    out = tmp_path_factory.mktemp("stage_1")
    trainer = trained(world.arguments(out, mm_tunable_parts=STAGE_1, max_steps=1))
    return save_adapter(trainer.model.state_dict(), trainer.model.config, out)


@pytest.fixture(scope="module")
def run(world, stage_1, tmp_path_factory):
    """(output folder, trainer after its run, weights before it) of stage 2 with LoRA, with a checkpoint at step 3."""
    out = tmp_path_factory.mktemp("lora") / "run"
    trainer = build_trainer(world.arguments(out, **LORA, **SAVING, pretrain_mm_mlp_adapter=stage_1))
    before = weights(trainer)
    trainer.train()
    trainer.save_model()
    return out, trainer, before


def test_only_adapter_and_mm_parts_change(run, stage_1):
    _, trainer, before = run
    for name, tensor in load_file(stage_1).items():
        assert torch.equal(before[name], tensor), name
    for name, weight in weights(trainer).items():
        learns = not name.startswith(LANGUAGE) or ".lora_" in name
        assert torch.equal(weight, before[name]) != learns, name


def test_every_linear_layer_of_the_decoder_has_an_adapter_and_nothing_else_has(run):
    language = run[1].model.language_model
    adapted = {name for name, module in language.named_modules() if isinstance(module, LoraLayer)}
    linear = {name.removesuffix(".base_layer") for name, each in language.named_modules() if type(each) is nn.Linear}
    linear = {name for name in linear if ".lora_" not in name}
    assert linear - adapted == {"lm_head"} and adapted < linear
    assert len(adapted) == 2 * 7
    layer = language.model.layers[1].mlp.down_proj
    assert layer.r == {"default": 4} and layer.scaling == {"default": 16 / 4}


def test_the_adapter_has_the_rate_of_the_language_model(world, tmp_path):
    trainer = build_trainer(world.arguments(tmp_path, **LORA))
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    rates = {names[each]: group["lr"] for group in trainer.create_optimizer().param_groups for each in group["params"]}
    assert {name for name in rates if name.startswith(LANGUAGE)} == {
        name for name in names.values() if ".lora_" in name
    }
    assert {rate for name, rate in rates.items() if ".lora_" in name} == {2e-2}
    assert {rate for name, rate in rates.items() if ".lora_" not in name} == {1e-3, 2e-3}


def test_the_adapter_starts_as_no_change(world, tmp_path):
    first = [losses(trained(world.arguments(tmp_path, **each, max_steps=1)).state.log_history) for each in (LORA, {})]
    assert first[0] == first[1]


def test_saved_weights_are_what_peft_makes_of_the_adapter_file(world, run):
    out, trainer, _ = run
    peft_model = PeftModel.from_pretrained(load_qwen3(str(world.language_model), dtype=torch.float32), out / "lora")
    expected = peft_model.merge_and_unload().state_dict()
    _, model, _ = load_pretrained_model(str(out))
    for name, weight in model.language_model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-7, msg=name)
    own = trainer.model.state_dict()
    for name, weight in model.state_dict().items():
        assert name.startswith(LANGUAGE) or torch.equal(weight, own[name]), name


def test_the_merged_model_writes_the_tokens_of_the_unmerged_one(world, tmp_path):
    """With wide weights, in model and adapter, that write reports of many different tokens."""
    trainer = build_trainer(world.arguments(tmp_path, **LORA))
    unmerged = widen(trainer.model).eval()
    trainer.save_model()
    writer = ReportWriter(str(tmp_path))
    records = json.loads(world.test.read_text())
    films = [load_image(world.images / record["image"]) for record in records]
    inputs = writer.inputs([Request([film], records[0]["conversations"][0]["value"]) for film in films])

    def tokens(model):
        return model.generate(*inputs, gen_length=64).ids

    expected = tokens(unmerged)
    assert len(expected.unique()) > 10
    assert torch.equal(tokens(writer.model), expected)
    for module in unmerged.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(False)
    assert not torch.equal(tokens(unmerged), expected)


def stopped_copy(out, target):
    """A copy of a run that was stopped while it wrote its checkpoint at step 6."""
    shutil.copytree(out, target)
    (target / "checkpoint-6" / COMPLETE).unlink()
    return target


def test_a_resumed_run_ends_where_the_whole_one_does_to_the_bit(world, run, stage_1, tmp_path):
    out, whole, _ = run
    stopped = stopped_copy(out, tmp_path / "run")
    trainer = build_trainer(world.arguments(stopped, **LORA, **SAVING, pretrain_mm_mlp_adapter=stage_1))
    trainer.train(resume_from_checkpoint=str(newest_whole_checkpoint(str(stopped))[0]))
    assert losses(trainer.state.log_history) == losses(whole.state.log_history)
    expected = whole.model.state_dict()
    assert trainer.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in trainer.model.state_dict().items())


def test_a_periodic_checkpoint_is_a_whole_model(run):
    _, model, _ = load_pretrained_model(str(run[0] / "checkpoint-6"))
    _, last, _ = load_pretrained_model(str(run[0]))
    assert all(torch.equal(weight, last.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (LORA | {"lora_r": 2}, "was written with --lora_r 4, not 2"),
        (LORA | {"lora_alpha": 8}, "was written with --lora_alpha 16, not 8"),
        (LORA | {"lora_enable": False}, "was written with --lora_enable True, not False"),
    ],
)
def test_a_run_does_not_go_on_with_another_adapter(world, run, stage_1, tmp_path, lora, said):
    def settings(**lora):
        values = lora | SAVING | {"pretrain_mm_mlp_adapter": stage_1}
        return build_trainer(world.arguments(tmp_path, **values)).run_settings()

    checkpoint = str(run[0] / "checkpoint-3")
    check_settings(checkpoint, settings(**LORA), [])
    with pytest.raises(ValueError, match=said):
        check_settings(checkpoint, settings(**lora), [])


def test_a_run_does_not_go_on_around_other_weights(world, run, tmp_path):
    other = load_qwen3(str(world.language_model), dtype=torch.float32)
    other.model.layers[0].mlp.up_proj.weight.data.mul_(1.1)
    folder = shutil.copytree(world.language_model, tmp_path / "other")
    other.save_pretrained(folder)
    trainer = build_trainer(world.arguments(tmp_path / "run", **LORA, model_name_or_path=folder))
    with pytest.raises(ValueError, match=f"checkpoint-3 was trained on other weights than those of {folder}"):
        trainer.train(resume_from_checkpoint=str(run[0] / "checkpoint-3"))


@pytest.mark.parametrize("lora", [LORA, {}], ids=["LoRA", "all weights"])
def test_a_run_goes_on_from_the_merged_model(world, run, tmp_path, lora):
    merged = run[0]
    trainer = build_trainer(world.arguments(tmp_path, model_name_or_path=merged, vision_tower=None, **lora))
    _, model, _ = load_pretrained_model(str(merged))
    own = {name.replace(".base_layer", ""): weight for name, weight in trainer.model.state_dict().items()}
    assert all(torch.equal(own[name], weight) for name, weight in model.state_dict().items())
    trainer.train()
    assert trainer.state.global_step == 6


def test_gradient_checkpointing_gives_the_same_losses(world, tmp_path):
    """Also where nothing before the first adapter learns, so that no gradient asks for the embeddings'."""
    alone = LORA | {"mm_tunable_parts": "mm_language_model", "max_steps": 3}
    plain = trained(world.arguments(tmp_path, **alone))
    checkpointed = trained(world.arguments(tmp_path, **alone, gradient_checkpointing=True))
    expected = losses(plain.state.log_history)
    assert losses(checkpointed.state.log_history) == pytest.approx(expected, rel=0, abs=1e-5)
    assert abs(expected[0] - expected[2]) > 1e-2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mm_tunable_parts": STAGE_1}, "--lora_enable needs mm_language_model among --mm_tunable_parts"),
        ({"lora_r": 0}, "--lora_r 0, --lora_alpha 16: both must be at least 1"),
        ({"lora_alpha": 0}, "--lora_r 4, --lora_alpha 0: both must be at least 1"),
        ({"lora_dropout": 1.0}, "--lora_dropout 1.0: give a share from 0 to below 1"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(world, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        build_trainer(world.arguments(tmp_path, **LORA | changes, model_name_or_path="none"))


def test_two_zero_3_processes_give_the_run_of_one_and_resume_to_the_bit(world, run, stage_1, tmp_path):
    _, trainer, _ = run
    out = tmp_path / "run"
    zero_3 = {"per_device_train_batch_size": 2, "deepspeed": "scripts/zero3.json"}

    def start(folder):
        arguments = world.arguments(folder, **LORA, **SAVING, **zero_3, pretrain_mm_mlp_adapter=stage_1)
        result = launch(arguments, processes=2)
        assert result.returncode == 0, result.stderr[-3000:]
        assert f"train: model written to {folder}" in result.stdout
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        return losses(history), load_file(folder / "model.safetensors")

    history, state = start(out)
    assert history == pytest.approx(losses(trainer.state.log_history), rel=0, abs=1e-5)
    adapter, expected = load_file(out / "lora" / "adapter_model.safetensors"), load_file(run[0] / "model.safetensors")
    assert adapter.keys() == load_file(run[0] / "lora" / "adapter_model.safetensors").keys()
    assert state.keys() == expected.keys()
    for name, weight in state.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4, msg=name)
    resumed, resumed_state = start(stopped_copy(out, tmp_path / "stopped"))
    assert resumed == history
    assert all(torch.equal(resumed_state[name], weight) for name, weight in state.items())
