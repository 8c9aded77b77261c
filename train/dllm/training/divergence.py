"""Where a run diverged: the first step, and the samples in it, whose loss is no finite number."""

from torch import Tensor

from dllm.training.order import PositionSampler

MOST_NAMED = 4  # samples in one message


def first_divergence(finite: Tensor, steps_before: int, sampler: PositionSampler) -> tuple[int, list[int]]:
    """The step (from 1) of the first sample whose loss is not finite, and the indices of all such samples in it.

    finite [processes, micro-batches, B] bool, of consecutive steps after `steps_before`; micro-batches go round the
    processes in turn. If all losses are finite, as when only a gradient is not: the last of these steps, no sample.
    """
    rows = finite.transpose(0, 1).reshape(-1, sampler.batch)  # [steps, samples of a global batch], in the run's order
    diverged = (~rows).any(dim=1).nonzero().flatten().tolist()
    if not diverged:
        return steps_before + len(rows), []
    step = steps_before + diverged[0]
    epoch, start = divmod(step * sampler.batch, len(sampler))
    sampler.set_epoch(epoch)
    indices = [index for _, index in sampler][start : start + sampler.batch]
    flags = rows[diverged[0]].tolist()
    return step + 1, [index for index, is_finite in zip(indices, flags, strict=True) if not is_finite]


def describe(loss: float, grad_norm: float, step: int, names: list[str]) -> str:
    """One line on a divergence: what is not finite, at which step, in which samples."""
    if not names:
        return f"the gradient norm is {grad_norm} at step {step}, the loss {loss:.4g}; lower the learning rate"
    named = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    return f"the loss is no finite number at step {step}, in {named}; look at these samples or lower the learning rate"
