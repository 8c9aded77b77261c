"""The training pass: packs prompt and noisy views as the attention pattern allows, and returns every target's loss.

| pattern         | sequences for a complementary pair | why                                         |
|-----------------|------------------------------------|---------------------------------------------|
| `bidirectional` | two, each P + R                    | the prompt sees the response: nothing shared |
| `prefix`        | one, P + R_a + R_b                 | the views see the prompt, not each other     |
| `block`         | one, P + R_clean + R_a + R_b       | a noisy block sees the clean earlier blocks  |
| `causal_block`  | the same; in blocks of 1, P + R    | there the clean copy predicts every token    |
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm.core.attention import CLEAN, NOISY, LayerMasks, Layout, layer_masks
from dllm.core.head import head_losses
from dllm.core.model import MaskedDiffusionModel
from dllm.core.patterns import BLOCKWISE, NO_PROMPT, SHIFTED
from dllm.core.prompt import Prompt

FLEX_FROM = 2048  # tokens; below, SDPA with a mask was the faster one on an H100 (docs/experiments)


def target_losses(
    model: MaskedDiffusionModel,
    prompt: Prompt,
    response: Tensor,
    targets: Tensor,
    masked: Tensor,
    paired: bool,
    head_chunks: int = 1,
) -> Tensor:
    """Cross-entropy of every predicted token in fp32 or better, [B, R]; 0 where nothing is predicted.

    response [B, R] clean ids, targets [B, R] bool (False on padding), masked [B, R] bool, the first view's mask. With
    `paired` the complement of the mask is a second view and every target is predicted exactly once; without, only the
    masked tokens are, but for `causal_block`, where the clean copy predicts the others. The prompt is never noised or a
    target. `head_chunks` as in `dllm.core.head`.
    """
    masked = masked & targets
    views = [masked, targets & ~masked] if paired else [masked]
    hidden = _hidden(model, prompt, response, targets, views)  # per view [B, R, D], where it predicts
    chosen = torch.where(masked[..., None], hidden[0], hidden[-1])  # [B, R, D]
    predicted = targets if len(hidden) > 1 else masked
    losses = head_losses(model, chosen[predicted], response[predicted], head_chunks)  # [n], n predicted tokens
    return losses.new_zeros(response.shape).masked_scatter(predicted, losses)  # [B, R]


def _hidden(
    model: MaskedDiffusionModel, prompt: Prompt, response: Tensor, targets: Tensor, views: list[Tensor]
) -> list[Tensor]:
    """Hidden states [B, R, D] of each noisy view of the response, in the places where its tokens are predicted; under
    `causal_block` those of the clean copy stand for a view that is not there.

    Raises ValueError if that is the place before, and there is no prompt that the first token could follow.
    """
    config, pattern = model.diffusion, model.diffusion.attention_pattern
    B, R = response.shape
    P = prompt.valid.shape[1]
    position = prompt.response_positions(R)

    def copy(role: int, view: int) -> Layout:
        return Layout.of_response(role, view, targets, position, config.block_length)

    # One lookup: the gradient of each is as large as the embedding.
    clean, mask = model.embed(F.pad(response, (0, 1), value=config.mask_token_id)).split([R, 1], dim=1)
    noisy = [torch.where(view[..., None], mask, clean) for view in views]  # per view [B, R, D]

    if pattern == "bidirectional":
        rows = torch.arange(B, device=response.device).repeat(len(views))
        layout = Layout.cat([prompt.layout(), copy(NOISY, 0)]).keep(rows)
        prompt = prompt.keep(rows)
        embeds = torch.cat([prompt.embeds, torch.cat(noisy)], dim=1)  # [views * B, L, D]
        hidden = model.trunk(embeds, _masks(model, layout), layout.position, **prompt.extras)  # [views * B, L, D]
        return list(hidden[:, P:].split(B))

    parts = [(prompt.embeds, prompt.layout())]
    parts += [(clean, copy(CLEAN, 0))] if pattern in BLOCKWISE else []
    if not (pattern == SHIFTED and config.block_length == 1):
        parts += [(view, copy(NOISY, i)) for i, view in enumerate(noisy)]
    embeds = torch.cat([embed for embed, _ in parts], dim=1)
    layout = Layout.cat([layout for _, layout in parts])
    hidden = model.trunk(embeds, _masks(model, layout), layout.position, **prompt.extras)  # [B, L, D]
    if pattern != SHIFTED:
        return list(hidden[:, -len(views) * R :].split(R, dim=1))
    if P == 0:
        raise ValueError(NO_PROMPT)
    before = hidden[:, P - 1 : P - 1 + R]  # [B, R, D], the clean token before each
    if config.block_length == 1:
        return [before, before]
    opens_block = torch.arange(R, device=response.device)[:, None] % config.block_length == 0
    noisy = hidden[:, P + R - 1 : -1].split(R, dim=1)  # the place before each
    return [*(torch.where(opens_block, before, view) for view in noisy), before][:2]


def _masks(model: MaskedDiffusionModel, layout: Layout) -> LayerMasks:
    """FlexAttention skips what may not attend, which pays on long sequences; its backward pass needs a GPU."""
    config, length = model.diffusion, layout.role.shape[1]
    flex_from = 0 if getattr(config, "attn_logit_softcapping", None) else FLEX_FROM  # SDPA cannot cap scores
    mask = layout.block_mask if length >= flex_from and layout.role.is_cuda else layout.mask
    return layer_masks(config, length, lambda window: mask(config.attention_pattern, window=window))
