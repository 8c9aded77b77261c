"""Weights of some of a model's parts, from a file or a folder that has those alone."""

from torch import Tensor, nn


def load_parts(model: nn.Module, state: dict[str, Tensor], prefixes: tuple[str, ...], source: str, remedy: str) -> None:
    """Reads the `state` of the parts whose weights have one of the prefixes into a model.

    Raises ValueError, naming the `source`, a weight and the remedy, unless they are those of the model's parts.
    """
    weights = {name: weight for name, weight in model.state_dict().items() if name.startswith(prefixes)}
    given = {weights[name].data_ptr() for name in state if name in weights}  # tied weights are saved under one name
    own = {
        name: list(weight.shape) for name, weight in weights.items() if name in state or weight.data_ptr() not in given
    }
    shapes = {name: list(weight.shape) for name, weight in state.items()}
    if shapes != own:
        name = min(name for name in shapes | own if shapes.get(name) != own.get(name))
        found, needed = (f"of shape {each[name]}" if name in each else "not at all" for each in (shapes, own))
        raise ValueError(f"{source} has {name} {found}, the model {needed}; {remedy}")
    model.load_state_dict(state, strict=False)
