"""Frozen parts, which a model's folder and checkpoints name, by folder and SHA-256, instead of holding them."""

from pathlib import Path

from torch import nn

from dllm.data.files import weights_sha256


def identify(folder: str) -> dict[str, str]:
    """What names the weights of a folder."""
    return {"folder": str(Path(folder).resolve()), "sha256": weights_sha256(folder)}


def check_same(what: str, named: dict[str, str], folder: str) -> None:
    """Raises ValueError if the weights of `folder` are not those that were `named`; `what` is who named them."""
    found = identify(folder)["sha256"]
    if found != named["sha256"]:
        known = f"{what} was trained with the weights of {named['folder']}, sha256 {named['sha256'][:12]}..."
        raise ValueError(f"{known}; {folder} has others, {found[:12]}...; give a folder with the same")


def leave_out(model: nn.Module) -> None:
    """Has the model's state dict hold no weights of the parts in `model.config.frozen`, and one that is loaded need
    none.
    """
    model.register_state_dict_post_hook(_drop)
    model.register_load_state_dict_post_hook(_forgive)


def _drop(model: nn.Module, state: dict, before: str, _) -> None:
    prefixes = tuple(before + model.parts[part] for part in model.config.frozen)
    for name in [name for name in state if name.startswith(prefixes)]:
        del state[name]


def _forgive(model: nn.Module, incompatible) -> None:
    prefixes = [f".{model.parts[part]}" for part in model.config.frozen]
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not any(prefix in f".{name}" for prefix in prefixes)]
