"""What all masked-diffusion language models share: losses and responses from embedded prompts, and what a trainer asks.

A model that sees or hears adds how its prompts are embedded, and which parts it has.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from inspect import signature

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput

from dllm.core import sampler, speculative
from dllm.core.attention import layer_masks
from dllm.core.decoding import Decoding
from dllm.core.losses import IGNORE_INDEX
from dllm.core.model import check_diffusion_settings, exclude_unwritable
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
    usage                Python that loads the folder FOLDER and writes a text, for its model card
    """

    parts: dict[str, str] = {"language_model": ""}
    language_model_part = "language_model"
    input_unit: str | None = None
    usage = """from transformers import AutoModelForMaskedLM, AutoTokenizer
import dllm.pipelines.a2d
tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForMaskedLM.from_pretrained(FOLDER)
messages = [{"role": "user", "content": "Hello."}]
settings = {"enable_thinking": False, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
prompt = tokenizer.apply_chat_template(messages, **settings)
ids = model.eval().generate(prompt["input_ids"], prompt["attention_mask"]).ids
print(tokenizer.batch_decode(ids, skip_special_tokens=True))"""
    accepts_loss_kwargs = False  # the trainer normalises the loss

    @property
    def language_model_prefix(self) -> str:
        """What the names of the language model's weights begin with."""
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

    def head(self, hidden: Tensor) -> Tensor:
        """The head's product [..., V] with hidden states [..., D]."""
        return self.get_output_embeddings()(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], -inf on the mask token and on ids that may not be written or that the tokenizer has not."""
        return exclude_unwritable(self.head(hidden), self.diffusion)

    def losses(
        self, prompt: Prompt, labels: Tensor, masked: Tensor, paired: bool = True, head_chunks: int = 1
    ) -> TargetLosses:
        """Losses [B, R] of the responses `labels` [B, R] (-100: no target) noised by `masked` [B, R]."""
        targets = labels != IGNORE_INDEX  # [B, R]
        response = labels.masked_fill(~targets, self.diffusion.tail_token_id)  # [B, R]
        return TargetLosses(losses=target_losses(self, prompt, response, targets, masked, paired, head_chunks))

    def prepare_prompt(self, input_ids: Tensor, attention_mask: Tensor) -> Prompt:
        """The embedded prompt of left-padded ids [B, P]; a model that sees or hears takes further `inputs`."""
        return Prompt.left_padded(self.embed(input_ids), attention_mask.bool())

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        masked: Tensor | None = None,
        paired: bool = True,
        head_chunks: int = 1,
        **inputs: Tensor,
    ) -> MaskedLMOutput | TargetLosses:
        """Training: the losses of responses `labels` [B, R] (-100: no target) noised by `masked` [B, R] after prompts
        of ids `input_ids` [B, P] with `inputs` as `prepare_prompt` names them. Without labels: the logits [B, L, V] of
        a sequence in which every valid token sees every other; a boolean `attention_mask` [B, 1, L, L] replaces that
        pattern, windows included.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        valid = mask if mask.dim() == 2 else torch.ones_like(input_ids)
        prompt = self.prepare_prompt(input_ids, valid, **inputs)  # embeds [B, P, D]
        if labels is not None:
            return self.losses(prompt, labels, masked, paired, head_chunks)
        if mask.dim() == 2:
            see_all = partial(prompt.layout().mask, "bidirectional")
            mask = layer_masks(self.diffusion, input_ids.shape[1], lambda window: see_all(window=window))
        return MaskedLMOutput(logits=self.head(self.trunk(prompt.embeds, mask, prompt.positions, **prompt.extras)))

    def prompts(
        self, input_ids: Tensor, attention_mask: Tensor, *inputs: Tensor, decoding: Decoding
    ) -> tuple[Prompt, Prompt | None]:
        """The prompt of `prepare_prompt`, and the one that guidance leads away from, if it is not the core's own."""
        prompt, unconditional = self.prepare_prompt(input_ids, attention_mask, *inputs), None
        if inputs and decoding.cfg_scale and decoding.cfg_against == "blank_inputs":
            unconditional = self.prepare_prompt(input_ids, attention_mask, *self.blank(*inputs))
        return prompt, unconditional

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *inputs: Tensor,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
        on_step: Callable[[Tensor, Tensor], None] | None = None,
        **arguments,
    ) -> sampler.Generation:
        """Responses to prompts `input_ids` [B, P] with `inputs` as `prepare_prompt` takes them, in order or by name;
        `arguments` as in `dllm.core.decoding.Decoding`, the others as in `dllm.core.sampler.generate`.
        """
        named = list(signature(self.prepare_prompt).parameters)[2 + len(inputs) :]
        inputs += tuple(arguments.pop(name) for name in named if name in arguments)
        decoding = self.decoding(**arguments)
        sampler.check_initial_canvas(self.diffusion, decoding, len(input_ids), initial_canvas)
        decoding.check_room(self.diffusion, input_ids.shape[1])
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = self.prompts(input_ids, valid, *inputs, decoding=decoding)
        return sampler.finish(self.denoise(*prompts, decoding, seeds, initial_canvas), on_step)

    def denoise(
        self,
        prompt: Prompt,
        unconditional: Prompt | None,
        decoding: Decoding,
        seeds: list[int] | None = None,
        initial_canvas: Tensor | None = None,
    ) -> Generator[sampler.Step, None, sampler.Generation]:
        """Responses to embedded prompts, step by step: `dllm.core.sampler.denoise`, or that of `speculative`."""
        check_diffusion_settings(self.diffusion)
        decoding.check_room(self.diffusion, prompt.valid.shape[1])
        if decoding.speculative:
            return speculative.denoise(self, prompt, decoding, initial_canvas)
        return sampler.denoise(self, prompt, decoding, seeds, unconditional, initial_canvas)
