"""Dual potentials and the motion of samples along their gradients.

Sign convention: a critic f is high on data, the Kantorovich potential of the paper is φ = -f, so samples move along
+∇f = -∇φ.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.functional.penalties import Potential
from pt_flows.functional.precision import widened

Reduction = Literal["sum", "mean"]


def wasserstein1_dual(critic: Potential, x: Float[Tensor, "B *event"], y: Float[Tensor, "C *event"]) -> Tensor:
    """Kantorovich-Rubinstein dual E f(x) - E f(y): a lower bound of W1 of x's and y's distributions, f 1-Lipschitz.

    Args:
        critic: f.
        x: Data.
        y: Generated samples.
    """
    return critic(x).mean() - critic(y).mean()


def velocity(critic: Potential, y: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
    """The field ∇f(y) = -∇φ(y) that moves samples. It has no graph, so no gradient reaches the critic.

    It is computed in float32 or better, also inside `torch.inference_mode`. Under autocast the critic itself is not.

    Args:
        critic: f.
        y: Particles.
    """
    with torch.inference_mode(False), torch.enable_grad():
        y = y.clone() if y.is_inference() else y
        y = widened(y.detach()).requires_grad_(True)
        (v,) = torch.autograd.grad(critic(y).sum(), y)
    return v


def euler_target(y: Float[Tensor, "B *event"], v: Float[Tensor, "B *event"], h: float) -> Float[Tensor, "B *event"]:
    """One forward Euler step ζ = y + h v, detached: the targets to which the generator is fitted.

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


# ----------------------------------------------------------------------------------------- the pair of potentials of W2


def quadratic_cost(x: Float[Tensor, "B *event"], y: Float[Tensor, "B *event"]) -> Float[Tensor, " B"]:
    """c(x_i, y_i) = ½‖x_i - y_i‖² of paired samples. For all pairs use `transport.half_squared_distances`.

    Example:
        >>> quadratic_cost(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([12.5000])
    """
    return 0.5 * (x - y).flatten(1).square().sum(1)


def inequality_penalty(phi: Float[Tensor, "*n"], psi: Float[Tensor, "*n"], cost: Float[Tensor, "*n"]) -> Tensor:
    """Mean of max(0, φ + ψ - c)² over pairs: the violation of the dual constraint.

    Leygonie et al. 2019, Adversarial Computation of Optimal Transport Maps, arXiv:1906.09691.

    Args:
        phi: Potential on the data's side at the pairs.
        psi: Potential on the particles' side at the pairs.
        cost: c(x, y) of the pairs.

    Example:
        >>> inequality_penalty(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([2.0, 0.0]))
        tensor(2.)
    """
    return (phi + psi - cost).clamp(min=0).square().mean()


def equality_penalty(value: Float[Tensor, " B"], other: Potential, x: Float[Tensor, "B *event"]) -> Tensor:
    """Mean of (φ(x) + ψ(Tx) - c(x, Tx))² with Tx = x - ∇φ(x): potentials are tight along the map they define.

    It is differentiable through the map, which costs second derivatives, and computed outside autocast.
    Leygonie et al. 2019, arXiv:1906.09691.

    Args:
        value: φ(x), the potential on x's side, with its graph.
        other: The potential on the other side.
        x: Samples, a leaf of that graph.
    """
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return (value + other(x.detach() - slope) - 0.5 * slope.flatten(1).square().sum(1)).square().mean()
