"""What the overlay relies on in the published lmms_eval package, and what it adds to it."""

import inspect
from importlib.metadata import entry_points, version
from pathlib import Path

import lmms_eval.tasks
import lmms_eval_overlay
import pytest
import yaml
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_eval_overlay import HERE, _with_our_tasks, load_yaml, register

from dllm.program import BUG, boundary


def test_the_pinned_version_is_the_published_package():
    assert version("lmms_eval") == "0.7.3"
    assert HERE not in [*map(type(HERE), lmms_eval.__path__)]
    assert not list(HERE.rglob("__init__.py"))


def test_the_entry_point_is_ours():
    [entry_point] = [point for point in entry_points(group="lmms_eval.models") if point.name == "llava_oneversion_qwen"]
    assert entry_point.load() is register


def test_model_is_a_simple_one():
    model = get_model("llava_oneversion_qwen")
    assert issubclass(model, lmms) and model.is_simple
    assert model.__name__ == "LlavaOneVersionQwen"


def test_task_is_found_whatever_else_is_included(tmp_path):
    (tmp_path / "other.yaml").write_text("task: other_task\n")
    ours = TaskManager(include_path=str(tmp_path)).task_index
    assert ours["mimic_cxr"]["yaml_path"] == str(HERE / "tasks" / "mimic_cxr" / "mimic_cxr.yaml")
    assert "other_task" in ours and "coco2017_cap_val" in ours


def test_files_of_tasks_are_read_by_libyaml_as_by_yaml(monkeypatch):
    files = sorted(Path(lmms_eval.tasks.__file__).parent.rglob("*.yaml"))[::40]
    assert len(files) > 40 and yaml.__with_libyaml__
    texts = ["run: !function utils.run", *(file.read_text() for file in files)]
    yaml.add_constructor("!function", lambda loader, node: node.value)  # as lmms_eval adds its own
    assert [load_yaml(text) for text in texts] == [yaml.full_load(text) for text in texts]
    before, read = yaml.full_load, []
    monkeypatch.setattr(lmms_eval_overlay, "load_yaml", lambda stream: read.append(stream) or load_yaml(stream))
    assert "mimic_cxr" in TaskManager(include_defaults=False).task_index
    assert read and yaml.full_load is before


def test_registering_twice_changes_nothing():
    import lmms_eval.models.simple as simple

    before = list(simple.__path__), TaskManager.initialize_tasks
    assert register() == register()
    assert (list(simple.__path__), TaskManager.initialize_tasks) == before


def test_another_way_of_finding_tasks_is_refused():
    assert list(inspect.signature(TaskManager.initialize_tasks).parameters) == [
        "self",
        "include_path",
        "include_defaults",
    ]

    def initialize_tasks(self, roots):
        return {}

    with pytest.raises(ValueError, match="install lmms_eval==0.7.3"):
        _with_our_tasks(initialize_tasks)


@pytest.mark.parametrize(
    "error, status", [(ValueError("no image"), "error: no image"), (KeyError("a"), f"error: 'a' (KeyError); {BUG}")]
)
def test_errors_end_the_process(error, status, capsys):
    with pytest.raises(SystemExit) as exit_, boundary():
        raise error
    assert exit_.value.code == status
    assert ("KeyError: 'a'" in capsys.readouterr().err) == isinstance(error, KeyError)
