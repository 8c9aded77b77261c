"""Adds the models llava_oneversion_qwen and diffa and the task mimic_cxr to the published lmms_eval package.

lmms_eval calls `register` through the entry-point group `lmms_eval.models` before it builds its list of tasks. There
is no entry point for tasks and none of our folders is an importable package, so that Python never takes our folder
`lmms_eval` for the published one: `register` adds the folders to the search paths instead.
"""

import functools
import inspect
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent / "lmms_eval"
MODELS = {"llava_oneversion_qwen": "LlavaOneVersionQwen", "diffa": "Diffa"}


def register():
    """Make models and task known to lmms_eval and return the models' manifests; calling it again changes nothing.

    Raises ValueError when lmms_eval has another way of finding its tasks than the pinned version.
    """
    import lmms_eval.models.simple as simple
    from lmms_eval.models.registry_v2 import ModelManifest
    from lmms_eval.tasks import TaskManager

    models = str(HERE / "models" / "simple")
    if models not in simple.__path__:
        simple.__path__.append(models)
        TaskManager.initialize_tasks = _with_our_tasks(TaskManager.initialize_tasks)
    classes = {name: f"{simple.__name__}.{name}.{model}" for name, model in MODELS.items()}
    return [ModelManifest(model_id=name, simple_class_path=path) for name, path in classes.items()]


def _with_our_tasks(initialize_tasks):
    parameters = list(inspect.signature(initialize_tasks).parameters)
    if parameters != ["self", "include_path", "include_defaults"]:
        raise ValueError(f"TaskManager.initialize_tasks takes {parameters}: install lmms_eval==0.7.3")

    @functools.wraps(initialize_tasks)
    def wrapper(self, include_path=None, include_defaults=True):
        paths = [include_path] if isinstance(include_path, str) else list(include_path or [])
        full_load, yaml.full_load = yaml.full_load, load_yaml
        try:
            return initialize_tasks(self, [*paths, str(HERE / "tasks")], include_defaults)
        finally:
            yaml.full_load = full_load

    return wrapper


def load_yaml(stream):
    """`yaml.full_load` by libyaml, where it is there: lmms_eval reads 3,000 files at every start, which took it five
    seconds.
    """
    loader = getattr(yaml, "CFullLoader", yaml.FullLoader)
    loader.yaml_constructors = yaml.FullLoader.yaml_constructors  # !function is one of lmms_eval
    return yaml.load(stream, loader)
