"""The task mimic_cxr as lmms_eval builds it, without a model."""

import re

import pytest
import yaml
from lmms_eval.tasks import TaskManager
from lmms_eval_overlay import HERE
from report_metrics import METRICS, bleu_statistics, rouge_l

TASKS = str(HERE / "tasks")


def build_task():
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    return manager.load_task_or_group(["mimic_cxr"])["mimic_cxr"]


@pytest.fixture
def task(data):
    return build_task()


def test_documents_targets_and_films(task):
    docs = task.test_docs()
    assert len(docs) == 6
    assert task.doc_to_text(docs[2]).startswith("<image>\nProvide a detailed description")
    assert task.doc_to_target(docs[2]) == "Small left effusion. No pneumothorax. Film 1."
    [film] = task.doc_to_visual(docs[2])
    assert (film.mode, film.getpixel((0, 0))) == ("RGB", (10, 10, 10))


def test_a_report_may_have_blank_lines(task):
    assert task.config.generation_kwargs == {"until": []}


def test_each_half_has_its_own_scores(task):
    real, twin = task.test_docs()[0], task.test_docs()[1]
    ours = task.process_results(real, [" Lungs are clear. "])
    theirs = task.process_results(twin, ["Lungs are clear."])
    assert set(ours) == {*METRICS, *(f"constant_report_{metric}" for metric in METRICS)}
    assert set(theirs) == {f"shuffled_images_{metric}" for metric in METRICS}
    assert set(ours) | set(theirs) == set(task.aggregation())

    report = real["report"]
    assert ours["BLEU_4"] == theirs["shuffled_images_BLEU_4"] == bleu_statistics("Lungs are clear.", report)
    assert ours["METEOR"] == ["Lungs are clear.", report]
    assert ours["ROUGE_L"] == rouge_l("Lungs are clear.", report)
    assert ours["constant_report_ROUGE_L"] == rouge_l(real["constant_report"], report)


def test_aggregations_are_those_of_report_metrics(task):
    docs = task.test_docs()
    items = [task.process_results(docs[index], [docs[index]["report"]]) for index in (0, 2, 4)]
    for name in ("BLEU_1", "BLEU_4", "ROUGE_L"):
        assert task.aggregation()[name]([item[name] for item in items]) == pytest.approx(1)
    assert task.aggregation()["METEOR"].__name__ == "corpus_meteor"


def test_results_say_what_was_scored_and_how(task):
    metadata = task.dump_config()["metadata"]
    assert metadata["test_studies"] == 3 and re.fullmatch("[0-9a-f]{64}", metadata["test_sha256"])
    assert r"\w+|[^\w\s]" in metadata["normalisation"] and metadata["scale"] == "0-1"


def test_without_training_reports_the_constant_report_is_left_out(data):
    (data / "train_llava_llada.json").unlink()
    task = build_task()
    assert set(task.process_results(task.test_docs()[0], ["Clear."])) == set(METRICS)
    assert "left out" in task.dump_config()["metadata"]["constant_report"]


def test_bad_data_is_one_line_at_once(data, capsys):
    (data / "images" / "test" / "study 2.png").unlink()
    with pytest.raises(SystemExit, match=r"error: .*test-2.*study 2\.png"):
        build_task()
    (data / "test_llava_llada.json").unlink()
    with pytest.raises(SystemExit, match="error: .*test_llava_llada.json: no such file"):
        build_task()


def test_java_is_asked_for_first(data, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="openjdk-17-jre-headless"):
        build_task()


def test_every_metric_of_the_yaml_is_one_of_three_rows():
    yaml.add_constructor("!function", lambda loader, node: node.value, yaml.SafeLoader)
    config = yaml.safe_load((HERE / "tasks/mimic_cxr/mimic_cxr.yaml").read_text())
    rows = ("", "shuffled_images_", "constant_report_")
    assert [entry["metric"] for entry in config["metric_list"]] == [
        f"{row}{metric}" for row in rows for metric in METRICS
    ]
