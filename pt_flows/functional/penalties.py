"""Penalties on the slope of a critic, for any event shape."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.functional.precision import widened

Potential = Callable[[Tensor], Tensor]
"""One value per sample: (B, *event) to (B,)."""
Penalty = Literal["one_sided", "two_sided"]
"""The slopes that are penalised: those above one, or all that differ from one."""


def interpolate(x: Float[Tensor, "B *event"], y: Float[Tensor, "B *event"], a: Float[Tensor, " B"]) -> Tensor:
    """Points a x + (1 - a) y on the segments between paired samples, one coefficient per sample.

    Gulrajani et al. 2017, Improved Training of Wasserstein GANs, Algorithm 1, arXiv:1704.00028.

    Args:
        x: Real samples.
        y: Generated samples.
        a: Coefficients in [0, 1].

    Example:
        >>> interpolate(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0.25, 1.0]))[:, 0]
        tensor([0.2500, 1.0000])
    """
    a = a.reshape(-1, *[1] * (x.dim() - 1))
    return a * x + (1 - a) * y


def gradient_norm(critic: Potential, u: Float[Tensor, "B *event"]) -> Float[Tensor, " B"]:
    """Euclidean norm ‖∇f(u_i)‖ over all coordinates of each sample, differentiable in the critic's parameters.

    A tiny constant under the root keeps the derivative finite if a dead critic has gradient zero. It changes norms
    above 1e-3 by less than 1e-6. The norm is in float32 or better. Under autocast the critic itself is not.

    Args:
        critic: f.
        u: Points at which the gradient is taken, as constants.
    """
    u = widened(u.detach()).requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(critic(u).sum(), u, create_graph=True)
    return (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()


def two_sided_penalty(norm: Float[Tensor, " B"]) -> Tensor:
    """Mean of (‖∇f‖ - 1)²: the gradient penalty "GP" (Gulrajani et al. 2017, Eq. 3).

    Example:
        >>> two_sided_penalty(torch.tensor([0.0, 3.0]))
        tensor(2.5000)
    """
    return (norm - 1).square().mean()


def one_sided_penalty(norm: Float[Tensor, " B"]) -> Tensor:
    """Mean of max(0, ‖∇f‖ - 1)²: the Lipschitz penalty "LP" (Petzka et al. 2018, arXiv:1709.08894).

    Example:
        >>> one_sided_penalty(torch.tensor([0.0, 3.0]))
        tensor(2.)
    """
    return (norm - 1).clamp(min=0).square().mean()


def zero_centred_penalty(norm: Float[Tensor, " B"]) -> Tensor:
    """Half the mean of ‖∇f‖²: "R1" at data and "R2" at samples (Mescheder et al. 2018, arXiv:1801.04406).

    Example:
        >>> zero_centred_penalty(torch.tensor([0.0, 2.0]))
        tensor(1.)
    """
    return 0.5 * norm.square().mean()


PENALTIES: dict[Penalty, Callable[[Tensor], Tensor]] = {"one_sided": one_sided_penalty, "two_sided": two_sided_penalty}
"""The penalty for each name, a function of slopes (B,)."""
