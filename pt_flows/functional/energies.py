"""Distributions on the plane with exact samples and, where it is known, a closed-form density, for toys and tests.

Every distribution draws `sample(num, rng)` on the generator's device. It has `centres` (K, 2) and `std` if it has
modes, and `log_prob` if its density is known.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Law(Protocol):
    """A probability distribution on the plane that can be sampled exactly."""

    def sample(self, num: int, rng: torch.Generator) -> Float[Tensor, "num 2"]:
        """Independent samples on the generator's device."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Mixture of isotropic Gaussians.

    Args:
        centres: (K, 2).
        std: Standard deviation of every component, per coordinate.
        weights: Fraction of each component, with sum one. All components are equal if None.
    """

    centres: Tensor
    std: float
    weights: tuple[float, ...] | None = None

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        if self.weights is None:
            k = torch.randint(len(self.centres), (num,), generator=rng, device=rng.device)
        else:
            shares = torch.tensor(self.weights, device=rng.device)
            k = torch.multinomial(shares, num, replacement=True, generator=rng)
        return self.centres.to(rng.device)[k] + self.std * torch.randn(num, 2, generator=rng, device=rng.device)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats."""
        squares = (x[:, None] - self.centres.to(x)).square().sum(2) / self.std**2
        log_components = -0.5 * squares - math.log(2 * math.pi * self.std**2)
        weights = self.weights or [1 / len(self.centres)] * len(self.centres)
        return (log_components + torch.tensor(weights).to(x).log()).logsumexp(1)

    def diffused(self, a: float, b: float) -> "GaussianMixture":
        """The distribution of a x + b ε for x from this mixture and standard normal ε, which is again a mixture."""
        return GaussianMixture(a * self.centres, math.hypot(a * self.std, b), self.weights)


@dataclass(frozen=True, eq=False)
class Normal:
    """One Gaussian with correlated coordinates. Its distance to another Gaussian has a closed form.

    Args:
        mean: (2,).
        covariance: (2, 2), positive definite.
    """

    mean: Tensor
    covariance: Tensor

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        root = torch.linalg.cholesky(self.covariance).to(rng.device)
        return self.mean.to(rng.device) + torch.randn(num, 2, generator=rng, device=rng.device) @ root.T

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats."""
        return torch.distributions.MultivariateNormal(self.mean.to(x), self.covariance.to(x)).log_prob(x)


@dataclass(frozen=True, eq=False)
class Rings:
    """Equal mixture of circles with a Gaussian radius (DA-EBM's four rings).

    Args:
        radii: Mean radius of each ring, many standard deviations above zero.
        std: Standard deviation of the radius.
    """

    radii: tuple[float, ...]
    std: float

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        k = torch.randint(len(self.radii), (num,), generator=rng, device=rng.device)
        r = torch.tensor(self.radii, device=rng.device)[k]
        r = r + self.std * torch.randn(num, generator=rng, device=rng.device)
        angle = 2 * math.pi * torch.rand(num, generator=rng, device=rng.device)
        return torch.stack([r * angle.cos(), r * angle.sin()], 1)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats; the factor 1 / (2πr) turns the density of the radius into one on the plane."""
        r = x.norm(dim=1)
        radii = torch.tensor(self.radii).to(x)
        log_radial = -0.5 * ((r[:, None] - radii) / self.std).square() - math.log(self.std * math.sqrt(2 * math.pi))
        return log_radial.logsumexp(1) - math.log(len(self.radii)) - (2 * math.pi * r).log()


@dataclass(frozen=True, eq=False)
class Checkerboard:
    """Uniform on the eight dark cells of a 4x4 board over [-2, 2]²."""

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        column, half = (torch.randint(n, (num,), generator=rng, device=rng.device) for n in (4, 2))
        row = 2 * half + column % 2
        return torch.stack([column, row], 1) - 2 + torch.rand(num, 2, generator=rng, device=rng.device)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats: log(1/8) on dark cells, -inf elsewhere."""
        cell = x.floor()
        dark = (x.abs() <= 2).all(1) & ((cell.sum(1) % 2) == 0)
        return torch.where(dark, -math.log(8.0), -math.inf)


@dataclass(frozen=True, eq=False)
class TwoMoons:
    """Two interleaved half circles of radius one, centred at the origin, with Gaussian noise."""

    std: float = 0.05

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        upper = torch.randint(2, (num,), generator=rng, device=rng.device) * 2.0 - 1.0
        angle = math.pi * torch.rand(num, generator=rng, device=rng.device)
        curve = torch.stack([upper * (angle.cos() - 0.5), upper * (angle.sin() - 0.25)], 1)
        return curve + self.std * torch.randn(num, 2, generator=rng, device=rng.device)


@dataclass(frozen=True, eq=False)
class SwissRoll:
    """The roll of WGAN-GP's toys: t (cos t, sin t), t from 1.5π to 4.5π, noise 0.25, all divided by 7.5."""

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        t = 1.5 * math.pi * (1 + 2 * torch.rand(num, generator=rng, device=rng.device))
        curve = torch.stack([t * t.cos(), t * t.sin()], 1)
        return (curve + 0.25 * torch.randn(num, 2, generator=rng, device=rng.device)) / 7.5


@dataclass(frozen=True, eq=False)
class Spirals:
    """Two arms that wind one and a half times around the origin, out to radius about three, with noise 0.1."""

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        arm = torch.randint(2, (num,), generator=rng, device=rng.device) * 2.0 - 1.0
        t = 3 * math.pi * torch.rand(num, generator=rng, device=rng.device).sqrt()
        curve = torch.stack([-t * t.cos(), t * t.sin()], 1) * (arm / 3)[:, None]
        return curve + 0.1 * torch.randn(num, 2, generator=rng, device=rng.device)


@dataclass(frozen=True, eq=False)
class Funnel:
    """Neal's funnel: x_1 ~ N(0, scale²), x_2 ~ N(0, e^{x_1}), so suitable step sizes differ by orders of magnitude.

    Neal 2003, Slice Sampling, Section 8.

    Args:
        scale: Standard deviation of x_1.
    """

    scale: float = 3.0

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        z = torch.randn(num, 2, generator=rng, device=rng.device)
        return torch.stack([self.scale * z[:, 0], (self.scale * z[:, 0] / 2).exp() * z[:, 1]], 1)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats."""
        v, y = x.unbind(1)
        squares = (v / self.scale).square() + y.square() * (-v).exp()
        return -0.5 * (squares + v) - math.log(2 * math.pi * self.scale)


@dataclass(frozen=True, eq=False)
class Rosenbrock:
    """A curved valley: x_1 ~ N(1, 1/2a), x_2 ~ N(x_1², 1/2b), so U = a (x_1 - 1)² + b (x_2 - x_1²)² up to a constant.

    Args:
        a: Stiffness along the valley.
        b: Stiffness across it.
    """

    a: float = 0.5
    b: float = 5.0

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        z = torch.randn(num, 2, generator=rng, device=rng.device)
        x = 1 + z[:, 0] / math.sqrt(2 * self.a)
        return torch.stack([x, x.square() + z[:, 1] / math.sqrt(2 * self.b)], 1)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats."""
        u = self.a * (x[:, 0] - 1).square() + self.b * (x[:, 1] - x[:, 0].square()).square()
        return 0.5 * math.log(self.a * self.b) - math.log(math.pi) - u


class DoubleWell:
    """U = depth (x_1² - 1)² + ½ x_2² up to a constant: two wells at ±1 behind a barrier of the given height.

    The first coordinate is normalised and inverted on a grid, to about 1e-6.

    Args:
        depth: Height of the barrier between the wells, in nats.
    """

    def __init__(self, depth: float = 4.0) -> None:
        self.depth = depth
        self.grid = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
        density = (-depth * (self.grid.square() - 1).square()).exp()
        cumulative = torch.cumulative_trapezoid(density, self.grid)
        self.log_mass = float(cumulative[-1].log())
        self.cumulative = torch.cat([cumulative.new_zeros(1), cumulative / cumulative[-1]])

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, 2)."""
        u = torch.rand(num, generator=rng, device=rng.device, dtype=torch.float64)
        grid, cumulative = self.grid.to(rng.device), self.cumulative.to(rng.device)
        i = torch.searchsorted(cumulative, u).clamp(1, len(grid) - 1)
        share = (u - cumulative[i - 1]) / (cumulative[i] - cumulative[i - 1]).clamp(min=1e-300)
        x = (grid[i - 1] + share * (grid[i] - grid[i - 1])).to(torch.get_default_dtype())
        return torch.stack([x, torch.randn(num, generator=rng, device=rng.device)], 1)

    def log_prob(self, x: Float[Tensor, "B 2"]) -> Float[Tensor, " B"]:
        """Log density in nats."""
        u = self.depth * (x[:, 0].square() - 1).square() + 0.5 * x[:, 1].square()
        return -u - self.log_mass - 0.5 * math.log(2 * math.pi)


def score(log_prob: Callable[[Tensor], Tensor], x: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
    """The score ∇ log p(x) of a distribution with a density, exact to rounding.

    Example:
        >>> score(Funnel(1.0).log_prob, torch.tensor([[0.0, 2.0]]))
        tensor([[ 1.5000, -2.0000]])
    """
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_prob(x).sum(), x)
    return gradient


def ring_of_eight(radius: float, std: float) -> GaussianMixture:
    """Eight Gaussians on a circle.

    Example:
        >>> ring_of_eight(1.0, 0.1).centres.shape
        torch.Size([8, 2])
    """
    angles = torch.arange(1, 9) * (math.pi / 4)
    return GaussianMixture(radius * torch.stack([angles.cos(), angles.sin()], 1), std)


def square_grid(ticks: list[float], std: float) -> GaussianMixture:
    """Gaussians at every pair of ticks."""
    return GaussianMixture(torch.cartesian_prod(torch.tensor(ticks), torch.tensor(ticks)), std)
