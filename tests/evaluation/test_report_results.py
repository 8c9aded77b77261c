"""Reading what lmms_eval writes: nothing missing goes unnoticed."""

import json
import os

import pytest
from report_metrics import METRICS
from report_results import generations, main, read_scores, results_file, table

PREFIXES = ("", "shuffled_images_", "constant_report_")


def write_results(folder, name: str = "20260101_000000", **changed):
    """Write a results file with all twelve scores; a changed score of None is left out."""
    scores = {f"{prefix}{metric}": 0.1 + 0.01 * index for index, prefix in enumerate(PREFIXES) for metric in METRICS}
    scores = {f"{key},none": value for key, value in (scores | changed).items() if value is not None}
    file = folder / "exp__model" / f"{name}_results.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"results": {"mimic_cxr": {"alias": "mimic_cxr"} | scores}}))
    return file


def test_scores_come_in_three_rows(tmp_path):
    scores = read_scores(write_results(tmp_path, BLEU_4=0.5, shuffled_images_METEOR=0.25, constant_report_ROUGE_L=1))
    assert list(scores) == ["model", "shuffled_images", "constant_report"]
    assert all(tuple(row) == METRICS for row in scores.values())
    assert scores["model"]["BLEU_4"] == 0.5
    assert scores["shuffled_images"]["METEOR"] == 0.25
    assert scores["constant_report"]["ROUGE_L"] == 1


@pytest.mark.parametrize("value", [None, float("nan"), "N/A"])
@pytest.mark.parametrize("name", ["METEOR", "shuffled_images_BLEU_1", "constant_report_ROUGE_L"])
def test_a_missing_score_is_named(tmp_path, name, value):
    file = write_results(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=f"no score for {name} of"):
        read_scores(file)


def test_the_newest_results_count(tmp_path):
    old, new = write_results(tmp_path / "run2", "b"), write_results(tmp_path / "run1", "a")
    os.utime(old, (1, 1))
    assert results_file(tmp_path) == new
    with pytest.raises(ValueError, match="no results"):
        results_file(tmp_path / "run3")


def test_generations_are_in_the_order_of_the_test_set(tmp_path):
    file = write_results(tmp_path)
    samples = [
        {"doc_id": 2, "target": "b", "filtered_resps": "line one\n\u2028 line two", "ROUGE_L": 0.5},
        {"doc_id": 10, "target": "c", "filtered_resps": "", "ROUGE_L": 0.0},
        {"doc_id": 0, "target": "a", "filtered_resps": "A", "ROUGE_L": 0.5},
        {"doc_id": 1, "target": "a", "filtered_resps": "X", "shuffled_images_ROUGE_L": 0.5},
    ]
    lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    file.with_name("20260101_000000_samples_mimic_cxr.jsonl").write_text(lines, encoding="utf-8")
    assert generations(tmp_path) == {
        "model": [("a", "A"), ("b", "line one\n\u2028 line two"), ("c", "")],
        "shuffled_images": [("a", "X")],
    }


def test_generations_want_the_samples(tmp_path):
    write_results(tmp_path)
    with pytest.raises(ValueError, match="--log_samples"):
        generations(tmp_path)


def test_table_shows_every_score(tmp_path):
    head, *rows = table(read_scores(write_results(tmp_path, METEOR=0.12345))).splitlines()
    assert head.split() == list(METRICS)
    assert rows[0].split() == ["model", "0.1000", "0.1000", "0.1235", "0.1000"]
    assert [row.split()[0] for row in rows] == ["model", "shuffled_images", "constant_report"]


def test_the_program_prints_the_table_or_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["report_results", str(tmp_path)])
    with pytest.raises(SystemExit, match="error: .*no results"):
        main()
    write_results(tmp_path)
    main()
    assert "constant_report    0.1200" in capsys.readouterr().out
