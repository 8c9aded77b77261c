"""Weights and reduces per-token losses. The model returns the fp32 loss of every target; nothing here runs a model."""

from torch import Tensor

IGNORE_INDEX = -100  # label of a place that is not a target
NORMALISATIONS = ("sequence", "token", "batch")


def response_nats(token_losses: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Nats of each response, [B]: with an unbiased estimator's weights its mean over the noise is an upper bound of
    -log p(response | prompt). Arguments as in `reduce_losses`.
    """
    return (token_losses * weights).masked_fill(~targets, 0.0).sum(-1)


def reduce_losses(
    token_losses: Tensor, weights: Tensor, targets: Tensor, normalisation: str, num_tokens: Tensor | float | None = None
) -> Tensor:
    """The scalar loss of a batch.

    token_losses [B, R] fp32 loss of each target, weights [B, R] from the forward process, targets [B, R] bool.
    `sequence`: each sample is divided by its number of targets, then the mean over samples (the seed's choice).
    `token`: the sum over the batch divided by its number of targets, or by `num_tokens` of the global batch.
    `batch`: the sum over the batch divided by the number of samples.
    A sample without targets contributes 0. Inputs are not changed.
    """
    per_sample = response_nats(token_losses, weights, targets)  # [B]
    counts = targets.sum(-1)  # [B]
    if normalisation == "sequence":
        return (per_sample / counts.clamp(min=1)).mean()
    if normalisation == "token":
        return per_sample.sum() / (counts.sum().clamp(min=1) if num_tokens is None else num_tokens)
    if normalisation == "batch":
        return per_sample.mean()
    raise ValueError(f"unknown loss normalisation {normalisation!r}; known: {', '.join(NORMALISATIONS)}")
