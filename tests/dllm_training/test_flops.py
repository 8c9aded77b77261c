"""The cost of a training step, read off on the meta device, against what torch counts in a real one."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllm.core.patterns import PATTERNS
from dllm.training.flops import Cost, peak_rate, step_costs
from oracles.models import HIDDEN, tiny_model

B, P, R = 3, 12, 8
LAYERS = 2

# What is trained -> the parameters' names contain one of these. Below the first trained weight no gradient flows.
TRAINED = {
    "all": [""],
    "nothing but the last layer": ["layers.1."],
    "values of the first layer, as an adapter would": ["layers.0.self_attn.v_proj"],
    "head": ["lm_head"],
    "embedding": ["embed_tokens"],
}


def step(model, paired: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 60, (B, R), generator=generator)
    masked = torch.rand(B, R, generator=generator) < 0.5
    ids = torch.randint(0, 60, (B, P), generator=generator)
    model(ids, torch.ones_like(ids), labels, masked, paired=paired).losses.sum().backward()
    return masked


def trained(model, names: list[str]):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in names))
    return model


def dense_sizes(pattern: str, paired: bool, block_length: int = 4) -> tuple[int, int]:
    """Tokens that the trunk is fed and the pairs of them in full rectangles."""
    views = 1 + paired
    next_token = pattern == "causal_block" and block_length == 1
    rows, length = {
        "bidirectional": (views * B, P + R),
        "prefix": (B, P + views * R),
        "block": (B, P + (1 + views) * R),
        "causal_block": (B, P + (1 if next_token else 1 + views) * R),
    }[pattern]
    return rows * length, rows * length**2


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("pattern, block_length", [*((pattern, 4) for pattern in PATTERNS), ("causal_block", 1)])
@pytest.mark.parametrize("names", TRAINED)
def test_operations_are_those_of_a_real_step(names, pattern, block_length, paired):
    model = trained(tiny_model(pattern, torch.float32, block_length=block_length), TRAINED[names])
    flops, _ = step_costs(model)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # torch does not count the CPU's own
        masked = step(model, paired)
    targets = B * R if paired or pattern == "causal_block" else masked.sum().item()
    assert flops(*dense_sizes(pattern, paired, block_length), targets) == pytest.approx(
        counter.get_total_flops(), rel=1e-3
    )


def test_a_frozen_model_passes_gradient_on_to_its_prompt():
    """One product less than training it: the gradient of the weights."""
    model = tiny_model("block", torch.float32)
    (every, _), (only_forward, _) = step_costs(model), step_costs(model.requires_grad_(False))
    model.before = nn.Linear(1, 1)  # something that learns stands before the prompt
    model.input_path = lambda: (lambda model, example: model.before(example), torch.zeros(1, 1))
    passed, kept = step_costs(model)
    assert passed.per_token == pytest.approx(2 * only_forward.per_token, rel=1e-2)
    assert every.per_token == pytest.approx(3 * only_forward.per_token, rel=1e-2)
    assert passed.per_pair == every.per_pair == 3 * only_forward.per_pair
    assert kept.per_token > 0


def test_nothing_is_kept_without_gradient():
    _, kept = step_costs(tiny_model("block", torch.float32).requires_grad_(False))
    assert kept == Cost(0, 0, 0)


@pytest.mark.parametrize("names", ["all", "nothing but the last layer"])
def test_bytes_are_those_that_autograd_keeps_of_a_real_step(names):
    model = trained(tiny_model("block", torch.float32, head_dim=16, num_attention_heads=4), TRAINED[names])
    _, kept = step_costs(model)
    weights, storages = {weight.data_ptr() for weight in model.parameters()}, {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        step(model, paired=True)
    size = sum(each.untyped_storage().nbytes() for pointer, each in storages.items() if pointer not in weights)
    tokens, _ = dense_sizes("block", True)
    assert kept(tokens, 0, B * R) == pytest.approx(size, rel=0.1)
    assert kept.per_pair == 0  # probabilities


def test_the_model_is_left_as_it_was():
    model = tiny_model("block", torch.float32).eval()
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}
    step_costs(model, torch.bfloat16)
    assert not model.training and all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name][0]) for name, weight in model.named_parameters())


def test_half_precision_keeps_less_and_computes_the_same():
    model = tiny_model("block", torch.float32)
    (flops, kept), (flops_16, kept_16) = step_costs(model), step_costs(model, torch.bfloat16)
    assert flops == flops_16
    assert 0.5 * kept.per_token < kept_16.per_token < 0.9 * kept.per_token  # the norms compute in fp32


def test_checkpointed_layers_are_refused():
    model = tiny_model("block", torch.float32)
    model.gradient_checkpointing_enable()
    with pytest.raises(AssertionError):
        step_costs(model)


def test_a_layer_costs_what_its_matrices_do():
    """By hand: two operations per weight and token, and per pair and width of the heads, three times."""
    model = tiny_model("block", torch.float32)
    flops, _ = step_costs(model)
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if "proj" in name)
    heads, width = model.config.num_attention_heads, model.config.head_dim
    assert flops.per_token == pytest.approx(6 * matrices, rel=2e-3)  # rotary angles are a product too
    assert flops.per_pair == 3 * LAYERS * 2 * 2 * heads * width
    assert flops.per_target == 6 * HIDDEN * model.config.vocab_size


@pytest.mark.parametrize(
    "name, rate",
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A6000", 155e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 5090", 210e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX 6000 Ada Generation", None),
    ],
)
def test_peak_rates_go_by_the_name_of_the_card(name, rate):
    assert peak_rate(name) == rate
