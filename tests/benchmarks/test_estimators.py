"""The program that measures the variance of the estimators."""

import json

import numpy as np
import pytest
import torch

from benchmarks import estimators
from benchmarks.estimators import GROUPS, TOY_LENGTHS, Reports, Variance, Way, expected, main, toy_row
from dllm.core.noise import ForwardProcess


@pytest.fixture(scope="module")
def model_path(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in world.build():
        part.save_pretrained(folder)
    return folder


def test_the_noise_is_that_of_training():
    """Samples of a run in order, or each the first of a run of its own; nothing on padding."""
    masked, weights = Way("pair", consecutive=True, block_length=4).draw(7, [6, 9])
    apart = Way("stratified").draw(7, [6, 9])
    assert masked.shape == weights.shape == (2, 9)
    for row, length in enumerate([6, 9]):
        noise = ForwardProcess("pair", seed=7).draw(row, length, 4)
        assert np.array_equal(masked[row, :length], noise.masked)
        np.testing.assert_allclose(weights[row, :length], noise.weights, rtol=1e-6)
        alone = ForwardProcess("stratified", seed=14 + row).draw(0, length)
        assert np.array_equal(apart[0][row, :length], alone.masked)
        np.testing.assert_allclose(apart[1][row, :length], alone.weights, rtol=1e-6)
    assert not masked[0, 6:].any() and not weights[0, 6:].any()


def test_the_variance_is_the_trace_of_the_covariance():
    vectors = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5]) + 5
    found = Variance(vectors.__getitem__, 40, "")
    groups = [np.cov(group.T.numpy()).trace() for group in vectors.double().split(40 // GROUPS)]
    np.testing.assert_allclose(found.of_groups, groups, rtol=1e-6)
    torch.testing.assert_close(found.mean, vectors.double().mean(0))
    pair, two = found.at_two_passes(paired=True, scale=3), found.at_two_passes(paired=False, scale=3)
    assert pair["variance"] == pytest.approx(3 * np.mean(groups)) and two["variance"] == pair["variance"] / 2
    assert pair["standard_error"] == pytest.approx(3 * np.std(groups, ddof=1) / GROUPS**0.5)


def test_expected_variances():
    """Two single views 2.957, the pair 2.460, the stratified pair (R - 1) / 2R; the seed's integral diverges."""
    assert expected("single", 96) == pytest.approx(2.957, abs=1e-3)
    assert expected("pair", 96) == pytest.approx(2.460, abs=1e-3)
    assert expected("stratified", 96) == pytest.approx(95 / 192)
    assert expected("seed_literal", 96) is None


def test_the_toy_meets_what_is_expected_of_it():
    """Where the tail is light. The mean loss is 1, the loss of every token."""
    row = toy_row(Way("stratified"), 8_000)
    assert row["loss"] == pytest.approx(1, abs=1e-3)
    assert row["variance"] == pytest.approx(row["expected"], rel=0.2) and 0 < row["standard_error"] < 0.1
    assert 1 < row["largest_loss"] <= (TOY_LENGTHS[0] + 1) / TOY_LENGTHS[0] + 1e-6
    single, pair = (toy_row(Way(name), 8_000) for name in ("single", "pair"))
    assert row["variance"] < 0.5 * min(single["variance"], pair["variance"])
    assert toy_row(Way("stratified", consecutive=True), 8_000)["variance"] < 0.9 * row["variance"]


def test_noise_that_does_not_change_has_no_variance(monkeypatch, world, model_path):
    """And the loss is the one that training has for it: the mean over samples of weighted means over targets."""
    reports = Reports(model_path, world.test.parent, 3)
    first = Way("pair").draw(0, reports.lengths)
    monkeypatch.setattr(Way, "draw", lambda way, number, lengths: first)
    row = reports.row(Way("pair"), 20)
    assert row["variance"] == pytest.approx(0, abs=1e-9) and row["gradient_variance"] == pytest.approx(0, abs=1e-6)
    masked, weights = first
    with torch.no_grad():
        losses = reports.model(**reports.inputs, masked=masked, paired=True).losses
    means = [(losses[n] * weights[n]).sum() / length for n, length in enumerate(reports.lengths)]
    assert row["loss"] == pytest.approx(sum(means).item() / 3, rel=1e-5) == row["largest_loss"]
    assert row["gradient_norm"] > 0.1


def test_a_whole_run(monkeypatch, world, model_path, tmp_path, capsys):
    monkeypatch.setattr(estimators, "GROUPS", 2)
    file = tmp_path / "out.json"
    arguments = ["--json", str(file), "--toy_draws", "64", "--model_path", str(model_path)]
    main([*arguments, "--data", str(world.test.parent), "--samples", "2", "--draws", "4"])
    document = json.loads(file.read_text())
    ways = [(estimator, spread) for estimator in ("single", "seed_literal", "pair", "stratified") for spread in (0, 1)]
    assert [(row["estimator"], row["spread"]) for row in document["toy"]] == ways
    per_block = [(row["estimator"], row["spread"]) for row in document["model"] if row["rate_per_block"]]
    assert [(row["estimator"], row["spread"]) for row in document["model"] if not row["rate_per_block"]] == ways
    assert per_block == [way for way in ways if way[0] != "seed_literal"]
    for row in document["model"]:
        assert row["variance"] > 0 and row["gradient_variance"] > 0
    printed = capsys.readouterr().out
    assert "two single views, rate per block, spread" in printed and "stratified pair" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--toy_draws", "100"], "--toy_draws must be at least 320"),
        (["--draws", "19"], "--draws must be at least 20"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--model_path", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, arguments, message):
    file = tmp_path / "out.json"
    with pytest.raises(SystemExit) as exit_:
        main(["--json", str(file), *arguments])
    assert str(exit_.value).startswith("estimators: error: ") and message in str(exit_.value)
    assert "\n" not in str(exit_.value)
    assert not file.exists()
