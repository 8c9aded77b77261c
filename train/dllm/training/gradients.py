"""The gradient norm of each part of the model, as the optimizer sees it under DDP, ZeRO or FSDP."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class PartNorms:
    """Norms of the last step's gradient by the `part` of the optimizer's groups, before clipping.

    When an optimizer steps, its groups hold the gradients of this rank: all of them under DDP, disjoint shares under
    ZeRO and FSDP (ZeRO steps it several times, a group or less at a time). By then they are clipped, which leaves the
    shares of the parts as they are. So a part's norm is its share of the whole norm that the trainer logs.
    """

    def __init__(self, optimizer: Optimizer, current_step: Callable[[], int]):
        self.parts = sorted({group["part"] for group in optimizer.param_groups})
        self.current_step, self.step = current_step, None
        self.squares: list[Tensor | float] = [0.0] * len(self.parts)
        optimizer.register_step_pre_hook(self._take)

    def _take(self, optimizer: Optimizer, *_) -> None:
        if self.step != self.current_step():
            self.step, self.squares = self.current_step(), [0.0] * len(self.parts)
        for group in optimizer.param_groups:
            gradients = [weight.grad for weight in group["params"] if weight.grad is not None]
            local = [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
            if local:
                self.squares[self.parts.index(group["part"])] += get_total_norm(local).double().square()

    def read(self, norm: float, over_ranks: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """The norm of each part, whose squares add up to that of `norm`; `over_ranks` adds a tensor up over all."""
        squares = [torch.as_tensor(square, dtype=torch.float64, device=device) for square in self.squares]
        squares = over_ranks(torch.stack(squares))
        shares = (squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)).sqrt().tolist()
        return {f"grad_norm/{part}": norm * share for part, share in zip(self.parts, shares, strict=True)}
