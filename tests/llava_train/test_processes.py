"""Both stages through torchrun and accelerate: DDP, DeepSpeed ZeRO and FSDP give what one process gives, with the noise
switched on.

The runs are shared by the tests. Each has the same global batch of four and passes through several epochs; the batches
hold records with two films, with one and with none.
"""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file

from llava.constants import PARTS
from llava.model.builder import ADAPTER_FILE, load_pretrained_model
from oracles import launchers
from oracles.tiny import STAGE_1, launch, losses, trained

STEPS = 20
HALF = {"per_device_train_batch_size": 2}
QUARTER = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
QUARTER_ALONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
ZERO_3 = "ZeRO-3 with accumulation"


def by_slurm(config):
    """Two nodes of one process each."""

    def launch_nodes(arguments, folder):
        return launchers.start(config, arguments, **launchers.slurm(folder / "slurm"))

    return launch_nodes


def by_accelerate(config, script=launchers.TRAIN_MEM):
    return lambda arguments, folder: launchers.start(config, arguments, script, GPU_NUM="2")


def by_torchrun(arguments, folder):
    return launch(arguments, processes=2)


RUNS = {  # of stage 2, two processes each
    "DDP": (by_slurm("ddp"), HALF),
    "ZeRO-2": (by_accelerate("deepspeed"), HALF),
    ZERO_3: (by_torchrun, QUARTER | {"deepspeed": "scripts/zero3.json"}),
    "FSDP": (by_accelerate("fsdp", launchers.FSDP_ON_CPU), HALF),
}


def logged(out, key):
    """A value of every step of the run that wrote the folder `out`."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if "loss" in entry]


def checked(result):
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def stage_1(world, tmp_path_factory):
    """The output folder of stage 1 on two ZeRO-3 processes."""
    out = tmp_path_factory.mktemp("stage_1")
    arguments = world.arguments(out, **HALF, mm_tunable_parts=STAGE_1, deepspeed="scripts/zero3.json")
    result = checked(launch(arguments, processes=2))
    assert result.stdout.count(f"train: adapter written to {out / ADAPTER_FILE}") == 1
    return out


@pytest.fixture(scope="module")
def stage_2(world, stage_1):
    """Command line of stage 2, which starts from the adapter of stage 1."""

    def arguments(out, **overrides):
        return world.arguments(out, pretrain_mm_mlp_adapter=stage_1 / ADAPTER_FILE, **{"max_steps": STEPS} | overrides)

    return arguments


@pytest.fixture(scope="module")
def reference(stage_2, tmp_path_factory):
    """Trainer of stage 2 in one process."""
    return trained(stage_2(tmp_path_factory.mktemp("reference")))


@pytest.fixture(scope="module")
def output_of(stage_2, tmp_path_factory):
    """The output folder of a run of RUNS, each of which is made once."""

    @functools.cache
    def run(name):
        folder, (start, settings) = tmp_path_factory.mktemp("run"), RUNS[name]
        out = folder / "out"
        result = checked(start(stage_2(out, **settings), folder))
        assert result.stdout.count(f"train: model written to {out}") == 1
        return out

    return run


@pytest.mark.parametrize("name", RUNS)
def test_losses_equal_those_of_one_process(output_of, reference, name):
    expected = losses(reference.state.log_history)
    assert len(expected) == STEPS
    assert logged(output_of(name), "loss") == pytest.approx(expected, rel=0, abs=1e-5)
    tails = [entry["loss_tail"] for entry in reference.state.log_history if "loss" in entry]
    assert logged(output_of(name), "loss_tail") == pytest.approx(tails, rel=0, abs=2e-4)  # of four decimals


@pytest.mark.parametrize("name", RUNS)
def test_gradient_norms_of_the_parts_equal_those_of_one_process(output_of, reference, name):
    for part in PARTS:
        norms = [entry[f"grad_norm/{part}"] for entry in reference.state.log_history if "loss" in entry]
        assert logged(output_of(name), f"grad_norm/{part}") == pytest.approx(norms, rel=1e-2)
        assert len(set(norms)) == STEPS


@pytest.mark.parametrize("name", RUNS)
def test_weights_of_every_part_end_where_those_of_one_process_do(output_of, reference, name):
    """With another learning rate a part would end elsewhere, by 1e-3 or more."""
    assert "language_model.lm_head.weight" not in load_file(output_of(name) / "model.safetensors")  # it is tied
    _, model, _ = load_pretrained_model(str(output_of(name)))
    expected = reference.model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_without_the_rates_of_the_parts_is_told_apart(stage_2, reference, tmp_path):
    """What the losses above would be if a rate were dropped."""
    expected = losses(reference.state.log_history)
    for name in ("mm_projector_lr", "mm_vision_tower_lr"):
        other = losses(trained(stage_2(tmp_path, **{name: None})).state.log_history)
        assert max(abs(one - two) for one, two in zip(other, expected, strict=True)) > 1e-4


@pytest.mark.parametrize("normalisation", ["sequence", "token", "batch"])
def test_accumulation_in_one_process_gives_the_same_losses(stage_2, tmp_path, normalisation):
    settings = {"loss_normalisation": normalisation, "max_steps": 6}
    whole = trained(stage_2(tmp_path, **settings))
    parts = trained(stage_2(tmp_path, **QUARTER_ALONE, **settings))
    expected = losses(whole.state.log_history)
    assert losses(parts.state.log_history) == pytest.approx(expected, rel=0, abs=1e-5 * max(1, *expected))
    tails = [[entry["loss_tail"] for entry in t.state.log_history if "loss" in entry] for t in (whole, parts)]
    assert tails[0] == pytest.approx(tails[1], rel=1e-3)


def test_masked_drop_draws_the_same_patches_under_accumulation(stage_2, world, tmp_path):
    dropping = {"mm_resampler_type": "masked_drop", "mm_mask_drop_ratio": 0.4}
    whole = trained(world.arguments(tmp_path, **dropping))
    parts = trained(world.arguments(tmp_path, **dropping, **QUARTER_ALONE))
    expected = losses(whole.state.log_history)
    assert losses(parts.state.log_history) == pytest.approx(expected, rel=0, abs=1e-5)


def test_the_noise_is_switched_on(stage_2, reference, tmp_path):
    """Another seed draws another noise, order and start."""
    other = losses(trained(stage_2(tmp_path, seed=2, data_seed=1, max_steps=1)).state.log_history)
    assert abs(other[0] - losses(reference.state.log_history)[0]) > 1e-3


def test_adapter_of_stage_1_is_that_of_one_process(world, stage_1, tmp_path):
    trainer = trained(world.arguments(tmp_path, mm_tunable_parts=STAGE_1))
    adapter = load_file(stage_1 / ADAPTER_FILE)
    expected = {
        name: weight
        for name, weight in trainer.model.state_dict().items()
        if name.startswith(("model.mm_projector.", "model.vision_resampler."))
    }
    assert adapter.keys() == expected.keys()
    for name, weight in adapter.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4, msg=name)
    assert not list(stage_1.glob("model*.safetensors"))
    assert logged(stage_1, "loss") == pytest.approx(losses(trainer.state.log_history), rel=0, abs=1e-5)
