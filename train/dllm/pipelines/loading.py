"""Loading that refuses a folder whose files are not all there, are damaged, or do not belong together."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from dllm.data.files import may_lack_weights, read_json
from dllm.program import describe, is_of_file_system, one_line

REMEDY = "copy or train it again"


def read_config(folder: str | Path, config: str = "config.json") -> dict:
    """The config of a model folder, as JSON. Raises ValueError, naming the file, if it is not there or not whole."""
    if not Path(folder).is_dir():
        raise ValueError(f"model folder {folder} does not exist")
    _check_there(Path(folder) / config)
    return read_json(Path(folder) / config, REMEDY)


def check_folder(
    folder: str | Path, *files: str, config: str = "config.json", weights: str = "model.safetensors"
) -> dict:
    """The config of a model folder, as JSON.

    Raises ValueError, naming the file, unless config, safetensors weights and `files` are there and whole.
    """
    found = read_config(folder, config)
    shards = [] if may_lack_weights(folder, weights) else weight_files(folder, weights)
    for file in (*(Path(folder) / name for name in files), *shards):
        _check_there(file)
    for file in shards:
        try:
            safe_open(file, framework="pt")  # compares the file's length with its header
        except Exception as error:
            raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error
    return found


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"model folder {file.parent} is incomplete: {file.name} is missing; {REMEDY}")
    with open(file, "rb"):  # or it may not be read, which is no damage
        pass


def weight_files(folder: str | Path, weights: str = "model.safetensors") -> list[Path]:
    """The files that hold a model's weights: one, or those that an index names."""
    index = Path(folder) / f"{weights}.index.json"
    if not index.is_file():
        return [Path(folder) / weights]
    names = read_json(index, REMEDY).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()) or not names:
        raise ValueError(f"{index} names no files of weights; {REMEDY}")
    return [Path(folder) / name for name in sorted(set(names.values()))]


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """Turns whatever a library makes of the files in a model folder into a ValueError that names the folder."""
    try:
        yield
    except Exception as error:
        if is_of_file_system(error) or (isinstance(error, ValueError) and str(folder) in str(error)):
            raise
        if describe(error) and not isinstance(error, ValueError | OSError):  # out of memory
            raise
        raise ValueError(f"{folder} cannot be loaded ({type(error).__name__}: {one_line(error)}); {REMEDY}") from error


def load_whole(model_class: type[PreTrainedModel], folder: str, **kwargs) -> PreTrainedModel:
    """`model_class.from_pretrained(folder)` from safetensors files; see also `dllm.data.files.weights_optional`.

    Raises ValueError if a weight is missing, has another shape than the config says (transformers would leave it
    random), or holds anything but finite numbers.
    """
    if may_lack_weights(folder):
        with reading(folder), torch.device("meta"):
            config = kwargs.get("config") or model_class.config_class.from_pretrained(folder)
            return model_class(config).to(kwargs.get("dtype"))
    with reading(folder):
        model, info = model_class.from_pretrained(
            folder, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
        )
    lacking = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if lacking:
        problem = f"lacks the weight {lacking[0]} in the shape of its config: its files do not belong together"
        raise ValueError(f"{folder} {problem}; {REMEDY}")
    if "key_mapping" in kwargs:
        del model._weight_conversions  # with these `save_pretrained` would write the old names
    for name, weight in model.named_parameters():
        if weight.numel() and not torch.stack(weight.aminmax()).isfinite().all():
            raise ValueError(f"{folder}: the weight {name} holds NaN or infinite numbers; {REMEDY}")
    return model
