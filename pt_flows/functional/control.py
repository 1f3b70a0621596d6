r"""Optimal learning rate and momentum of noisy gradient descent on a local quadratic model.

    dθ = -u ∇f dt + u √(η S) dW          time in units of the full rate η, u in (0, 1], S the variance of gradients
    f = a/2 (θ - b)²,   m = E f           so that  m' = -2 a u m + a η S u² / 2
    u* = min(1, 2 m / (η S))              if a > 0, else 1: the full rate until the noise dominates, then ~ 1 / time
    μ* = min(max(0, 1 - 2 √(η a)), max(0, 1 - η S / (4 m)))     if a > 0, else 1: momentum of a heavy ball

Li, Tai, E 2017, Stochastic Modified Equations and Adaptive Stochastic Gradient Algorithms, arXiv:1511.06251.

Departures: written from notes on the equations; the body of the paper was not available.
"""

import torch
from torch import Tensor


def controlled_rate(a: Tensor, m: Tensor, S: Tensor, eta: float) -> Tensor:
    """The optimal factor u* of the learning rate, in (0, 1].

    Args:
        a: Curvature, any shape.
        m: Mean height of the quadratic above its minimum, of the same shape.
        S: Variance of gradients, of the same shape.
        eta: The full learning rate η.

    Example:
        >>> one = torch.ones(3)
        >>> controlled_rate(torch.tensor([2.0, 2.0, -1.0]), 0.1 * one, torch.tensor([4.0, 0.0, 4.0]), 0.2)
        tensor([0.2500, 1.0000, 1.0000])
    """
    u = 2 * m / (eta * S)
    return torch.where((a > 0) & (u > 0), u.clamp(max=1.0), 1.0)


def controlled_momentum(a: Tensor, m: Tensor, S: Tensor, eta: float) -> Tensor:
    """The optimal momentum μ*, in [0, 1]. The arguments are those of `controlled_rate`."""
    damping, noise = 1 - 2 * (eta * a.clamp(min=0)).sqrt(), 1 - eta * S / (4 * m)
    return torch.where(a > 0, torch.minimum(damping, noise).nan_to_num(0.0).clamp(0.0, 1.0), 1.0)
