"""The training pass: packs prompt and noisy views as the attention pattern allows, and returns every target's loss.

| pattern         | sequences for a complementary pair | why                                         |
|-----------------|------------------------------------|---------------------------------------------|
| `bidirectional` | two, each P + R                    | the prompt sees the response: nothing shared |
| `prefix`        | one, P + R_a + R_b                 | the views see the prompt, not each other     |
| `block`         | one, P + R_clean + R_a + R_b       | a noisy block sees the clean earlier blocks  |
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm.core.attention import CLEAN, NOISY, Layout
from dllm.core.model import MaskedDiffusionModel
from dllm.core.prompt import Prompt


def target_losses(
    model: MaskedDiffusionModel, prompt: Prompt, response: Tensor, targets: Tensor, masked: Tensor, paired: bool
) -> Tensor:
    """Cross-entropy of every predicted token in fp32 or better, [B, R]; 0 where nothing is predicted.

    response [B, R] clean ids, targets [B, R] bool (False on padding), masked [B, R] bool, the first view's mask. With
    `paired` the complement of the mask is a second view and every target is predicted exactly once; without, only the
    masked tokens are. The prompt is never noised and never a target.
    """
    masked = masked & targets
    views = [masked, targets & ~masked] if paired else [masked]
    hidden = _view_hidden(model, prompt, response, targets, views)  # per view [B, R, D]
    chosen = torch.where(masked[..., None], hidden[0], hidden[-1])  # [B, R, D]
    predicted = targets if paired else masked
    logits = model.logits(chosen[predicted])  # [n, V], n = number of predicted tokens
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, response[predicted], reduction="none")  # [n]
    return losses.new_zeros(response.shape).masked_scatter(predicted, losses)  # [B, R]


def _view_hidden(
    model: MaskedDiffusionModel, prompt: Prompt, response: Tensor, targets: Tensor, views: list[Tensor]
) -> list[Tensor]:
    """Hidden states [B, R, D] of each noisy view of the response."""
    config, pattern = model.diffusion, model.diffusion.attention_pattern
    B, R = response.shape
    P = prompt.valid.shape[1]
    position = prompt.response_positions(R)

    def copy(role: int, view: int) -> Layout:
        return Layout.of_response(role, view, targets, position, config.block_length)

    noisy = [model.embed(response.masked_fill(view, config.mask_token_id)) for view in views]  # per view [B, R, D]

    if pattern == "bidirectional":
        layout = Layout.cat([prompt.layout(), copy(NOISY, 0)])
        embeds = torch.cat([torch.cat([prompt.embeds, view], dim=1) for view in noisy])  # [views * B, L, D]
        for _ in views[1:]:
            layout = layout.stack_batch(layout)
        hidden = model.trunk(embeds, layout.mask(pattern), layout.position, **prompt.extras)  # [views * B, L, D]
        return list(hidden[:, P:].split(B))

    clean = [(model.embed(response), copy(CLEAN, 0))] if pattern == "block" else []
    parts = [(prompt.embeds, prompt.layout()), *clean, *((view, copy(NOISY, i)) for i, view in enumerate(noisy))]
    embeds = torch.cat([embed for embed, _ in parts], dim=1)
    layout = Layout.cat([layout for _, layout in parts])
    hidden = model.trunk(embeds, layout.mask(pattern), layout.position, **prompt.extras)
    return list(hidden[:, P + len(clean) * R :].split(R, dim=1))
