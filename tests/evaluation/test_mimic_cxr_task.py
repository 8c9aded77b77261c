"""The task mimic_cxr as lmms_eval builds it, without a model."""

import json
import re

import pytest
import yaml
from lmms_eval.tasks import TaskManager
from lmms_eval_overlay import HERE

from report_scores.lmms_eval_output import PREFIXES, TASK_METRICS, TASK_VERSION
from report_scores.metrics.bleu import bleu_statistics
from report_scores.metrics.meteor import meteor_statistics
from report_scores.metrics.rouge import rouge_l
from report_scores.metrics.tokens import TOKEN

TASKS = str(HERE / "tasks")


def build_task():
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    return manager.load_task_or_group(["mimic_cxr"])["mimic_cxr"]


@pytest.fixture
def task(data):
    return build_task()


def test_documents_targets_and_images(task):
    docs = task.test_docs()
    assert len(docs) == 6
    assert task.doc_to_text(docs[2]).startswith("<image>\nProvide a detailed description")
    assert task.doc_to_target(docs[2]) == "Small left effusion. No pneumothorax. Image 1."
    [image] = task.doc_to_visual(docs[2])
    assert (image.mode, image.getpixel((9, 9))) == ("RGB", (10, 10, 10))


def test_a_report_may_have_blank_lines(task):
    assert task.config.generation_kwargs == {"until": []}


def test_each_half_has_its_own_scores(task):
    real, twin = task.test_docs()[0], task.test_docs()[1]
    ours = task.process_results(real, [" Lungs are clear. "])
    theirs = task.process_results(twin, ["Lungs are clear."])
    assert set(ours) == {*TASK_METRICS, *(f"constant_report_{metric}" for metric in TASK_METRICS)}
    assert set(theirs) == {f"shuffled_images_{metric}" for metric in TASK_METRICS}
    assert set(ours) | set(theirs) == set(task.aggregation())

    report = real["report"]
    [bleu], [meteor] = (count(["Lungs are clear."], [report]) for count in (bleu_statistics, meteor_statistics))
    assert ours["BLEU_4"] == theirs["shuffled_images_BLEU_4"] == bleu.tolist()
    assert ours["METEOR"] == theirs["shuffled_images_METEOR"] == meteor.tolist()
    json.dumps(ours)  # as lmms_eval writes it
    assert ours["ROUGE_L"] == rouge_l("Lungs are clear.", report)
    assert ours["constant_report_ROUGE_L"] == rouge_l(real["constant_report"], report)


def test_aggregations_are_those_of_the_scorer(task):
    docs = task.test_docs()
    items = [task.process_results(docs[index], [docs[index]["report"]]) for index in (0, 2, 4)]
    for name in TASK_METRICS:
        assert task.aggregation()[name]([item[name] for item in items]) == pytest.approx(1)


def test_results_say_what_was_scored_and_how(task):
    metadata = task.dump_config()["metadata"]
    assert metadata["test_studies"] == 3 and re.fullmatch("[0-9a-f]{64}", metadata["test_sha256"])
    assert metadata["normalisation"] == f"lower case, tokens {TOKEN.pattern}" and metadata["version"] == TASK_VERSION


def test_without_training_reports_the_constant_report_is_left_out(data):
    (data / "train_llava_llada.json").unlink()
    task = build_task()
    assert set(task.process_results(task.test_docs()[0], ["Clear."])) == set(TASK_METRICS)
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
    assert [entry["metric"] for entry in config["metric_list"]] == [
        f"{prefix}{metric}" for prefix in PREFIXES.values() for metric in TASK_METRICS
    ]
