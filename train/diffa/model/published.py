"""The published DIFFA and DIFFA-2 checkpoints: which of their weights is which of ours.

A file of theirs also holds copies of the frozen parts, `whisper_model.*` and `llm_model.*`, which are not read: those
come from folders of their own.
"""

import re

import torch
from torch import Tensor

FROZEN = ("whisper_model.", "llm_model.")
NAMES = {  # a regular expression -> what takes its place
    r"^trainable_prompts\.": "semantic_adapter.prompts.",
    r"^semantic_connector\.": "semantic_adapter.",
    r"^acoustic_connector\.": "acoustic_adapter.",
    r"(\.layer\.\d+\.(?:cross)?attention)\.self\.": r"\1.attention.",  # BERT's layers, in the names of BLIP-2's
    r"(\.layer\.\d+)\.intermediate\.": r"\1.intermediate_query.",
    r"(\.layer\.\d+)\.output\.": r"\1.output_query.",
}
LAYER_PROMPTS = "acoustic_adapter.layer_prompts"


def rename(name: str) -> str:
    """Our name of a published weight."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def convert(state: dict[str, Tensor], stage: int) -> dict[str, Tensor]:
    """The adapters' weights of a published state dict, as a model of this stage has them: stage 1 has learnt prompts
    and no acoustic adapter, stage 2 the reverse. The queries of the layers, [1, queries, W] each, become one weight.
    """
    left_behind = "semantic_adapter.prompts." if stage == 2 else "acoustic_adapter."
    named = {rename(name): weight for name, weight in state.items() if not name.startswith(FROZEN)}
    found = {name: weight for name, weight in named.items() if not name.startswith(left_behind)}
    layers = sorted(int(name.rpartition(".")[2]) for name in found if name.startswith(LAYER_PROMPTS))
    if layers:
        found[LAYER_PROMPTS] = torch.cat([found.pop(f"{LAYER_PROMPTS}.{layer}") for layer in layers])
    return found
