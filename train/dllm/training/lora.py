"""LoRA on the language model: its own weights freeze, a low-rank adapter in its decoder layers learns in their place.

peft puts the adapter into the model in place: the model keeps its class, and training and sampling call it as before.
What is saved is always a plain whole model, into whose weights the adapter is merged; the adapter itself lies beside it
in the folder `lora`, in peft's own format. Merging works on a state dict, which every way of sharding can gather.
"""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_NAME

from dllm.core.language_model import MaskedDiffusionLM

FOLDER = "lora"
ADAPTER_FILE = "adapter_model.safetensors"  # peft's name
PEFT_PREFIX = "base_model.model."  # of the same weights in peft's files
BASE = ".base_layer."  # peft's name for the layer that an adapter surrounds
ADAPTER = ".default."  # peft's name for the one adapter


def add_lora(model: MaskedDiffusionLM, rank: int, alpha: int, dropout: float, base: str) -> None:
    """Freezes the language model, puts a new adapter around every linear layer of its decoder layers.

    A layer's output changes by alpha / rank times the adapter's, which is 0 at first. `base` is the folder that the
    weights came from, for peft's file.
    """
    language = model.decoder
    linear = [name for name, module in language.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if "layers." in name]  # not the head
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": targets}
    inject_adapter_in_model(LoraConfig(**settings, base_model_name_or_path=base), language)


def take_adapter(model: MaskedDiffusionLM | PeftModel) -> MaskedDiffusionLM:
    """The model inside the wrapper of peft's `get_peft_model`, whose adapter is then one as of `add_lora`.

    Raises ValueError for what `merge` could not merge: another kind of adapter, or one beyond the language model.
    """
    if not isinstance(model, PeftModel):
        return model
    config, inside = model.peft_config.get("default"), model.get_base_model()
    plain = isinstance(config, LoraConfig) and not (config.use_dora or config.use_rslora or config.rank_pattern)
    if not plain or config.modules_to_save or config.bias != "none" or len(model.peft_config) > 1:
        raise ValueError("only a plain LoRA can be merged into what is saved: give LoraConfig r, lora_alpha and names")
    beyond = [name for name, weight in inside.named_parameters() if ".lora_" in name and weight.requires_grad]
    beyond = [name for name in beyond if not name.startswith(inside.language_model_prefix)]
    if beyond:
        raise ValueError(f"target_modules of the adapter take in {beyond[0]}, outside the language model; name others")
    inside.decoder.peft_config = model.peft_config
    return inside


def lora_config(model: MaskedDiffusionLM) -> LoraConfig | None:
    """The settings of a model's adapter, None without one."""
    return getattr(model.decoder, "peft_config", {}).get("default")


def merge(state: dict[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The state dict of the plain model: W + alpha / r B A for W [out, in], B [out, r], A [r, in]; summed in fp32."""
    merged, scale = {}, config.lora_alpha / config.r
    for name, weight in state.items():
        layer = name.removesuffix(f"{BASE}weight")
        if layer != name:
            up, down = (state[f"{layer}.lora_{side}{ADAPTER}weight"].float() for side in "BA")
            merged[f"{layer}.weight"] = weight.float() + (up @ down) * scale  # a small change may round away
        elif ".lora_" not in name:
            merged[name.replace(BASE, ".")] = weight
    return merged


def save_lora(state: dict[str, Tensor], config: LoraConfig, prefix: str, folder: str) -> None:
    """Writes the adapter of a whole model's state dict to `folder`/lora; `prefix` is that of the language model."""
    target = Path(folder) / FOLDER
    config.save_pretrained(target)
    adapter = {
        PEFT_PREFIX + name.removeprefix(prefix).replace(ADAPTER, "."): weight.contiguous()
        for name, weight in state.items()
        if ".lora_" in name
    }
    save_file(adapter, target / ADAPTER_FILE, metadata={"format": "pt"})


def load_lora(model: MaskedDiffusionLM, folder: str) -> None:
    """Reads a saved `folder` back into a model to which `add_lora` gave an adapter: all but the weights that the
    adapter is merged into, which the model has already.

    Raises ValueError if those weights are not the ones that the adapter was trained on.
    """
    plain, prefix = load_file(Path(folder) / SAFE_WEIGHTS_NAME), model.language_model_prefix
    state = {name: weight for name, weight in plain.items() if not name.startswith(prefix)}
    for name, weight in load_file(Path(folder) / FOLDER / ADAPTER_FILE).items():
        layer = name.removeprefix(PEFT_PREFIX).removesuffix(".weight")
        state[f"{prefix}{layer}{ADAPTER}weight"] = weight
    model.load_state_dict(state, strict=False)
    config = lora_config(model)
    merged = merge(model.state_dict(), config)
    for name, weight in plain.items():  # within what another device rounds
        if not torch.allclose(merged[name].cpu().float(), weight.float(), rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"{folder} was trained on other weights than those of {config.base_model_name_or_path}; give the same "
                "--model_name_or_path or another --output_dir"
            )
