"""MDLMTrainer on a little text: one process, whatever the batch is split into."""

import numpy as np
import pytest
import torch

from dllm.core.losses import NORMALISATIONS
from dllm.core.noise import ForwardProcess, Quadrature
from dllm.pipelines.a2d import load_a2d
from dllm.training.arguments import MDLMConfig
from dllm.training.lora import add_lora
from dllm.training.order import PositionSampler
from oracles.loss import pair_loss
from oracles.models import TAIL, tiny_model
from oracles.text_runs import NUM_SAMPLES, logged, make_trainer, text_samples
from oracles.training import training_losses


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_accumulation_gives_the_losses_of_the_whole_batch(normalisation, tmp_path):
    curves = []
    for size in (4, 2, 1):
        trainer = make_trainer(
            tmp_path,
            loss_normalisation=normalisation,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
        )
        trainer.train()
        curves.append({name: logged(trainer, name) for name in ("loss", "loss_tail")})
    assert len(curves[0]["loss"]) == 4 and len(set(curves[0]["loss"])) == 4
    for curve in curves[1:]:
        assert curve["loss"] == pytest.approx(curves[0]["loss"], abs=1e-6, rel=1e-6)
        assert curve["loss_tail"] == pytest.approx(curves[0]["loss_tail"], abs=2e-4)  # it is logged to four places


def test_the_logged_loss_is_that_of_the_oracle(tmp_path):
    """The first step, from data to number: order, noise, pattern, weights, mean, and the share of the tail."""
    trainer = make_trainer(tmp_path, max_steps=1, noise_estimator="pair")
    model = tiny_model("block")
    order = list(PositionSampler(NUM_SAMPLES, seed=5))[:4]
    expected = {"all": 0.0, "tail": 0.0}
    for position, index in order:
        sample = text_samples()[index]
        response = sample["response_ids"]
        canvas = response + [TAIL] * (-len(response) % 4)
        noise = ForwardProcess("pair", seed=5).draw(position, len(canvas), block_length=4)
        masked = set(noise.masked.nonzero()[0].tolist())
        prompt = model.embed(torch.tensor(sample["prompt_ids"], dtype=torch.long))
        by_place = training_losses(model, prompt, canvas, masked, paired=True)
        losses = [by_place[i].item() for i in range(len(canvas))]
        tail_losses = [0.0 if i < len(response) else loss for i, loss in enumerate(losses)]
        blocks = len(canvas) // 4
        for start in range(0, len(canvas), 4):  # a block is noised as if it were a response
            p = noise.rates[start] if start in masked else 1 - noise.rates[start]
            in_block = {i - start for i in masked if start <= i < start + 4}
            expected["all"] += pair_loss(losses[start : start + 4], in_block, p) / 4 / blocks
            expected["tail"] += pair_loss(tail_losses[start : start + 4], in_block, p) / 4 / blocks
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([expected["all"]], rel=1e-5)
    assert logged(trainer, "loss_tail") == pytest.approx([expected["tail"]], abs=1e-4)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_tail_has_a_share_of_the_loss(normalisation, steps, tmp_path):
    arguments = {"loss_normalisation": normalisation, "gradient_accumulation_steps": steps, "logging_steps": 2}
    trainer = make_trainer(tmp_path, **arguments)
    trainer.train()
    losses, tails = logged(trainer, "loss"), logged(trainer, "loss_tail")
    assert len(losses) == len(tails) == 2
    assert all(0 < tail <= loss for tail, loss in zip(tails, losses, strict=True))


def test_each_log_has_the_tail_of_its_own_steps(tmp_path):
    """Nothing is left over from the log before, and evaluation adds nothing."""
    trainer = make_trainer(tmp_path)
    trainer.train()
    every_two = make_trainer(tmp_path, logging_steps=2, eval_strategy="steps", eval_steps=2)
    every_two.train()
    tails = logged(trainer, "loss_tail")
    means = [(tails[0] + tails[1]) / 2, (tails[2] + tails[3]) / 2]
    assert logged(every_two, "loss_tail") == pytest.approx(means, abs=2e-4)
    assert abs(means[0] - means[1]) > 1e-2


def test_the_first_target_of_a_response_is_counted(tmp_path):
    """`token` divides by all targets of the global batch; causal models would leave out the first of each row."""
    trainer = make_trainer(tmp_path, loss_type="ForCausalLM", loss_normalisation="token")
    batch = trainer.data_collator([sample | {"position": 0} for sample in text_samples()[:4]])
    assert trainer._get_num_items_in_batch([batch], torch.device("cpu")) == (batch["labels"] != -100).sum()


@pytest.mark.parametrize("estimator", ["single", "uniform", "stratified", "seed_literal"])
def test_every_estimator_trains(estimator, tmp_path):
    trainer = make_trainer(tmp_path, noise_estimator=estimator, max_steps=2)
    trainer.train()
    assert all(0 < loss < 1000 for loss in logged(trainer, "loss"))


def test_frozen_weights_are_held_in_the_type_of_the_step(tmp_path):
    """Half the bytes, the losses of a step in bf16, and an adapter that is merged without rounding."""
    losses = {}
    for name in ("fp32", "bf16"):
        model = tiny_model("block", torch.float32)
        add_lora(model, 4, 64, 0, "")
        for number, (weight, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in weight:
                torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(number))
        trainer = make_trainer(tmp_path, model=model, bf16=name == "bf16")
        trainer.train()
        losses[name] = torch.tensor(logged(trainer, "loss"))
    types = {(weight.requires_grad, weight.dtype) for weight in trainer.model.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.02, atol=0)
    trainer.save_result(str(tmp_path))
    layer = trainer.model.model.layers[0].mlp.up_proj
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    saved = load_a2d(str(tmp_path), dtype=torch.float32).model.layers[0].mlp.up_proj.weight
    assert torch.equal(saved, layer.base_layer.weight.float() + up @ down * 16)


def test_compiled_layers_have_the_losses_of_layers_as_they_are(tmp_path, monkeypatch):
    """A part of the compiler alone traces them; the rest takes minutes on a CPU."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: compiled.append(layer) or compile_traced(layer))
    losses = []
    for given in (False, True):
        trainer = make_trainer(tmp_path, torch_compile=given)
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert compiled == list(trainer.model.model.layers) and not trainer.args.torch_compile
    assert losses[1] == losses[0]


def compile_traced(layer):
    layer._compiled_call_impl = torch.compile(layer._call_impl, backend="aot_eager")


def test_it_learns(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=40, optim="adamw_torch", learning_rate=1e-2)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.6 * before


def test_positions_go_on_over_epochs_and_the_order_changes(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=2)
    trainer.train()
    seen = trainer.data_collator.seen
    assert [position for position, _ in seen] == list(range(2 * NUM_SAMPLES))
    first, second = ([response for _, response in seen[i : i + NUM_SAMPLES]] for i in (0, NUM_SAMPLES))
    everything = sorted(tuple(sample["response_ids"]) for sample in text_samples())
    assert sorted(first) == sorted(second) == everything
    assert first != second


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = make_trainer(tmp_path / "whole", max_steps=6)
    whole.train()
    stopped = make_trainer(tmp_path / "parts", max_steps=6, save_strategy="steps", save_steps=3)
    stopped.train()
    resumed = make_trainer(tmp_path / "parts", max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    assert logged(resumed, "loss")[-3:] == pytest.approx(logged(whole, "loss")[-3:], abs=1e-6)


def test_evaluation_repeats(tmp_path):
    """The same loss twice, with training between the two when nothing is learnt, and whatever the run draws."""
    trainer = make_trainer(tmp_path, learning_rate=0.0)
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == first
    other = make_trainer(tmp_path, seed=9, noise_estimator="single", loss_normalisation="token")
    assert other.evaluate()["eval_loss"] == first
    smaller_batches = make_trainer(tmp_path, per_device_eval_batch_size=1)
    assert smaller_batches.evaluate()["eval_loss"] == pytest.approx(first, rel=1e-6)
    finer = make_trainer(tmp_path, eval_noise_levels=32).evaluate()["eval_loss"]
    assert finer != first and finer == pytest.approx(first, rel=0.05)


def test_validation_is_the_mean_over_samples_and_noise_levels(tmp_path):
    """The oracle: every sample's pairs one after another, each with the masks of the quadrature."""
    trainer, model, losses, nats = make_trainer(tmp_path), tiny_model("block"), [], []
    for number, sample in enumerate(text_samples()[:6]):
        canvas = sample["response_ids"] + [TAIL] * (-len(sample["response_ids"]) % 4)
        prompt = model.embed(torch.tensor(sample["prompt_ids"], dtype=torch.long))
        for level in range(4):
            noise = Quadrature(points=4).draw(4 * number + level, len(canvas), block_length=4)
            masked = set(noise.masked.nonzero()[0].tolist())
            by_place = training_losses(model, prompt, canvas, masked, paired=True)
            nats.append(sum(noise.weights[i] * by_place[i].item() for i in range(len(canvas))))
            losses.append(nats[-1] / len(canvas))
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    tokens = sum(len(sample["response_ids"]) for sample in text_samples()[:6])  # without the tail, whose nats count
    assert found["eval_nll"] == pytest.approx(sum(nats) / 4 / tokens, rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(np.exp(sum(nats) / 4 / tokens), rel=1e-4)


def test_another_dataset_can_be_evaluated(tmp_path):
    trainer = make_trainer(tmp_path)
    whole = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate(text_samples()[:6])["eval_loss"] == whole
    assert trainer.evaluate(text_samples()[:3])["eval_loss"] != whole


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss_normalisation": "mean"}, "'mean'.*sequence, token, batch"),
        ({"noise_estimator": "twice"}, "'twice'.*pair"),
        ({"noise_schedule": "cosine"}, "stratified.*linear"),
        ({"noise_eps": 0.7}, "0.7"),
        ({"eval_noise_levels": 0}, "eval_noise_levels.*0"),
        ({"train_sampling_strategy": "batch_rebalance"}, "batch_rebalance.*group_by_length"),
    ],
)
def test_impossible_choices_are_refused_before_anything_is_loaded(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        MDLMConfig(output_dir=str(tmp_path), **arguments)


def test_training_forgets_decoding_defaults_which_were_measured_on_other_weights(tmp_path):
    model = tiny_model("block", decoding_defaults={"threshold": 0.7})
    assert model.decoding().threshold == 0.7
    trainer = make_trainer(tmp_path, model=model, max_steps=1)
    assert trainer.model.decoding().threshold is None
