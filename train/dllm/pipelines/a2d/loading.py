"""Folders of decoders, as published or as trained here, as masked-diffusion language models."""

from collections.abc import Iterable

from transformers import AutoConfig

from dllm.pipelines.a2d.modeling_a2d import FAMILIES, A2DLMHeadModel
from dllm.pipelines.loading import load_whole, read_config, reading

PREFIX = "a2d-"


def load_a2d(folder: str, *families: str, **kwargs) -> A2DLMHeadModel:
    """The model of a folder of one of the families (all if none is named): plain, or its masked-diffusion twin.

    A plain one is bidirectional until its config is told otherwise. `kwargs` as in `from_pretrained`. Raises ValueError
    on any other model type, or if a weight is missing.
    """
    model_class = FAMILIES[read_family(folder, families or tuple(FAMILIES))]
    with reading(folder):
        config = AutoConfig.from_pretrained(folder)
        if not isinstance(config, model_class.config_class):
            values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
            config = model_class.config_class(**values)
    return load_whole(model_class, folder, config=config, **kwargs)


def read_family(folder: str, families: Iterable[str] = tuple(FAMILIES)) -> str:
    """The family of a folder. Raises ValueError unless it is one of these."""
    found = str(read_config(folder).get("model_type"))
    if found.removeprefix(PREFIX) not in families:
        known = ", ".join(f"{family} or {PREFIX}{family}" for family in families)
        raise ValueError(f"{folder} holds a {found} model; a {known} folder is needed")
    return found.removeprefix(PREFIX)


def load_qwen3(folder: str, **kwargs) -> A2DLMHeadModel:
    """`load_a2d` of a plain Qwen3 folder or of an `a2d-qwen3` folder."""
    return load_a2d(folder, "qwen3", **kwargs)
