"""Repulsion from points of a space, such as solutions of earlier rounds in the space of parameters."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["gaussian", "exponential", "inverse"]
"""The fall of a penalty with the distance d at the scale s: exp(-d² / 2s²), exp(-d / s), or 1 / (d² + s²)."""


def squared_distances(parts: Sequence[Tensor], points: Sequence[Sequence[Tensor]]) -> Tensor:
    """Squared Euclidean distances (J,) of one point, given in parts, to J points in the same parts.

    Example:
        >>> squared_distances([torch.tensor([3.0]), torch.tensor([4.0])], [[torch.zeros(1), torch.zeros(1)]])
        tensor([25.])
    """
    return torch.stack([sum_of_squares([p - q for p, q in zip(parts, point, strict=True)]) for point in points])


def sum_of_squares(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all values, a scalar."""
    return torch.stack([part.square().sum() for part in parts]).sum()


def repulsion(squares: Tensor, scale: float, kernel: Kernel = "gaussian") -> Tensor:
    """The sum over points of a kernel of the distance, a scalar; differentiable, with gradient zero at a point.

    The force of the Gaussian kernel is largest at d = s, where it is 1 / (s √e). That of the inverse one reaches far.

    Args:
        squares: Squared distances d² (J,).
        scale: s, in units of d.
        kernel: The kernel.

    Example:
        >>> float(repulsion(torch.zeros(3), 0.5)), float(repulsion(torch.zeros(1), 0.5, "inverse"))
        (3.0, 4.0)
    """
    if kernel == "gaussian":
        return (-squares / (2 * scale**2)).exp().sum()
    if kernel == "inverse":
        return (squares + scale**2).reciprocal().sum()
    away = squares > 0  # the root has no derivative at zero
    return (-torch.where(away, squares, 1.0).sqrt() / scale).exp().where(away, 1.0).sum()
