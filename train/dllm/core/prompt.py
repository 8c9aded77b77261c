"""What the core knows of a prompt: embeddings, which of them are real, and their positions."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm.core.attention import Layout


@dataclass
class Prompt:
    """A batch of left-padded prompts, already embedded.

    embeds    [B, P, D] (P may be 0); whatever was seen or heard is in here, the core does not know
    valid     [B, P] bool, False on padding
    positions [..., B, P] rotary positions (Qwen3-VL has three axes)
    extras    tensors [B, P, ...] handed to the model's trunk untouched, whenever it is fed the prompt; 0 where a token
              has none
    """

    embeds: Tensor
    valid: Tensor
    positions: Tensor
    extras: dict = field(default_factory=dict)

    @classmethod
    def left_padded(cls, embeds: Tensor, valid: Tensor) -> "Prompt":
        """A prompt whose real tokens are counted 0, 1, 2 ... from its first real token."""
        return cls(embeds, valid, (valid.long().cumsum(-1) - 1).clamp(min=0))

    def keep(self, rows: Tensor) -> "Prompt":
        """These rows of the batch."""
        extras = {name: value[rows] for name, value in self.extras.items()}
        return Prompt(self.embeds[rows], self.valid[rows], self.positions[..., rows, :], extras)

    def padded(self, multiple: int) -> "Prompt":
        """The same prompts with padding on the left up to a multiple of so many tokens."""
        extra = -self.valid.shape[1] % multiple
        return Prompt(
            F.pad(self.embeds, (0, 0, extra, 0)),
            F.pad(self.valid, (extra, 0)),
            F.pad(self.positions, (extra, 0)),
            {name: F.pad(value, (0, 0) * (value.dim() - 2) + (extra, 0)) for name, value in self.extras.items()},
        )

    def layout(self) -> Layout:
        """The prompt's tokens as the attention patterns see them."""
        return Layout.of_prompt(self.valid, self.positions)

    def response_positions(self, length: int) -> Tensor:
        """Positions [..., B, length] of the tokens that follow the prompt."""
        ahead = torch.arange(length, device=self.valid.device)
        if self.valid.shape[1] == 0:
            return ahead.expand(*self.positions.shape[:-1], length)
        last = self.positions.masked_fill(~self.valid, -1).amax(dim=-1, keepdim=True)  # [..., B, 1]
        if last.dim() > 2:  # several axes: the response goes on from the furthest of them
            last = last.amax(dim=tuple(range(last.dim() - 2)), keepdim=True).expand_as(last)
        return last + 1 + ahead

    def masked(self, mask_embed: Tensor) -> "Prompt":
        """The unconditional twin for guidance: the mask embedding [D] at every position, and no extras."""
        extras = {name: torch.zeros_like(value) for name, value in self.extras.items()}
        return Prompt(mask_embed.expand_as(self.embeds), self.valid, self.positions, extras)
