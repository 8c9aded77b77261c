"""`--dry_run`: what a run would train, on which batches, in how many steps, at what cost; nothing is trained.

Memory on a GPU is expected to be the sum, hardly ever reached, of

| of          | one process, DDP            | ZeRO-1, ZeRO-2               | ZeRO-3          | FSDP    |
|-------------|-----------------------------|------------------------------|-----------------|---------|
| weights     | 4 N; in bf16 2 N + 4 T      | w N + 4 T / n                | (w N + 4 T) / n | 4 N / n |
| gradients   | 4 T; DDP's buckets 4 T more | ZeRO-1: w T, ZeRO-2: w T / n | w T / n         | 4 T / n |
| optimizer   | 8 T                         | 8 T / n                      | 8 T / n         | 8 T / n |
| activations | what autograd keeps of the largest batch (`dllm.training.flops`)                    |

bytes, with N weights, T of them trained, n processes, and w = 2 in bf16, else 4. In bf16 the first column has a rounded
copy of the trained weights, and the others rounded alone; ZeRO has an exact one of those it trains. CUDA itself takes
about 1 GB more.
"""

from datetime import timedelta
from typing import NamedTuple

import torch
from torch import Tensor

from dllm.data.collator import canvas_length
from dllm.training.flops import Cost, step_costs
from dllm.training.lora import lora_config
from dllm.training.metrics import predicts_all, trunk_sizes
from dllm.training.trainer import MDLMTrainer

ASSUMED_MFU = 0.4
PREFIXES = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


def describe_plan(trainer: MDLMTrainer) -> str:
    """The whole plan as text, for people."""
    dtype = torch.bfloat16 if trainer.args.bf16 else torch.float32
    flops, kept = step_costs(trainer.model, dtype)
    batches, steps = plan_batches(trainer), num_steps(trainer)
    sections = [_parts(trainer), _data(trainer, batches, steps), _memory(trainer, batches, kept, dtype)]
    return "\n\n".join([*sections, _compute(trainer, batches, flops, steps)])


class Batches(NamedTuple):
    """The micro-batches of all ranks in the run's first epoch, or in as much of it as `--max_steps` takes, [batches].

    First what `Cost` takes: tokens in the trunk (every copy), attending pairs, rows of the head, and inputs beside
    text; then tokens of prompt and canvas, once, and tokens in the trunk with padding.
    """

    trunk_tokens: Tensor
    attention_pairs: Tensor
    targets: Tensor
    inputs: Tensor
    tokens: Tensor
    padded_tokens: Tensor


def plan_batches(trainer: MDLMTrainer) -> Batches:
    """The batches that the sampler and the collator will make, of a dataset with `sizes`. Reads no input."""
    dataset, collator, args = trainer.train_dataset.dataset, trainer.data_collator, trainer.args
    config, paired = trainer.diffusion, trainer.forward_process.paired
    prompts, responses, inputs = torch.as_tensor(dataset.sizes).T
    canvases = torch.tensor([canvas_length(config, response) for response in responses.tolist()])
    order = torch.tensor([index for _, index in trainer._get_train_sampler()]).view(-1, args.train_batch_size)
    if args.max_steps > 0:
        order = order[: args.max_steps * args.gradient_accumulation_steps * args.world_size]
    prompts, canvases = prompts[order], canvases[order]  # [batches, B]
    fed, pairs = trunk_sizes(config, paired, prompts, canvases)
    multiple = collator.pad_to_multiple_of
    padded = -(-prompts.amax(1) // multiple) * multiple
    places, _ = trunk_sizes(config, paired, padded, canvases.amax(1))
    targets = canvases if predicts_all(config, paired) else canvases / 2  # about half of a single view is masked
    of_samples = fed, pairs, targets, inputs[order], prompts + canvases
    return Batches(*(each.sum(1) for each in of_samples), places * order.shape[1])


def num_steps(trainer: MDLMTrainer) -> int:
    """Optimizer steps of the whole run."""
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]


def memory(trainer: MDLMTrainer, batches: Batches, kept: Cost, dtype: torch.dtype) -> dict[str, float]:
    """Bytes on each GPU, by what they hold; see the top of this file."""
    weights, trained = _sizes(trainer.model)
    n = trainer.args.world_size
    zero = trainer.accelerator.state.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else 0
    width = dtype.itemsize if zero else 4
    if trainer.is_fsdp_enabled or zero == 3:
        held, gradients = width * weights / n, width * trained / n
    elif zero:
        held, gradients = width * weights, width * trained / (n if zero == 2 else 1)
    else:
        held, gradients = sum(weight.nbytes for weight in trainer.model.parameters()), width * trained * (1 + (n > 1))
    if zero:
        held += 4 * trained / n
    elif dtype != torch.float32:
        held += dtype.itemsize * sum(w.numel() for w in trainer.model.parameters() if w.dtype != dtype)
    optimizer = 8 * trained / (n if zero or trainer.is_fsdp_enabled else 1)
    activations = _activations(trainer, batches, kept, dtype).max().item()
    return {"weights": held, "gradients": gradients, "optimizer": optimizer, "activations": activations}


def _activations(trainer: MDLMTrainer, batches: Batches, kept: Cost, dtype: torch.dtype) -> Tensor:
    """Bytes [batches] that autograd keeps of a batch, and as much again of one layer, for the gradients under way.
    With gradient checkpointing only the input of every layer is kept, and all of one; inputs are taken to keep all.
    """
    layers, width = trainer.diffusion.num_hidden_layers, trainer.diffusion.hidden_size * dtype.itemsize
    one = kept.per_token / layers
    per_token = one + (one + layers * width if trainer.args.gradient_checkpointing else kept.per_token)
    rows = batches.targets / trainer.head_chunks
    return per_token * batches.padded_tokens + kept.per_target * rows + kept.per_input * batches.inputs


def _sizes(module: torch.nn.Module) -> tuple[int, int]:
    """Weights of a module, and how many of them are trained."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _si(value: float, unit: str) -> str:
    prefix, size = next(((prefix, size) for prefix, size in PREFIXES.items() if value >= size), ("", 1))
    return f"{value / size:,.3g} {prefix}{unit}"


def _table(title: str, rows: dict[str, str]) -> str:
    return "\n".join([title, *(f"  {name:<22}{value}" for name, value in rows.items())])


def _parts(trainer: MDLMTrainer) -> str:
    rates = {group["part"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    lora = lora_config(trainer.model)
    lines = [f"{'part':<24}{'weights':>14}{'trained':>14}{'learning rate':>16}"]
    for part, prefix in trainer.model.parts.items():
        weights, trained = _sizes(trainer.model.get_submodule(prefix.rstrip(".")))
        rate = f"{rates[part]:g}" if part in rates else "frozen" if weights else "no weights"
        note = f"   LoRA of rank {lora.r}" if lora and part == trainer.model.language_model_part else ""
        lines.append(f"  {part:<22}{weights:>14,}{trained:>14,}{rate:>16}{note}")
    weights, trained = _sizes(trainer.model)
    return "\n".join([*lines, f"  {'all':<22}{weights:>14,}{trained:>14,}"])


def _data(trainer: MDLMTrainer, batches: Batches, steps: int) -> str:
    args, lengths = trainer.args, torch.tensor(trainer.lengths, dtype=torch.float)
    middle, high = lengths.quantile(torch.tensor([0.5, 0.95])).tolist()
    micro_batches = args.gradient_accumulation_steps * args.world_size
    tokens, fed, places = (each.sum().item() for each in (batches.tokens, batches.trunk_tokens, batches.padded_tokens))
    per_step = micro_batches / len(batches.trunk_tokens)
    rows = {
        "samples": f"{len(trainer.train_dataset):,}",
        "tokens of a sample": f"mean {lengths.mean():,.0f}, median {middle:,.0f}, 95 % have at most {high:,.0f}, "
        f"longest {lengths.max():,.0f}; all of the prompt and the padding tail included",
        "samples a step": f"{args.train_batch_size * micro_batches:,} = batch of {args.train_batch_size} x "
        f"{args.gradient_accumulation_steps} accumulated x {args.world_size} processes",
        "tokens a step": f"{tokens * per_step:,.0f}; the model is fed {fed * per_step:,.0f}, with all copies",
        "padding": f"{1 - fed / places:.1%} of the tokens that the model is fed",
        "steps": f"{steps:,}, of which warm-up {args.get_warmup_steps(steps):,}; {args.lr_scheduler_type.value}",
    }
    if trainer.model.input_unit:
        rows[f"{trainer.model.input_unit} a step"] = f"{batches.inputs.sum() * per_step:,.1f}"
    return _table("data", rows)


def _memory(trainer: MDLMTrainer, batches: Batches, kept: Cost, dtype: torch.dtype) -> str:
    parts = memory(trainer, batches, kept, dtype)
    rows = {name: f"{_si(size, 'B'):>10}" for name, size in parts.items()}
    unit = trainer.model.input_unit or "inputs beside text"
    rows["activations"] += f"   largest batch: {batches.padded_tokens.max():,} tokens, {batches.inputs.max():,} {unit}"
    rows["sum"] = f"{_si(sum(parts.values()), 'B'):>10}"
    return _table(f"memory of each process, expected, in {str(dtype).removeprefix('torch.')}", rows)


def _compute(trainer: MDLMTrainer, batches: Batches, flops: Cost, steps: int) -> str:
    args = trainer.args
    sums = [each.sum().item() for each in batches[:4]]
    done = flops(*sums) / len(batches.trunk_tokens) * args.gradient_accumulation_steps * args.world_size
    time = "unknown, as is the peak rate of this device"
    if trainer.peak_rate:
        seconds = done * steps / (ASSUMED_MFU * trainer.peak_rate * args.world_size)
        name = torch.cuda.get_device_name(args.device)
        time = f"{timedelta(seconds=round(seconds))} on {args.world_size} x {name} at {ASSUMED_MFU:.0%} MFU"
    return _table("operations", {"of a step": _si(done, "FLOP"), "of the run": _si(done * steps, "FLOP"), "time": time})
