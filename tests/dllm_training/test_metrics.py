"""The figures of a run against what they are said to count, one sample at a time."""

import math
import re

import pytest
import torch
from transformers import TrainerState

from dllm.core.losses import IGNORE_INDEX
from dllm.core.noise import ForwardProcess
from dllm.core.patterns import PATTERNS
from dllm.data.collator import ResponseCollator
from dllm.training import metrics
from dllm.training.metrics import NOISE_LEVELS, Meter, batch_counts, figures, noise_counts, trunk_sizes
from dllm.training.progress import Progress, describe, summary
from oracles.models import random_ids, tiny_model
from oracles.text_runs import logged, make_trainer, text_samples

# pattern and block length; in blocks of one `causal_block` feeds no noisy view
BLOCKS = [*((pattern, 4) for pattern in PATTERNS), ("block", 1), ("causal_block", 1)]


def ragged_batch(config, paired: bool) -> dict[str, torch.Tensor]:
    """Prompts of 2, 5 and 9 tokens and responses of 3, 11 and 6, the prompts padded to a multiple of 4."""
    generator = torch.Generator().manual_seed(1)
    samples = [
        {"prompt_ids": random_ids(P, generator), "response_ids": random_ids(R, generator), "position": position}
        for position, (P, R) in enumerate([(2, 3), (5, 11), (9, 6)])
    ]
    process = ForwardProcess("pair" if paired else "single", seed=2)
    return ResponseCollator(config, process, pad_to_multiple_of=4)(samples)


def model_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "masked")}


@pytest.fixture
def called(monkeypatch):
    """A function that calls a model and returns what its trunk and head were given: embeddings, mask, hidden states."""

    def call(model, batch, paired):
        calls = {}
        for name in ("trunk", "logits"):
            method = getattr(model, name)

            def recorded(*given, name=name, method=method):
                calls[name] = given
                return method(*given)

            monkeypatch.setattr(model, name, recorded)
        model(**model_inputs(batch), paired=paired)
        return *calls["trunk"][:2], calls["logits"][0]

    return call


@pytest.mark.parametrize("pattern, block_length", BLOCKS)
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("length", [4, 8, 10])
def test_the_sizes_are_those_of_a_trunk_without_padding(called, pattern, block_length, paired, length):
    model = tiny_model(pattern, block_length=block_length)
    batch = {
        "input_ids": torch.arange(6)[None],
        "attention_mask": torch.ones(1, 6, dtype=torch.bool),
        "labels": torch.arange(length)[None],
        "masked": torch.arange(length)[None] % 3 == 0,
    }
    embeds, mask, _ = called(model, batch, paired)
    fed, pairs = trunk_sizes(model.config, paired, torch.tensor([6]), torch.tensor([length]))
    assert fed.item() == embeds[..., 0].numel()
    assert pairs.item() == mask.sum()


@pytest.mark.parametrize("pattern, block_length", BLOCKS)
@pytest.mark.parametrize("paired", [True, False])
def test_a_batch_is_counted_as_the_model_is_fed_it(called, pattern, block_length, paired):
    model = tiny_model(pattern, block_length=block_length, gen_length=12)
    batch = ragged_batch(model.config, paired)
    embeds, _, hidden = called(model, batch, paired)
    counts = {name: count.item() for name, count in batch_counts(model.config, paired, batch).items()}
    assert counts["padded_tokens"] == embeds[..., 0].numel()
    assert counts["targets"] == len(hidden)
    assert counts["tokens"] == 2 + 5 + 9 + 3 + 11 + 6
    assert (counts["batches"], counts["samples"]) == (1, 3)
    canvases = (batch["labels"] != IGNORE_INDEX).sum(-1)
    fed, pairs = trunk_sizes(model.config, paired, torch.tensor([2, 5, 9]), canvases)
    assert (counts["trunk_tokens"], counts["attention_pairs"]) == (fed.sum().item(), pairs.sum().item())


@pytest.mark.parametrize("estimator", ["pair", "stratified", "single", "uniform"])
def test_losses_are_sorted_by_the_rate_of_their_mask(estimator):
    generator = torch.Generator().manual_seed(0)
    config = tiny_model("prefix", gen_length=48).config
    samples = [
        {"prompt_ids": random_ids(2, generator), "response_ids": random_ids(5 + n, generator), "position": n}
        for n in range(40)
    ]
    batch = ResponseCollator(config, ForwardProcess(estimator))(samples)
    losses = torch.rand(batch["labels"].shape, generator=generator, dtype=torch.float64)
    expected = {level: [] for level in range(4)}
    for row, sample in enumerate(samples):
        for place in range(len(sample["response_ids"])):  # without the tail
            if estimator in ("pair", "stratified") or batch["masked"][row, place]:
                rate = batch["rates"][row, place].item()
                expected[min(math.floor(4 * rate), 3)].append(losses[row, place].item())
    counts = noise_counts(batch, losses)
    assert counts["noise_tokens"].tolist() == [len(each) for each in expected.values()]
    assert all(each for each in expected.values())
    assert counts["noise_losses"].tolist() == pytest.approx([sum(each) for each in expected.values()])


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


def test_the_meter_counts_between_readings_and_not_in_pauses(clock):
    meter = Meter()
    with meter.paused():  # before the start
        clock[0] += 1
    meter.start()
    clock[0] += 2
    for tokens in (10, 20):
        meter.add(samples=torch.tensor(2), tokens=torch.tensor(tokens), levels=torch.tensor([1.0, tokens]))
    with meter.paused():
        clock[0] += 5
    clock[0] += 1
    meter.start()  # it runs already
    counts, seconds = meter.read(lambda tensor: 2 * tensor)  # two ranks
    assert seconds == 3
    assert counts["tokens"].item() == 60 and counts["levels"].tolist() == [4, 60]
    clock[0] += 4
    meter.add(samples=torch.tensor(1), tokens=torch.tensor(1))
    counts, seconds = meter.read(lambda tensor: tensor)
    assert seconds == 4 and counts["tokens"].item() == 1
    assert meter.total == {"samples": 9, "tokens": 61}


def test_figures_are_rates_shares_and_means():
    counts = {"samples": 4, "tokens": 100, "inputs": 6, "trunk_tokens": 150, "padded_tokens": 200}
    counts = {name: torch.tensor(count) for name, count in counts.items()}
    levels = {"noise_losses": torch.tensor([3.0, 0, 8, 1]), "noise_tokens": torch.tensor([2, 0, 4, 1])}
    assert figures(counts | levels, seconds=2.0, input_unit="images") == {
        "samples_per_second": 2.0,
        "tokens_per_second": 50.0,
        "images_per_second": 3.0,
        "padding": 0.25,
        "loss_noise/0-25": 1.5,
        "loss_noise/50-75": 2.0,
        "loss_noise/75-100": 1.0,
    }


def test_the_trainer_logs_the_same_however_the_batch_is_split(tmp_path):
    """Evaluation between the steps adds nothing, and the last log has its own steps only."""
    runs = [
        make_trainer(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, **more)
        for size, more in ((4, {}), (2, {}), (1, {"eval_strategy": "steps", "eval_steps": 1}))
    ]
    for trainer in runs:
        trainer.train()
    names = [f"loss_noise/{level}" for level in NOISE_LEVELS]
    whole, *parts = ([{n: e[n] for n in names if n in e} for e in t.state.log_history if "loss" in e] for t in runs)
    assert len(whole) == 4 and all(len(entry) > 1 for entry in whole)
    for part in parts:
        for entry, expected in zip(part, whole, strict=True):
            assert entry == pytest.approx(expected, rel=1e-5)
    assert runs[0].meter.total == runs[2].meter.total


def test_tokens_per_second_are_those_of_the_samples(tmp_path, clock, monkeypatch):
    trainer = make_trainer(tmp_path, logging_steps=2, max_steps=5)
    step = trainer.training_step
    monkeypatch.setattr(trainer, "training_step", lambda *a, **k: clock.__setitem__(0, clock[0] + 0.5) or step(*a, **k))
    trainer.train()
    size_of = {tuple(s["response_ids"]): len(s["prompt_ids"]) + len(s["response_ids"]) for s in text_samples()}
    sizes = [size_of[response] for _, response in trainer.data_collator.seen]
    assert logged(trainer, "tokens_per_second") == [sum(sizes[:8]), sum(sizes[8:16])]
    assert logged(trainer, "samples_per_second") == [8, 8]
    assert trainer.meter.total == {"samples": 20, "tokens": sum(sizes[:20])}  # the fifth step was not logged


def test_the_bar_shows_figures_and_no_raw_logs(tmp_path, capfd):
    trainer = make_trainer(tmp_path, disable_tqdm=False)
    trainer.train()
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("train:")]
    assert 1 <= len(lines) <= 2 and "\r" not in err  # no terminal: at the start and at the end
    assert "4/4" in lines[-1] and describe(trainer.state.log_history[3]) in lines[-1]
    assert "{'" not in out + err
    assert summary(trainer.state, **trainer.meter.total).startswith("4 steps; 16 samples in 0:00:0")
    assert f"last loss {logged(trainer, 'loss')[-1]:.4f}" in summary(trainer.state, **trainer.meter.total)

    make_trainer(tmp_path, disable_tqdm=True).train()
    out, err = capfd.readouterr()
    assert "train" not in err and "{'" not in out + err


def test_the_bar_of_a_resumed_run_goes_on_from_its_step(capfd):
    bar, state = Progress(), TrainerState(global_step=3, max_steps=4, is_world_process_zero=True)
    bar.on_train_begin(None, state, None)
    bar.on_train_end(None, state, None)
    assert re.search(r"^train: +75%.* 3/4 ", capfd.readouterr().err, flags=re.MULTILINE)


def test_figures_that_are_not_there_are_not_shown():
    assert describe({"loss": 3.14159, "tokens_per_second": 12345.6}) == "loss 3.142, 12,346 tokens/s"
    everything = {"loss": 1.0, "tokens_per_second": 1, "images_per_second": 2, "mfu": 0.4123, "peak_memory_gb": 31.25}
    text = describe(everything | {"padding": 0.05})
    assert text == "loss 1, 1 tokens/s, 2.0 images/s, MFU 41.2%, 31.2 GB, padding 5.0%"
    assert Progress().training_bar is None
