"""The benchmark that trains the report writer and its autoregressive twin, at a tiny size."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from benchmarks import twin
from benchmarks.decoding_quality import Twin, requests_of
from benchmarks.twin import SCORER, TwinWriter, differences, next_token_losses
from dllm.core.losses import IGNORE_INDEX
from llava.inference import ReportWriter
from oracles.tiny import widen


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A model of random weights in which every token matters."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer, model, processor = world.build()
    for part in (tokenizer, widen(model), processor):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def requests(world):
    requests, _ = requests_of(world.train.parent, 3)
    requests[1].question += " Compare with the former study."  # prompts of different lengths
    return requests


def test_the_loss_is_that_of_transformers_causal_model(folder, requests):
    writer = ReportWriter(folder)
    prompt = writer.model.prepare_prompt(*writer.inputs(requests))
    labels = torch.randint(0, 300, (3, 7), generator=torch.Generator().manual_seed(0))
    labels[1, 4:] = IGNORE_INDEX
    found = next_token_losses(writer.model, prompt, labels)

    targets = labels != IGNORE_INDEX
    embeds = torch.cat([prompt.embeds, writer.model.embed(labels.masked_fill(~targets, 0))], dim=1)
    mask = torch.cat([prompt.valid, targets], dim=1).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = Twin(writer).model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[:, -8:-1]
    logits[..., writer.diffusion.mask_token_id] = float("-inf")
    logits[..., writer.diffusion.num_tokens :] = float("-inf")
    expected = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=IGNORE_INDEX, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_twin_writes_a_report_the_same_alone_and_among_others(folder, requests):
    writer = TwinWriter(folder)
    together = writer.write(requests)
    assert together == [report for request in requests for report in writer.write([request])]
    assert all(report.text and report.steps == report.tokens <= 48 for report in together)
    stop = writer.writer.diffusion.stop_token_ids[0]
    first = writer.twin.generate(requests[:1], **writer.arguments)[0]
    cut = TwinWriter(folder, eos_token_id=[stop, first[2].item()])
    assert cut.write(requests[:1])[0].tokens == 3


def test_intervals_are_paired_over_images():
    """A difference of .1 +- .02 between scores that scatter much more: mean +- 1.96 standard errors."""
    rng, images = np.random.default_rng(0), 400
    other = np.ones((2, images, 6))
    other[..., [0, 2, 4]] = rng.uniform(0, 0.8, (2, images, 3))
    mine, gain = other.copy(), rng.normal(0.1, 0.02, images)
    mine[..., 2] += gain  # ROUGE-L of both seeds
    found = differences(mine, other)
    error = 1.96 * gain.std() / images**0.5
    assert found["ROUGE_L"].value == pytest.approx(gain.mean())
    assert found["ROUGE_L"].low == pytest.approx(gain.mean() - error, abs=error / 4)
    assert found["ROUGE_L"].high == pytest.approx(gain.mean() + error, abs=error / 4)
    assert found["CIDEr"].value == 0 and not found["CIDEr"].excludes_0
    mine[0, :, 0] = other[0, :, 0] + 0.5  # F1 is 2 hits / total: + 1 in one of two seeds
    assert differences(mine, other)["finding_F1"].value == pytest.approx(0.5)


def test_it_runs_end_to_end_and_trains_no_arm_twice(world, tmp_path, monkeypatch, capsys):
    towers, data = tmp_path / "towers", world.train.parent
    shutil.copytree(world.language_model, towers / "language_model")
    shutil.copytree(world.vision_tower, towers / "trained_vision_tower")
    arguments = ["--data", data, "--towers", towers, "--out", tmp_path / "out", "--steps", 2, 1, 1, "--costed_steps", 1]
    arguments += ["--seeds", 0, 1, "--images", 4, "--batches", 1, 2, "--timed_images", 2]
    arguments += ["--json", tmp_path / "twin.json"]
    monkeypatch.setattr(sys, "argv", ["twin.py", *map(str, arguments)])
    monkeypatch.setitem(twin.DIFFUSION, "gen_length", 16)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # it would be that of later tests
    twin.main()
    found = json.loads((tmp_path / "twin.json").read_text())
    assert [row["decoding"] for row in found["rows"]] == ["autoregressive", "one token a step", "speculative=true"]
    for row in found["rows"]:
        assert set(row["scores"]) == set(row["less_twin"]) == set(SCORER.names)
        assert all(len(values) == 2 for values in row["scores"].values())
        assert all(seconds > 0 for seconds in row["seconds_per_report"].values())
    costs = json.loads((tmp_path / "out/seconds_of_steps.json").read_text())
    assert found["steps"]["diffusion"] == {"captions": 2, "reports": 1, "blocks": 1}
    ours, theirs = costs["diffusion"], costs["autoregressive"]
    seconds = {"captions": 2 * ours["captions"], "reports": ours["reports"] + ours["blocks"]}
    for stage, steps in found["steps"]["autoregressive"].items():
        assert steps == max(1, round(seconds[stage] / theirs[stage]))
    _, one_token, speculative = found["rows"]
    assert speculative["scores"] == one_token["scores"] and one_token["tokens_per_step"] == 1
    table = capsys.readouterr().out
    assert "4 images" in table and "speculative=true" in table

    monkeypatch.setattr(twin, "Arm", None)  # nothing is left to train
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--distilled", str(tmp_path / "out/diffusion_1")])
    twin.main()
    again = json.loads((tmp_path / "twin.json").read_text())["rows"]
    assert [row["scores"] for row in again[:3]] == [row["scores"] for row in found["rows"]]
    assert [row["decoding"] for row in again[3:]] == ["distilled, one token a step", "distilled, speculative=true"]
    for row, same in zip(again[3:], again[1:3], strict=True):
        for name, values in row["scores"].items():
            assert values == [same["scores"][name][1]] * 2
