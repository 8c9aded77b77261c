"""The table of a run and of several: its figures are those of the metrics, and nothing is scored twice."""

import json

import numpy as np
import pytest

import report_scores.results
from oracles.report_runs import write_noise_images, write_run
from report_scores.intervals import compare, estimate, resampled_sums
from report_scores.results import compare_runs, score_run
from report_scores.scorer import BLEU, CIDER, LABEL_F1, METEOR, ROUGE_L, Scorer

SCORER = Scorer([BLEU, METEOR, ROUGE_L, CIDER, LABEL_F1])
TRUTH = [
    "The heart is normal. Lungs are clear. Image 0.",
    "Small left effusion. No pneumothorax. Image 1.",
    "Pacemaker in place. Image 2.",
]
GOOD = {"model": TRUTH, "shuffled_images": [TRUTH[1], TRUTH[2], "Nothing."]}
POOR = {"model": ["Lungs are clear.", "Small effusion.", "No."], "shuffled_images": TRUTH}


@pytest.fixture(autouse=True)
def three_studies_are_enough(monkeypatch):
    monkeypatch.setattr(report_scores.results, "FEWEST", 3)


@pytest.fixture
def noise(data):
    write_noise_images(data, train=12, test_from=4)
    return data


def statistics_of(texts: list[str], meteor: bool = True) -> np.ndarray:
    known = {"METEOR": np.array([[1.0 + len(text)] * 23 for text in texts])} if meteor else None
    return SCORER.statistics(texts, TRUTH, known)


def test_every_row_has_the_scores_of_its_texts_with_their_intervals(noise, tmp_path):
    write_run(tmp_path / "run", GOOD)
    summary = score_run(tmp_path / "run", SCORER).summary
    constant = summary["task"]["constant_report_text"]
    records = json.loads((noise / "train_llava_llada.json").read_text())
    train = [record["conversations"][1]["value"] for record in records]
    rows = {
        "model": statistics_of(GOOD["model"]),
        "shuffled_images": statistics_of(GOOD["shuffled_images"]),
        "constant_report": statistics_of([constant] * 3),
        "nearest_image": statistics_of(train[4:7], meteor=False),
    }
    assert list(summary["scores"]) == list(rows) and summary["studies"] == 3
    for row, statistics in rows.items():
        values, resampled = SCORER.scores(statistics.sum(axis=0)), SCORER.scores(resampled_sums(statistics))
        assert tuple(summary["scores"][row]) == SCORER.names
        for name, score in summary["scores"][row].items():
            expected = vars(estimate(values[name], resampled[name]))
            assert score == (expected if expected["low"] is None else pytest.approx(expected, abs=1e-12))
    assert summary["scores"]["model"]["BLEU_4"]["value"] == 1
    assert constant in train and summary["left_out"] == {}


@pytest.mark.parametrize(
    "key, baseline", [("gain_from_image", "shuffled_images"), ("gain_over_constant", "constant_report")]
)
def test_a_gain_is_the_model_minus_a_baseline_in_pairs(noise, tmp_path, key, baseline):
    write_run(tmp_path / "run", GOOD)
    summary = score_run(tmp_path / "run", SCORER).summary
    texts = GOOD | {"constant_report": [summary["task"]["constant_report_text"]] * 3}
    statistics = [statistics_of(texts[row]) for row in ("model", baseline)]
    model, other = (SCORER.scores(resampled_sums(each))["ROUGE_L"] for each in statistics)
    values = (SCORER.scores(each.sum(axis=0))["ROUGE_L"] for each in statistics)
    expected = compare(*values, model, other)
    found = summary[key]["ROUGE_L"]
    assert found["excludes_0"] is expected.excludes_0
    assert (found["low"] > 0) == (baseline == "shuffled_images")
    assert [found[name] for name in ("value", "low", "high", "p")] == pytest.approx(
        [expected.value, expected.low, expected.high, expected.p]
    )


def test_the_record_says_what_the_scores_rest_on(noise, tmp_path):
    write_run(tmp_path / "run", GOOD)
    settings = tmp_path / "run" / "reports" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"generation": {"gen_length": 64}}')
    score_run(tmp_path / "run", SCORER)
    summary = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert summary["generation"] == {"generation": {"gen_length": 64}} and summary["lmms_eval"] == {"gen_kwargs": ""}
    assert summary["checkpoint"] == "exp/run"
    assert {"train_sha256", "val_sha256", "test_sha256", "normalisation", "constant_report"} <= set(summary["task"])
    assert "95%" in summary["intervals"] and "5000" in summary["intervals"]


def test_the_table_shows_every_score_and_is_markdown(noise, tmp_path):
    write_run(tmp_path / "run", GOOD)
    score_run(tmp_path / "run", SCORER)
    lines = (tmp_path / "run" / "scores.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    first, second = cells[:8], cells[8:]
    assert [row[0] for row in first[2:]] == [
        "model",
        "shuffled_images",
        "constant_report",
        "nearest_image",
        "gain from the image",
        "gain over constant_report",
    ]
    assert [*first[0][1:], *second[0][1:]] == list(SCORER.names)
    assert first[2][1] == "1.000" and first[6][1].startswith("+0.") and first[6][1].endswith("]*")
    assert len({len(line) for line in lines if line.startswith("|")}) == 2  # the columns of each block line up
    assert any("2000" not in line and "3 studies" in line for line in lines)


def test_a_finished_run_is_only_read_again(noise, tmp_path, monkeypatch):
    write_run(tmp_path / "run", GOOD)
    first = score_run(tmp_path / "run", SCORER)
    with monkeypatch.context() as patch:
        patch.setattr(report_scores.results, "_score", None)
        again = score_run(tmp_path / "run", SCORER)
    assert again.summary == json.loads(json.dumps(first.summary))
    assert all((again.statistics[row] == matrix).all() for row, matrix in first.statistics.items())
    assert score_run(tmp_path / "run", Scorer([ROUGE_L])).summary["scores"]["model"].keys() == {"ROUGE_L"}
    write_run(tmp_path / "run", POOR, name="20260102_000000")
    assert score_run(tmp_path / "run", SCORER).summary["scores"]["model"]["BLEU_4"]["value"] < 1


def test_a_baseline_that_cannot_be_had_is_left_out_and_named_until_it_can(noise, tmp_path):
    write_run(tmp_path / "run", GOOD)
    image = noise / "images" / "train" / "study 7.png"
    image.rename(tmp_path / "away.png")
    summary = score_run(tmp_path / "run", SCORER).summary
    assert "nearest_image" not in summary["scores"] and "study 7.png" in summary["left_out"]["nearest_image"]
    assert "nearest_image is left out: " in (tmp_path / "run" / "scores.md").read_text()
    (tmp_path / "away.png").rename(image)
    assert "nearest_image" in score_run(tmp_path / "run", SCORER).summary["scores"]


def test_a_test_file_that_changed_gives_no_baseline(noise, tmp_path):
    write_run(tmp_path / "run", GOOD)
    file = noise / "test_llava_llada.json"
    file.write_text(file.read_text() + "\n")
    summary = score_run(tmp_path / "run", SCORER).summary
    assert "not the file of the scores" in summary["left_out"]["nearest_image"]


def test_results_of_another_kind_are_one_line(noise, tmp_path):
    file = write_run(tmp_path / "run", GOOD)
    results = json.loads(file.read_text())
    results["configs"]["mimic_cxr"]["metadata"]["version"] = 1.0
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="version 1.0 of the task, not 2.0; evaluate again"):
        score_run(tmp_path / "run", SCORER)
    with pytest.raises(ValueError, match="no results"):
        score_run(tmp_path / "other", SCORER)


def test_several_models_are_compared_with_the_first(noise, tmp_path):
    runs = []
    for name, texts in (("good", GOOD), ("poor", POOR), ("twin", GOOD)):
        write_run(tmp_path / name, texts)
        runs.append(score_run(tmp_path / name, SCORER))
    comparison = compare_runs(runs, SCORER, tmp_path)
    assert comparison == json.loads((tmp_path / "comparison.json").read_text())
    good, poor, twin = comparison["models"]
    assert good["minus_first"] is None and good["scores"]["BLEU_1"]["value"] == 1
    difference = poor["minus_first"]["ROUGE_L"]
    assert difference["value"] == pytest.approx(poor["scores"]["ROUGE_L"]["value"] - good["scores"]["ROUGE_L"]["value"])
    assert difference["high"] < 0 and difference["excludes_0"] and difference["p"] < 0.001
    assert twin["minus_first"]["CIDEr"] == {"value": 0, "low": None, "high": None, "p": None, "excludes_0": False}
    assert set(comparison["baselines"]) == {"constant_report", "nearest_image"}
    table = (tmp_path / "comparison.md").read_text()
    assert "exp/poor - exp/good" in table and "gain from the image: exp/twin" in table


def test_models_on_different_studies_are_not_compared(noise, tmp_path):
    write_run(tmp_path / "all", GOOD)
    write_run(tmp_path / "two", {half: texts[:2] for half, texts in GOOD.items()})
    scorer = Scorer([ROUGE_L])
    with pytest.raises(ValueError, match="two and .*all were scored on different studies"):
        compare_runs([score_run(tmp_path / name, scorer) for name in ("all", "two")], scorer, tmp_path)


def test_few_studies_have_no_interval_and_no_star(noise, tmp_path, monkeypatch):
    """LIMIT=1: it had an interval of zero width, a star, and p = .0004."""
    monkeypatch.setattr(report_scores.results, "FEWEST", 4)
    write_run(tmp_path / "run", GOOD)
    runs = [score_run(tmp_path / "run", SCORER)] * 2
    for kind in ("gain_from_image", "gain_over_constant"):
        for found in runs[0].summary[kind].values():
            assert (found["low"], found["high"], found["p"], found["excludes_0"]) == (None, None, None, False)
    assert all(score["low"] is None for row in runs[0].summary["scores"].values() for score in row.values())
    compare_runs(runs, SCORER, tmp_path)
    for table in ((tmp_path / "run/scores.md").read_text(), (tmp_path / "comparison.md").read_text()):
        assert "No interval and no star where the studies are fewer than 20, or all score alike." in table
        assert " p=" not in table and "[" not in "".join(line for line in table.splitlines() if line.startswith("|"))


def test_what_does_not_vary_has_no_interval_and_says_so(noise, tmp_path):
    write_run(tmp_path / "run", {"model": TRUTH, "shuffled_images": ["Nothing"] * 3})
    summary = score_run(tmp_path / "run", SCORER).summary
    assert summary["scores"]["model"]["ROUGE_L"] == {"value": 1.0, "low": None, "high": None}
    assert summary["gain_from_image"]["ROUGE_L"]["excludes_0"] is False
    assert "or all score alike" in (tmp_path / "run/scores.md").read_text()


def test_a_difference_that_does_not_vary_says_so_too(noise, tmp_path):
    """A model that writes the same without its image: its scores vary, its gain from the image does not."""
    varied = ["Small effusion, no edema.", "Lungs are clear.", "No."]
    write_run(tmp_path / "run", {"model": varied, "shuffled_images": varied})
    run = score_run(tmp_path / "run", Scorer([ROUGE_L]))
    assert all(score["low"] is not None for score in run.summary["scores"]["model"].values())
    assert run.summary["gain_from_image"]["ROUGE_L"]["low"] is None
    assert "or all score alike" in (tmp_path / "run/scores.md").read_text()
