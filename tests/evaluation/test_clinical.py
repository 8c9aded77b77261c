"""The clinical scores through a stand-in of radeval: its weights are not to be had where the tests run."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import report_scores.metrics.clinical
from oracles.report_runs import write_noise_images, write_run
from report_scores.__main__ import main
from report_scores.metrics.clinical import VERSION, clinical_metrics
from report_scores.scorer import LABEL_F1, Scorer

WORDS = ("edema", "effusion", "nodule")
TRUTH = ["edema and effusion", "nodule", "clear"]
MADE = ["mild edema", "nodule and effusion", "clear"]


class RadEval:
    """The interface of radeval.RadEval; scores that depend on which text is the reference."""

    def __init__(self, metrics, per_sample, show_progress):
        assert per_sample and not show_progress
        self.metric = metrics[0]

    def __call__(self, refs, hyps):
        assert isinstance(refs, list) and isinstance(hyps, list)
        if self.metric == "radcliq":
            return {"radcliq_v1": [float(len(hyp) - 2 * len(ref)) for ref, hyp in zip(refs, hyps, strict=True)]}
        partial = [float(ref == hyp) for ref, hyp in zip(refs, hyps, strict=True)]
        return {
            "radgraph_simple": [9.0] * len(refs),
            "radgraph_partial": partial,
            "radgraph_complete": [9.0] * len(refs),
        }


class F1CheXbert:
    """The interface of radeval.metrics.f1chexbert.F1CheXbert: one column of 0 and 1 for each of WORDS."""

    def __init__(self, device):
        assert device in ("cpu", "cuda")

    def get_labels(self, reports):
        return [[int(word in report) for word in WORDS] for report in reports]


@pytest.fixture
def radeval(monkeypatch):
    """Stand-in modules for radeval; returns the module of CheXbert."""
    package, chexbert = ModuleType("radeval"), ModuleType("radeval.metrics.f1chexbert")
    package.RadEval, chexbert.F1CheXbert = RadEval, F1CheXbert
    monkeypatch.delitem(sys.modules, "RadEval", raising=False)
    monkeypatch.setitem(sys.modules, "radeval", package)
    monkeypatch.setitem(sys.modules, "radeval.metrics", ModuleType("radeval.metrics"))
    monkeypatch.setitem(sys.modules, "radeval.metrics.f1chexbert", chexbert)
    yield chexbert
    sys.modules.pop("RadEval", None)


def test_scores_of_the_corpus(radeval):
    scorer = Scorer(clinical_metrics())
    statistics = scorer.statistics(MADE, TRUTH)
    scores = scorer.scores(statistics.sum(axis=0))
    assert scores == {
        "CheXbert_F1": pytest.approx(2 * 2 / (3 + 3)),
        "RadGraph_F1": pytest.approx(1 / 3),
        "RadCliQ_v1": pytest.approx(np.mean([10 - 36, 19 - 12, 5 - 10])),
    }
    halves = [scorer.statistics(MADE[part], TRUTH[part]) for part in (slice(0, 1), slice(1, 3))]
    assert np.array_equal(np.concatenate(halves), statistics)


def test_radgraph_finds_the_package_under_the_name_it_uses(radeval):
    clinical_metrics()
    assert sys.modules["RadEval"] is sys.modules["radeval"]


def test_the_version_is_pinned():
    file = Path(report_scores.metrics.clinical.__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    assert project["optional-dependencies"]["clinical"] == [f"radeval=={VERSION}"]


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(ValueError, match=rf"^clinical scores: radeval .*pip install radeval=={VERSION}[^\n]*$"):
        clinical_metrics()


def test_without_its_weights_one_line_names_the_model(radeval, monkeypatch):
    def no_network(self, device):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your connection.")

    monkeypatch.setattr(radeval.F1CheXbert, "__init__", no_network)
    with pytest.raises(
        ValueError, match=r"^CheXbert_F1 cannot be loaded \(We couldn't connect[^\n]*at first use[^\n]*$"
    ):
        clinical_metrics()


def test_the_table_has_them_only_when_asked_for(radeval, data, tmp_path, monkeypatch, capsys):
    write_noise_images(data, train=12, test_from=4)
    monkeypatch.setattr("report_scores.__main__.METRICS", (LABEL_F1,))  # the others take their time
    run = tmp_path / "run"
    write_run(run, {"model": MADE, "shuffled_images": MADE})
    main(["report", str(run)])
    assert "CheXbert_F1" not in capsys.readouterr().out
    main(["report", str(run), "--clinical"])
    table = capsys.readouterr().out
    assert all(name in table for name in ("label_F1", "CheXbert_F1", "RadGraph_F1", "RadCliQ_v1"))
    monkeypatch.setitem(sys.modules, "radeval", None)
    with pytest.raises(ValueError, match="^clinical scores: radeval"):
        main(["report", str(run), "--clinical"])
