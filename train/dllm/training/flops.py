"""What a training step costs: floating-point operations, and bytes kept for its backward pass.

Both are sums over four sizes of a batch (`Cost`). Their coefficients are read off once, by running the model on the
meta device, whose tensors have shapes and no data; after that they cost a multiplication, whatever kernels the run
itself uses. Forward counts once, and so does the gradient of every product's input that gradient must flow through and
of every weight that is trained. Recomputation (gradient checkpointing, chunks of the head, attention kernels) does not
count.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from dllm.core.head import head_losses
from dllm.core.language_model import MaskedDiffusionLM

LENGTH = 8  # of the shortest of three sequences that tell what a token costs, what a pair of tokens, and what a weight

# Dense bf16 rate of a GPU in operations per second, from NVIDIA's data sheets; by the end of the name CUDA gives it,
# because cards of one family differ (PCIe, NVL, laptops).
PEAKS = {
    r"A100\b.*": 312e12,
    r"H100 80GB HBM3": 989e12,
    r"H200": 989e12,
    r"L40S": 362e12,
    r"RTX A6000": 155e12,
    r"RTX 4090": 165e12,
    r"RTX 5090": 210e12,
}


def peak_rate(device_name: str) -> float | None:
    """Dense bf16 operations per second of a GPU of that name; None if it is not known."""
    return next((rate for name, rate in PEAKS.items() if re.search(rf"\b{name}$", device_name)), None)


def device_rate(device: torch.device) -> float | None:
    """`peak_rate` of a device; None for a CPU."""
    return peak_rate(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


class Cost(NamedTuple):
    """What each unit of a batch's sizes adds to a step: operations, or bytes.

    tokens    that the trunk is fed, every copy of a packed response
    pairs     of a token and one that it may attend to; the whole rectangle for a kernel that computes it
    targets   rows of the head
    inputs    that the model is given beside text
    """

    per_token: int
    per_pair: int
    per_target: int
    per_input: int = 0

    def __call__(self, tokens, pairs, targets, inputs=0):
        """The cost of these sizes, numbers or tensors."""
        return sum(unit * size for unit, size in zip(self, (tokens, pairs, targets, inputs), strict=True))


def step_costs(model: MaskedDiffusionLM, dtype: torch.dtype | None = None) -> tuple[Cost, Cost]:
    """Operations, and bytes kept for the backward pass, of a training step.

    The step computes in `dtype` (default: that of the weights). Call it before gradient checkpointing is switched on
    and before the weights are partitioned.
    """
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    function, example = model.input_path() or (None, None)
    per_input, prompt_flows = measure(Part(model, function), example, dtype) if function else ((0, 0), False)
    trunk, head = Part(model, partial(_trunk, prompt_flows=prompt_flows)), Part(model, _head)
    ids = torch.zeros(1, 3 * LENGTH, dtype=torch.long)
    (once, flows), (twice, _), (thrice, _) = (measure(trunk, ids[:, : n * LENGTH], dtype) for n in (1, 2, 3))
    hidden = torch.zeros(LENGTH, model.diffusion.hidden_size, dtype=dtype or model.dtype, requires_grad=flows)
    rows, _ = measure(head, hidden, dtype)
    costs = []
    for one, two, three, row, own in zip(once, twice, thrice, rows, per_input, strict=True):
        per_pair = (three - 2 * two + one) // (2 * LENGTH**2)
        per_token = (two - one) // LENGTH - 3 * per_pair * LENGTH  # what is left, a cast of a norm's weight, is little
        costs.append(Cost(per_token, per_pair, row // LENGTH, own))
    return tuple(costs)


class Part(nn.Module):
    """A function of a model and a tensor, as a module that has the model's weights."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, example: Tensor) -> Tensor:
        return self.function(self.model, example)


def _trunk(model: MaskedDiffusionLM, ids: Tensor, prompt_flows: bool) -> Tensor:
    """Embeddings and trunk, from ids [B, n]."""
    embeds = model.embed(ids)
    if prompt_flows and not embeds.requires_grad:
        embeds.requires_grad_()
    return model.trunk(embeds, None, torch.arange(ids.shape[1], device=ids.device)[None])


def _head(model: MaskedDiffusionLM, hidden: Tensor) -> Tensor:
    """Head and loss, from hidden states [n, D]."""
    return head_losses(model, hidden, torch.zeros(len(hidden), dtype=torch.long, device=hidden.device))


def measure(module: nn.Module, example: Tensor, dtype: torch.dtype | None = None) -> tuple[tuple[int, int], bool]:
    """(operations, bytes kept for the backward pass) of a module's forward and backward pass on an example, and whether
    gradient flows through its output.

    Nothing is computed: weights and example are replaced by empty ones. The probabilities of attention are not counted
    among the bytes, because the kernels that a GPU uses do not keep them.
    """

    def empty(tensor: Tensor) -> Tensor:
        to = dtype if tensor.is_floating_point() else None
        return torch.empty_like(tensor, device="meta", dtype=to).requires_grad_(tensor.requires_grad)

    weights = {name: empty(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    skipped = {tensor.untyped_storage()._cdata for tensor in weights.values()}
    kept: dict[int, Tensor] = {}  # storage -> a tensor in it

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if tensor.grad_fn is not None and "Softmax" in tensor.grad_fn.name():
            skipped.add(storage)
        kept[storage] = tensor
        return tensor

    modes = {part: part.training for part in module.modules()}
    module.train()
    with torch.enable_grad(), FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda saved: saved):
        output = functional_call(module, weights, empty(example))
        if output.requires_grad:
            output.sum().backward()
    for part, training in modes.items():
        part.training = training
    size = sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in skipped)
    return (counter.get_total_flops(), size), output.requires_grad
