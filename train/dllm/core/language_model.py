"""What all masked-diffusion language models share: losses and responses from embedded prompts, and what a trainer asks.

A model that sees or hears adds how its prompts are embedded, and which parts it has.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from dllm.core import sampler
from dllm.core.decoding import Decoding
from dllm.core.losses import IGNORE_INDEX
from dllm.core.model import check_diffusion_settings
from dllm.core.objective import target_losses
from dllm.core.prompt import Prompt


@dataclass
class TargetLosses(ModelOutput):
    """losses: fp32 cross-entropy of every predicted token, [B, R]; 0 where nothing is predicted."""

    losses: Tensor | None = None


class MaskedDiffusionLM:
    """Mixin of a transformers model that makes the three calls of `dllm.core.model.MaskedDiffusionModel`.

    parts                the model's parts by name, each the prefix of its weights; they cover all weights
    language_model_part  the part in which LoRA puts its adapter
    input_unit           what the model is given beside text, in the plural, for logs; None for a text model
    """

    parts: dict[str, str] = {"language_model": ""}
    language_model_part = "language_model"
    input_unit: str | None = None
    accepts_loss_kwargs = False  # the trainer normalises the loss

    @property
    def language_model_prefix(self) -> str:
        return self.parts[self.language_model_part]

    @property
    def decoder(self) -> nn.Module:
        """The language model alone."""
        return self.get_submodule(self.language_model_prefix.rstrip("."))

    def decoding(self, **arguments) -> Decoding:
        """The decoding that these arguments ask for over the defaults of the config (`Decoding.of`)."""
        return Decoding.of(self.diffusion, **arguments)

    def input_path(self) -> tuple[Callable[[nn.Module, Tensor], Tensor], Tensor] | None:
        """What is done between an input and the language model, a function of model and input; an example of one."""
        return None

    def losses(
        self, prompt: Prompt, labels: Tensor, masked: Tensor, paired: bool = True, head_chunks: int = 1
    ) -> TargetLosses:
        """Losses [B, R] of the responses `labels` [B, R] (-100: no target) noised by `masked` [B, R]."""
        targets = labels != IGNORE_INDEX  # [B, R]
        response = labels.masked_fill(~targets, self.diffusion.tail_token_id)  # [B, R]
        return TargetLosses(losses=target_losses(self, prompt, response, targets, masked, paired, head_chunks))

    @torch.no_grad()
    def respond(
        self,
        prompt: Prompt,
        unconditional: Prompt | None,
        decoding: Decoding,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
        on_step=None,
    ) -> sampler.Generation:
        """Responses to embedded prompts; arguments as in `dllm.core.sampler.generate`."""
        self._check_request(prompt, decoding)
        return sampler.generate(self, prompt, decoding, seeds, unconditional, initial_canvas, on_step)

    def denoise(
        self,
        prompt: Prompt,
        unconditional: Prompt | None,
        decoding: Decoding,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
    ) -> Generator[sampler.Step, None, sampler.Generation]:
        """`respond` step by step: `dllm.core.sampler.denoise`."""
        self._check_request(prompt, decoding)
        return sampler.denoise(self, prompt, decoding, seeds, unconditional, initial_canvas)

    def _check_request(self, prompt: Prompt, decoding: Decoding) -> None:
        check_diffusion_settings(self.diffusion)
        decoding.check_room(self.diffusion, prompt.valid.shape[1])
