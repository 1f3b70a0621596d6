"""Losses of predictions, one value per sample."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def prediction_losses(predictions: Tensor, y: Tensor) -> Tensor:
    """Losses (B,): squared errors of values, or cross-entropies of logits in nats, their mean over steps.

    Args:
        predictions: Values (B,), logits (B, C), or logits of every step (B, T, C).
        y: Values float (B,), labels int64 (B,), or labels of every step (B, T).

    Example:
        >>> import torch
        >>> prediction_losses(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))
        tensor([0., 4.])
    """
    if y.is_floating_point():
        return (predictions - y).square()
    losses = cross_entropy(predictions.movedim(-1, 1), y, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def right_fractions(predictions: Tensor, y: Tensor) -> Tensor:
    """Whether the largest logit is that of the label, float64 (B,); with steps the fraction of right ones.

    Example:
        >>> import torch
        >>> right_fractions(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1]))
        tensor([1., 0.], dtype=torch.float64)
    """
    right = (predictions.argmax(-1) == y).double()
    return right.flatten(1).mean(1) if right.dim() > 1 else right
