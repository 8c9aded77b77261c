"""Projectors by name (`mm_projector_type`)."""

from torch import nn

PROJECTORS = ("mlp2x_gelu", "linear", "identity")


def build_vision_projector(name: str, width_in: int, width_out: int) -> nn.Module:
    """A module from [..., width_in] to [..., width_out]. Raises ValueError on an unknown name or impossible widths."""
    if name == "mlp2x_gelu":
        return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
    if name == "linear":
        return nn.Linear(width_in, width_out)
    if name == "identity":
        if width_in != width_out:
            raise ValueError(f"mm_projector_type identity cannot take width {width_in} to {width_out}; use mlp2x_gelu")
        return nn.Identity()
    raise ValueError(f"unknown mm_projector_type {name!r}; known: {', '.join(PROJECTORS)}")
