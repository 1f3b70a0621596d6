"""Euclidean distances of all pairs, without the digits that |x|² + |y|² - 2 xᵀy loses.

That shortcut subtracts squares of the size of the mean to find squares of the size of the spread. In float32 it turns
distances into noise as soon as the mean of the points is a few thousand times larger than their distances.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def exact_distances(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
    """‖x_i - y_j‖ from differences of coordinates; differentiable once.

    Use it for up to a few thousand points. On many points of a thousand dimensions, `feature_distances` is ten times
    faster.

    Example:
        >>> exact_distances(torch.tensor([[1e4, 0.0]]), torch.tensor([[1e4, 0.5], [1e4, 0.0]]))
        tensor([[0.5000, 0.0000]])
    """
    return torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")


def feature_distances(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]) -> Float[Tensor, "n m"]:
    """‖x_i - y_j‖ of many points with many coordinates, in the dtype of x.

    Products of centred points in float64, rounded at the end. So float32 points keep all their digits, and equal
    distances stay equal. A distance below the rounding of float64 is set to zero: the point is a copy.

    Example:
        >>> feature_distances(torch.tensor([[1e4, 0.0]]), torch.tensor([[1e4, 0.5], [1e4, 0.0]]))
        tensor([[0.5000, 0.0000]])
    """
    dtype, centre = x.dtype, y.flatten(1).double().mean(0)
    x, y = (points.flatten(1).double() - centre for points in (x, y))
    sizes = x.square().sum(1)[:, None] + y.square().sum(1)
    squares = torch.addmm(sizes, x, y.T, alpha=-2)
    rounding = x.shape[1] * torch.finfo(torch.float64).eps
    return squares.masked_fill_(squares <= sizes.mul_(rounding), 0).sqrt_().to(dtype)
