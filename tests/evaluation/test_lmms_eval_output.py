"""Reading what lmms_eval writes: nothing missing goes unnoticed."""

import os

import pytest

from oracles.report_runs import write_run
from report_scores.lmms_eval_output import (
    TASK_METRICS,
    check_complete,
    generations,
    read_scores,
    read_statistics,
    results_file,
)

TEXTS = {"model": ["A", "line one\n\u2028 line two", ""], "shuffled_images": ["X", "Y", "Z"]}
TRUTH = [
    "The heart is normal. Lungs are clear. Image 0.",
    "Small left effusion. No pneumothorax. Image 1.",
    "Pacemaker in place. Image 2.",
]


def test_scores_come_in_three_rows(data, tmp_path):
    scores = read_scores(
        write_run(tmp_path / "run", TEXTS, BLEU_4=0.5, shuffled_images_METEOR=0.1, constant_report_ROUGE_L=1)
    )
    assert list(scores) == ["model", "shuffled_images", "constant_report"]
    assert all(tuple(row) == TASK_METRICS for row in scores.values())
    assert scores["model"]["BLEU_4"] == 0.5
    assert scores["shuffled_images"]["METEOR"] == 0.1
    assert scores["constant_report"]["ROUGE_L"] == 1


@pytest.mark.parametrize("value", [None, float("nan"), "N/A"])
@pytest.mark.parametrize("name", ["METEOR", "shuffled_images_BLEU_1", "constant_report_ROUGE_L"])
def test_a_missing_score_is_named(data, tmp_path, name, value):
    file = write_run(tmp_path / "run", TEXTS, **{name: value})
    with pytest.raises(ValueError, match=f"no score for {name} of"):
        read_scores(file)


def test_the_newest_results_count(data, tmp_path):
    old, new = write_run(tmp_path / "run2", TEXTS, "b"), write_run(tmp_path / "run1", TEXTS, "a")
    os.utime(old, (1, 1))
    assert results_file(tmp_path) == new
    with pytest.raises(ValueError, match="no results"):
        results_file(tmp_path / "run3")


def test_generations_and_statistics_are_in_the_order_of_the_test_set(data, tmp_path):
    write_run(tmp_path / "run", TEXTS)
    found = generations(tmp_path)
    assert found == {half: list(zip(TRUTH, texts, strict=True)) for half, texts in TEXTS.items()}
    meteor = read_statistics(tmp_path, "METEOR")
    assert list(meteor) == ["model", "shuffled_images", "constant_report"]
    assert [row[0] for row in meteor["model"]] == [1 + len(text) for text in TEXTS["model"]]
    assert len(meteor["constant_report"]) == 3


def test_other_documents_than_the_first_are_refused(data, tmp_path):
    file = write_run(tmp_path / "run", TEXTS)
    samples = file.with_name("20260101_000000_samples_mimic_cxr.jsonl")
    samples.write_text("".join(samples.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(ValueError, match="not the first documents.*--offset"):
        generations(tmp_path)


def test_a_run_is_complete_only_if_all_is_there(data, tmp_path):
    with pytest.raises(ValueError, match="no results"):
        check_complete(tmp_path)
    file = write_run(tmp_path / "run", TEXTS)
    check_complete(tmp_path)
    file.with_name("20260101_000000_samples_mimic_cxr.jsonl").unlink()
    with pytest.raises(ValueError, match="--log_samples"):
        check_complete(tmp_path)
    file.write_text('{"results": ')
    with pytest.raises(ValueError, match="not JSON"):
        check_complete(tmp_path)
