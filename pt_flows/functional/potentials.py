"""Dual potentials and how their gradients move samples.

Sign convention: a critic f is high on data, the Kantorovich potential of the paper is φ = -f, so samples move along
+∇f = -∇φ.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.functional.penalties import Potential

Reduction = Literal["sum", "mean"]


def wasserstein1_dual(critic: Potential, x: Float[Tensor, "B *event"], y: Float[Tensor, "C *event"]) -> Tensor:
    """Kantorovich-Rubinstein dual E f(x) - E f(y): a lower bound of W1(law of y, law of x) for 1-Lipschitz f.

    Args:
        critic: f.
        x: Data.
        y: Generated samples.
    """
    return critic(x).mean() - critic(y).mean()


def velocity(critic: Potential, y: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
    """The field ∇f(y) = -∇φ(y) that moves samples; carries no graph, so no gradient reaches the critic.

    Computed outside autocast, in float32 or better.

    Args:
        critic: f.
        y: Particles.
    """
    y = y.detach().to(torch.promote_types(y.dtype, torch.float32)).requires_grad_(True)
    with torch.enable_grad(), torch.autocast(y.device.type, enabled=False):
        (v,) = torch.autograd.grad(critic(y).sum(), y)
    return v


def euler_target(y: Float[Tensor, "B *event"], v: Float[Tensor, "B *event"], h: float) -> Float[Tensor, "B *event"]:
    """One forward Euler step ζ = y + h v, detached: the points that the generator is fitted to.

    Args:
        y: Particles.
        v: Their velocity.
        h: Step size ε.

    Example:
        >>> euler_target(torch.zeros(1, 2), torch.ones(1, 2), 0.5)
        tensor([[0.5000, 0.5000]])
    """
    return (y + h * v).detach()


def regression_loss(
    y: Float[Tensor, "B *event"], zeta: Float[Tensor, "B *event"], reduction: Reduction = "sum"
) -> Tensor:
    """Least squares (1/m) Σ ‖y_i - ζ_i‖² of particles onto their targets.

    Args:
        y: Particles, differentiable.
        zeta: Targets ζ, constants.
        reduction: "sum" over coordinates as in the formula, or "mean", which divides by their number d as the released
            code does. The gradient of the first inner step is 2ε (sum) or 2ε/d (mean) times that of -(1/m) Σ f(y_i).
    """
    squares = (y - zeta).square().flatten(1)
    return squares.sum(1).mean() if reduction == "sum" else squares.mean()
