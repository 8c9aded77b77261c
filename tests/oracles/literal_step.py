"""The seed's complementary training step as it stands: what the benchmark compares with, and the tests.

LLaDA-V's forward process (You et al. 2025) with the seed's second view. The batch is doubled after everything is
embedded, every sequence is padded on the right to the longest, all rows of both views go through trunk and head, and
the cross-entropy runs over all of them in fp32. Two things of the seed are mended: its cross-entropy fails on logits
[2B, L, V] unless they are flattened, and its masks are found again by comparing embeddings, where here they are given.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORE_INDEX = -100


@dataclass
class Sequences:
    """Prompts and their responses as one row each.

    embeds    [B, L, D] of prompt and clean response
    labels    [B, L], -100 where nothing is to be predicted
    masked    [B, L] bool, the first view's mask
    p         [B, L], the rate at which each place was masked
    sees      [B, 1 or L, L] bool, which keys each token may attend to
    position  [B, L]
    place     [B, L], where each token is predicted; None: in its own place
    """

    embeds: Tensor
    labels: Tensor
    masked: Tensor
    p: Tensor
    sees: Tensor
    position: Tensor
    place: Tensor | None = None

    @classmethod
    def of(
        cls, model, prompts: list[Tensor], responses: list[Tensor], masked: list[Tensor], p: list[Tensor]
    ) -> "Sequences":
        """The seed's own: prompts [P_i, D], responses, masks and rates [R_i] each; everything sees all but padding."""
        rows, labels, masks, rates = [], [], [], []
        for prompt, response, mask, rate in zip(prompts, responses, masked, p, strict=True):
            nowhere = response.new_full((len(prompt),), IGNORE_INDEX)
            rows.append(torch.cat([prompt, model.embed(response)]))
            labels.append(torch.cat([nowhere, response]))
            masks.append(torch.cat([nowhere == 0, mask]))
            rates.append(torch.cat([torch.ones_like(nowhere) * 0.5, rate]))
        embeds = pad_sequence(rows, batch_first=True)  # [B, L, D]
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        position = torch.arange(embeds.shape[1], device=embeds.device).expand(embeds.shape[:2])
        return cls(
            embeds,
            pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            pad_sequence(masks, batch_first=True),
            pad_sequence(rates, batch_first=True, padding_value=0.5),
            (position < lengths[:, None])[:, None],
            position,
        )


def literal_loss(model, batch: Sequences, indexed: bool = False, forbidden: tuple[int, ...] = ()) -> Tensor:
    """The loss of a batch: (1 / 2B) sum over both views of l / p and l / (1 - p), over the targets of each sample.

    With `indexed` the masked rows are picked out of the logits before the cross-entropy, as LLaDA-V does and the seed
    no longer. `forbidden` ids get no probability; the seed forbids none. Every sample must have a target.
    """
    targets = batch.labels != IGNORE_INDEX
    masked = batch.masked & targets  # [B, L]
    rest = ~batch.masked & targets
    views = torch.cat([masked, rest])  # [2B, L]
    embeds = torch.cat([batch.embeds, batch.embeds])
    mask_embed = model.embed(torch.tensor(model.diffusion.mask_token_id, device=embeds.device))
    noisy = torch.where(views[..., None], mask_embed, embeds)  # [2B, L, D]
    L = noisy.shape[1]
    sees = torch.cat([batch.sees, batch.sees])[:, None].expand(-1, -1, L, L)  # [2B, 1, L, L]
    hidden = model.trunk(noisy, sees, torch.cat([batch.position, batch.position]))  # [2B, L, D]
    if batch.place is not None:
        hidden = hidden.gather(1, batch.place.repeat(2, 1)[..., None].expand_as(hidden))
    logits = model.lm_head(hidden)  # [2B, L, V]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if forbidden:
        logits[..., list(forbidden)] = float("-inf")
    labels = torch.cat([batch.labels, batch.labels]).masked_fill(~views, IGNORE_INDEX)  # [2B, L]
    weights = 1 / torch.cat([batch.p, 1 - batch.p]) / targets.sum(-1, keepdim=True).repeat(2, 1)  # [2B, L]
    if indexed:
        logits, labels, weights = logits[views], labels[views], weights[views]
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * weights.flatten()).sum() / len(views)
