"""Loading that refuses a folder whose weights are not all there."""

import json
from pathlib import Path

from safetensors import safe_open
from transformers import PreTrainedModel


def read_config(folder: str | Path, config: str = "config.json") -> dict:
    """The config of a model folder, as JSON. Raises ValueError, naming the file, if it is not there or not whole."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"model folder {folder} does not exist")
    if not (path / config).is_file():
        raise ValueError(f"model folder {folder} is incomplete: {config} is missing; copy or train it again")
    return _read_json(path / config)


def check_folder(
    folder: str | Path, *files: str, config: str = "config.json", weights: str = "model.safetensors"
) -> dict:
    """The config of a model folder, as JSON.

    Raises ValueError, naming the file, unless config, safetensors weights and `files` are there and whole.
    """
    found, shards = read_config(folder, config), weight_files(folder, weights)
    for file in (*(Path(folder) / name for name in files), *shards):
        if not file.is_file():
            raise ValueError(f"model folder {folder} is incomplete: {file.name} is missing; copy or train it again")
    for file in shards:
        try:
            safe_open(file, framework="pt")  # compares the file's length with its header
        except Exception as error:
            raise ValueError(f"{file} is damaged ({error}); copy or train it again") from error
    return found


def weight_files(folder: str | Path, weights: str = "model.safetensors") -> list[Path]:
    """The files that hold a model's weights: one, or those that an index names."""
    path = Path(folder)
    index = path / f"{weights}.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else [weights]
    return [path / name for name in names]


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy or train it again") from error


def load_whole(model_class: type[PreTrainedModel], folder: str, **kwargs) -> PreTrainedModel:
    """`model_class.from_pretrained(folder)` from safetensors files.

    Raises ValueError if a weight is missing or has another shape than the config says; transformers would leave it
    random.
    """
    model, info = model_class.from_pretrained(
        folder, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
    )
    lacking = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if lacking:
        raise ValueError(
            f"{folder} lacks the weight {lacking[0]} in the shape of its config: its files do not belong together; "
            "copy or train it again"
        )
    if "key_mapping" in kwargs:
        del model._weight_conversions  # with these `save_pretrained` would write the old names
    return model
