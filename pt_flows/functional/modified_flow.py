r"""Modified equations of training: the stochastic flow that a run with a finite learning rate η follows.

    dZ = (b₀(Z) + η b₁(Z)) dt + (η / B)^{1/2} Σ(Z)^{1/2} dW        t = η · steps, B terms in a minibatch

b₀ alone is wrong by O(η) in time t = O(1), and b₀ + η b₁ by O(η²). A problem is `Game` or `AdversarialTraining`; both
have `drift`, `covariance` and `run`, the real training. All take many copies at once: rows of a matrix (C, d).

    game = Game(values, num_min=2)
    trained = game.run(z, 0.05, 20, "alternating")
    followed = follow(game.drift(0.05, "alternating"), z, 1.0)

Cao, Guo 2020, Approximation and convergence of GANs training: an SDE approach, arXiv:2006.02047; Gu, Guo 2021, An SDE
framework for adversarial training, arXiv:2105.08037. Departures: the papers' bodies were not available. The corrections
here are derived by matching one step of training with a Taylor expansion of the flow, and checked by orders of error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vmap

from pt_flows.functional.integrators import RK4, Field, rk_step

Vector = Callable[[Tensor], Tensor]
"""A function of one parameter vector (d,)."""

Scheme = Literal["simultaneous", "alternating"]
Order = Literal[1, 2]
"""First order: b₀. Second order: b₀ + η b₁."""


def rows(function: Vector) -> Field:
    """A field that applies a function of one vector (d,) to every row of (C, d), whatever the time."""
    return lambda t, z: vmap(function)(z)


@dataclass(frozen=True)
class Game:
    """min over θ, max over ω of Φ, the mean of N values; z = (θ, ω) is one vector (d,).

    With `num_min` = d there is no second player, and the run is gradient descent.

    Attributes:
        values: z (d,) to the values (N,) of all pairs.
        num_min: Number of coordinates of θ, which come first.
    """

    values: Vector
    num_min: int

    def field(self, z: Tensor, weights: Tensor | None = None) -> Tensor:
        """b₀ = (-∇_θ Φ, ∇_ω Φ) at one vector z (d,).

        Args:
            z: Parameters.
            weights: Weight of every pair (N,), such as counts in a minibatch over its size; None for the mean.
        """
        phi = lambda z: self.values(z).mean() if weights is None else self.values(z) @ weights
        return grad(phi)(z) * self.signs(z)

    def signs(self, z: Tensor) -> Tensor:
        """-1 for coordinates that go down, 1 for those that go up."""
        return torch.where(torch.arange(len(z), device=z.device) < self.num_min, -1.0, 1.0).to(z)

    def drift(self, rate: float, scheme: Scheme, order: Order = 2) -> Field:
        """b₀, or b₀ + η b₁ with b₁ = -½ (∇b₀) b₀; alternating updates add -(∂_ω ∇_θ Φ) ∇_ω Φ to θ's part.

        Args:
            rate: η of both players.
            scheme: Whether θ's gradient is taken before or after ω's step.
            order: Order of the drift.
        """
        return rows(self.field if order == 1 else lambda z: self.field(z) + rate * self.correction(z, scheme))

    def correction(self, z: Tensor, scheme: Scheme) -> Tensor:
        """b₁ at one vector z (d,)."""
        down = self.signs(z) < 0
        b0 = self.field(z)
        b1 = -0.5 * jvp(self.field, (z,), (b0,))[1]
        if scheme == "alternating":  # ω has already moved by η ∇_ω Φ when θ's gradient is taken
            b1 = b1 + torch.where(down, jvp(self.field, (z,), (torch.where(down, 0.0, b0),))[1], 0.0)
        return b1

    def covariance(self, z: Tensor, scheme: Scheme) -> Tensor:
        """Σ (d, d): covariance of one pair's part of the step (-∇_θ, ∇_ω) at z (d,).

        Args:
            z: Parameters.
            scheme: Simultaneous players share a minibatch, so their noises are correlated. Alternating players draw
                one each, and Σ has a block for each player.
        """
        signs = self.signs(z)
        full = covariance_of(jacfwd(self.values)(z) * signs)  # d parameters, far more values
        return full if scheme == "simultaneous" else full * (signs[:, None] == signs)

    def run(
        self, z: Tensor, rate: float, num_steps: int, scheme: Scheme, batch_size: int | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Parameters (C, d) after steps of training. ω moves first if updates alternate.

        Args:
            z: Starting points (C, d).
            rate: η.
            num_steps: Number of steps.
            scheme: Order of the updates.
            batch_size: Pairs drawn with replacement for each gradient; None for all pairs.
            rng: Source of the minibatches.
        """
        num_pairs = len(self.values(z[0]))
        for _ in range(num_steps):
            weights = minibatch(len(z), num_pairs, batch_size, z, rng)
            slope = vmap(self.field)(z, weights)
            if scheme == "alternating":
                step = torch.cat([torch.zeros_like(slope[:, : self.num_min]), slope[:, self.num_min :]], 1)
                second = vmap(self.field)(z + rate * step, minibatch(len(z), num_pairs, batch_size, z, rng))
                slope = torch.cat([second[:, : self.num_min], step[:, self.num_min :]], 1)
            z = z + rate * slope
        return z


@dataclass(frozen=True)
class AdversarialTraining:
    """Descent of θ on a loss at attacked data: δ ← δ + η_I ∇_δ L(θ, x + δ), K times from δ = 0.

    Attributes:
        loss: θ (d,) and one sample to a number.
        data: Samples (N, *event).
        ascents: K; with 0 this is plain stochastic gradient descent.
        ascent_rate: η_I.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    data: Tensor
    ascents: int
    ascent_rate: float

    def gradients(self, theta: Tensor) -> Tensor:
        """∇_θ L at every attacked sample (N, d), with the attack held fixed."""

        def one(x: Tensor) -> Tensor:
            for _ in range(self.ascents):
                x = x + self.ascent_rate * grad(self.loss, 1)(theta, x)
            return grad(self.loss)(theta, x)

        return vmap(one)(self.data)

    def drift(self, rate: float, order: Order = 2) -> Field:
        """-∇ of G, or of G + η_I K / 2 P + η / 4 ‖∇G‖²: G is the mean loss and P the mean of ‖∇_x L‖².

        Args:
            rate: η of θ.
            order: Order of the drift.
        """
        mean_loss = lambda theta: vmap(lambda x: self.loss(theta, x))(self.data).mean()
        squared = lambda theta, x: grad(self.loss, 1)(theta, x).square().sum()
        penalty = lambda theta: vmap(lambda x: squared(theta, x))(self.data).mean()

        def potential(theta: Tensor) -> Tensor:
            implicit = rate / 4 * grad(mean_loss)(theta).square().sum()
            return mean_loss(theta) + self.ascent_rate * self.ascents / 2 * penalty(theta) + implicit

        descended = grad(mean_loss if order == 1 else potential)
        return rows(lambda theta: -descended(theta))

    def covariance(self, theta: Tensor) -> Tensor:
        """Σ (d, d): covariance over samples of ∇_θ L on clean data, at θ (d,)."""
        return covariance_of(vmap(lambda x: grad(self.loss)(theta, x))(self.data))

    def run(
        self, theta: Tensor, rate: float, num_steps: int, batch_size: int | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:  # fmt: skip
        """Parameters (C, d) after steps of adversarial training; arguments as for `Game.run`."""
        for _ in range(num_steps):
            weights = minibatch(len(theta), len(self.data), batch_size, theta, rng)
            theta = theta - rate * vmap(lambda theta, w: w @ self.gradients(theta))(theta, weights)
        return theta


def minibatch(copies: int, num: int, size: int | None, like: Tensor, rng: torch.Generator | None) -> Tensor:
    """Weights (C, N) of the terms in one minibatch per copy, drawn with replacement; equal without a size."""
    if size is None:
        return torch.full((copies, num), 1 / num, dtype=like.dtype, device=like.device)
    chosen = torch.randint(num, (copies, size), generator=rng, device=like.device)
    weights = torch.zeros(copies, num, dtype=like.dtype, device=like.device)
    return weights.scatter_add_(1, chosen, torch.full(chosen.shape, 1 / size, dtype=like.dtype, device=like.device))


def covariance_of(gradients: Tensor) -> Tensor:
    """Covariance (d, d) of rows (N, d), with divisor N."""
    centred = gradients - gradients.mean(0)
    return centred.T @ centred / len(centred)


def root(covariance: Tensor) -> Tensor:
    """Symmetric square root of matrices (..., d, d) that are positive semi-definite."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)) @ vectors.mT


def follow(drift: Field, z: Tensor, time: float, num_steps: int = 200) -> Tensor:
    """State (C, d) of the flow without noise after a time, by Kutta's method."""
    for _ in range(num_steps):
        z = rk_step(drift, 0.0, z, time / num_steps, RK4)
    return z


def euler_maruyama(
    drift: Field, covariance: Vector, noise: float, z: Tensor, time: float, num_steps: int, rng: torch.Generator
) -> Tensor:
    """State (C, d) of dZ = drift dt + noise Σ^{1/2} dW after a time; every copy has noise of its own.

    Args:
        drift: b.
        covariance: Σ (d, d) at one vector (d,).
        noise: (η / B)^{1/2}.
        z: Starting points (C, d).
        time: Length of the path.
        num_steps: Number of equal steps.
        rng: Source of the noise.
    """
    h = time / num_steps
    for _ in range(num_steps):
        dw = h**0.5 * torch.randn(z.shape, generator=rng, dtype=z.dtype, device=z.device)
        sigma = root(vmap(covariance)(z))
        z = z + h * drift(0.0, z) + noise * (sigma @ dw.unsqueeze(-1)).squeeze(-1)
    return z
