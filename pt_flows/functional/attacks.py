"""Attacks: perturbations δ of data that raise a loss, found by its gradient in the data.

Every attack maps a loss per sample, ℓ(x) of shape (B,), and data x (B, *event) to perturbed data x + δ, detached: the
gradient of a maximum in the parameters is that at the maximiser (Danskin), so δ is a constant of the training step.
Lengths are in units of the data; pixels lie in [-1, 1], and perturbed ones may leave this range.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero, NonNegative, Positive
from pt_flows.construction import Constructed

Losses = Callable[[Tensor], Tensor]
"""One loss per sample: (B, *event) to (B,)."""
Norm = Literal["l2", "linf"]
"""The norm that bounds a perturbation of a sample: Euclidean, or the largest entry."""


class Attack(Constructed, ABC):
    """Base of attacks."""

    @property
    @abstractmethod
    def name(self) -> str:
        """A short name for numbers that are measured under this attack, with its options."""

    @abstractmethod
    def __call__(self, losses: Losses, x: Float[Tensor, "B *event"]) -> Tensor:
        """Return perturbed data (B, *event), detached.

        Args:
            losses: The loss that the attack raises, one value per sample.
            x: Data.
        """


class Ascent(Attack):
    """Ascent without bound: δ ← δ + η ∇_δ [ℓ(x + δ) - λ ‖δ‖² / 2], K times from 0.

    The inner player of Gu and Guo 2021, An SDE Framework for Adversarial Training, arXiv:2105.08037v1, whose continuous
    twin is a penalty of weight K η / 2 on ‖∇_x ℓ‖² (`input_gradient_penalty`). The body of the paper could not be read:
    the equations are derived, and the penalty λ ‖δ‖² / 2 is ours.

    Args:
        num_steps: K.
        step_size: η.
        penalty_weight: λ.
    """

    def __init__(
        self, num_steps: CountOrZero = 1, step_size: Positive = 0.1, penalty_weight: NonNegative = 0.0
    ) -> None:
        self.num_steps, self.step_size, self.penalty_weight = num_steps, step_size, penalty_weight

    @property
    def name(self) -> str:
        """Such as `ascent3x0.1`."""
        weight = f"_{self.penalty_weight:g}" if self.penalty_weight else ""
        return f"ascent{self.num_steps}x{self.step_size:g}{weight}"

    def __call__(self, losses: Losses, x: Tensor) -> Tensor:
        """Climb K steps."""
        x = x.detach()
        delta = torch.zeros_like(x)
        for _ in range(self.num_steps):
            delta = delta + self.step_size * (data_gradient(losses, x + delta) - self.penalty_weight * delta)
        return x + delta


class FastGradient(Attack):
    """One step along the gradient g: ε g / √(‖g‖² + ξ²), or for l∞ ε g / √(g² + ξ²). Exact for linear models if ξ = 0.

    With ξ = 0 this is the fast gradient method (Goodfellow, Shlens, Szegedy 2015, arXiv:1412.6572), which jumps where
    g = 0; there δ = 0. A smoothing ξ > 0 makes δ a continuous function of the parameters, as Xing, Song and Cheng 2021,
    On the Generalization Properties of Adversarial Training, arXiv:2008.06631, ask for. The form of the smoothing is
    ours, because the body of their paper could not be read.

    Args:
        epsilon: ε, the longest perturbation.
        norm: Norm of the perturbation.
        smoothing: ξ, in units of the gradient.
    """

    def __init__(self, epsilon: NonNegative, norm: Norm = "l2", smoothing: NonNegative = 0.0) -> None:
        self.epsilon, self.smoothing = epsilon, smoothing
        self.norm: Norm = norm

    @property
    def name(self) -> str:
        """Such as `l2_0.5_fast`."""
        return f"{self.norm}_{self.epsilon:g}_fast" + (f"{self.smoothing:g}" if self.smoothing else "")

    def __call__(self, losses: Losses, x: Tensor) -> Tensor:
        """Take the step."""
        return x.detach() + self.epsilon * direction(data_gradient(losses, x), self.norm, self.smoothing)


class PGD(Attack):
    """Projected gradient ascent from x: steps of fixed length along the gradient, back into the ball of radius ε.

    Madry, Makelov, Schmidt, Tsipras, Vladu 2018, Towards Deep Learning Models Resistant to Adversarial Attacks,
    arXiv:1706.06083, without random starts, so that numbers repeat.

    Args:
        epsilon: ε, the longest perturbation.
        norm: Norm of the perturbation.
        num_steps: Number of steps.
        step_size: Length of a step; by default 2.5 ε / num_steps.
    """

    def __init__(
        self, epsilon: NonNegative, norm: Norm = "linf", num_steps: Count = 10, step_size: Positive | None = None
    ) -> None:
        self.epsilon, self.num_steps = epsilon, num_steps
        self.norm: Norm = norm
        self.step_size = 2.5 * epsilon / num_steps if step_size is None else step_size

    @property
    def name(self) -> str:
        """Such as `linf_0.2_pgd10`; a step size of another length stands at its end."""
        own = self.step_size != 2.5 * self.epsilon / self.num_steps
        return f"{self.norm}_{self.epsilon:g}_pgd{self.num_steps}" + (f"x{self.step_size:g}" if own else "")

    def __call__(self, losses: Losses, x: Tensor) -> Tensor:
        """Climb inside the ball."""
        x = x.detach()
        delta = torch.zeros_like(x)
        for _ in range(self.num_steps):
            delta = delta + self.step_size * direction(data_gradient(losses, x + delta), self.norm)
            delta = projected(delta, self.epsilon, self.norm)
        return x + delta


def data_gradient(losses: Losses, x: Float[Tensor, "B *event"]) -> Tensor:
    """Gradient ∇_x ℓ of every sample's loss (B, *event), detached, outside autocast."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(losses(x).sum(), x)
    return gradient


def direction(g: Float[Tensor, "B *event"], norm: Norm, smoothing: float = 0.0) -> Tensor:
    """The perturbation of length at most one that a gradient favours, 0 where the gradient is 0."""
    if norm == "linf":
        return g / (g.square() + smoothing**2).sqrt() if smoothing else g.sign()
    length = (g.flatten(1).square().sum(1) + smoothing**2).sqrt().view(-1, *[1] * (g.dim() - 1))
    return torch.where(length > 0, g / length, 0.0)


def projected(delta: Float[Tensor, "B *event"], epsilon: float, norm: Norm) -> Tensor:
    """The nearest perturbations in the ball of radius ε."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    length = delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.dim() - 1))
    return delta * torch.where(length > epsilon, epsilon / length, 1.0)


def exact_linear(
    theta: Float[Tensor, " d"], residual: Float[Tensor, " B"], epsilon: float, norm: Norm
) -> tuple[Float[Tensor, "B d"], Float[Tensor, " B"]]:
    """The worst perturbations of xᵀθ under squared loss, and the losses (|residual| + ε ‖θ‖_q)², q the dual norm.

    Args:
        theta: θ; under l2 other than zero.
        residual: xᵀθ - y.
        epsilon: ε.
        norm: Norm of a perturbation.

    Example:
        >>> exact_linear(torch.tensor([3.0, 4.0]), torch.tensor([1.0]), 1.0, "l2")
        (tensor([[0.6000, 0.8000]]), tensor([36.]))
    """
    ahead, dual = (theta.sign(), theta.abs().sum()) if norm == "linf" else (theta / theta.norm(), theta.norm())
    return epsilon * residual.sign()[:, None] * ahead, (residual.abs() + epsilon * dual).square()


def input_gradient_penalty(losses: Losses, x: Float[Tensor, "B *event"]) -> Tensor:
    """Mean of ‖∇_x ℓ‖² over samples, differentiable in the parameters: the twin of `Ascent` in continuous time."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(losses(x).sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1).mean()


def soft_threshold(u: Tensor, amount: float) -> Tensor:
    """The proximal step of amount · ‖u‖₁: every entry moves toward 0 by the amount, and stops there.

    Example:
        >>> soft_threshold(torch.tensor([-2.0, 0.5, 3.0]), 1.0)
        tensor([-1.,  0.,  2.])
    """
    return u.sign() * (u.abs() - amount).clamp(min=0)
