"""The choice of the constant report and the fixed shuffle of the films."""

import random

import pytest
from report_floors import HELD_OUT, constant_report, derangement
from report_metrics import rouge_l

SENTENCES = [
    "The heart is normal.",
    "Lungs are clear.",
    "Small left effusion.",
    "No pneumothorax.",
    "Pacemaker in place.",
]


def random_reports(number: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.sample(SENTENCES, k=generator.randint(1, 4))) + f" {index}" for index in range(number)]


def mean_rouge_l(report: str, references: list[str]) -> float:
    return sum(rouge_l(report, reference) for reference in references) / len(references)


def test_constant_report_is_the_best_of_all_when_they_are_few():
    train, val = random_reports(120, seed=1), random_reports(30, seed=2)
    assert constant_report(train, val) == max(train, key=lambda report: mean_rouge_l(report, val))


def test_constant_report_is_a_good_one_of_many_and_always_the_same():
    train, val = random_reports(1000, seed=1), random_reports(30, seed=2)
    chosen = constant_report(train, val)
    better = sum(mean_rouge_l(report, val) > mean_rouge_l(chosen, val) for report in train)
    assert better < 1000 / 20  # the best of 150 drawn from 1000
    assert constant_report(train, val) == chosen


def test_only_the_candidates_are_compared():
    train, val = random_reports(50, seed=1), random_reports(10, seed=2)
    chosen = {constant_report(train, val, candidates=1, seed=seed) for seed in range(20)}
    assert len(chosen) > 5


def test_without_validation_reports_the_choice_is_made_on_held_out_training_reports():
    train = ["lungs clear"] * 20 + ["heart normal", "pacemaker"]
    assert constant_report(train, []) == "lungs clear"
    assert constant_report(["a b c", "a b d"], []) in ("a b c", "a b d")
    assert constant_report(random_reports(2 * HELD_OUT + 10, seed=4), []) in random_reports(2 * HELD_OUT + 10, seed=4)


@pytest.mark.parametrize("train, val", [([], ["a"]), ([], []), (["a"], [])])
def test_too_few_reports(train, val):
    with pytest.raises(ValueError, match="too few"):
        constant_report(train, val)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 100])
@pytest.mark.parametrize("seed", range(5))
def test_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n))
    assert all(place != index for index, place in enumerate(order))


def test_derangement_is_fixed_by_its_seed():
    assert derangement(50) == derangement(50, seed=0)
    assert derangement(50, seed=1) != derangement(50, seed=2)


@pytest.mark.parametrize("n", [0, 1])
def test_one_study_has_no_other(n):
    with pytest.raises(ValueError, match="at least 2 studies"):
        derangement(n)
