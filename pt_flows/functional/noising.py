"""Forward diffusion x_t = a_t x_0 + b_t ε at labels t = 0 ... T, label 0 being the data themselves.

A Gaussian stays Gaussian: N(m, Q diag(λ) Qᵀ) becomes N(a_t m, Q diag(a_t² λ + b_t²) Qᵀ). With the moments of the data
this shows how far apart neighbouring levels are, and whether chains can jump between them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pt_flows.functional.transport import eigenvectors


class Noising(NamedTuple):
    """Coefficients a_t and b_t, each (T + 1,), with a_t² + b_t² = 1, a_0 = 1 and b_0 = 0."""

    a: Tensor
    b: Tensor

    def diffuse(
        self, x: Float[Tensor, "B *event"], t: Int[Tensor, " B"], noise: Float[Tensor, "B *event"]
    ) -> Float[Tensor, "B *event"]:
        """x_t = a_t x + b_t ε.

        Args:
            x: Data.
            t: Labels in 0 ... T.
            noise: Standard normal ε.
        """
        a, b = (c.to(x)[t].reshape(-1, *[1] * (x.dim() - 1)) for c in self)
        return a * x + b * noise


def squared_cumulative(num_levels: int, low: float, high: float) -> Noising:
    """The schedule of Zhang, Tan and Ou 2023 (arXiv:2304.10707): β_t = min(1, (u_1 + ... + u_t)²), u from low to high.

    a_t is the product of √(1 - β_i) for i ≤ t. The last level is not pure noise: a_T is about a quarter in the paper's
    settings (T = 6, 0.01, 0.3 for rings; T = 50, 0.0002, 0.02 for images).

    Args:
        num_levels: T.
        low: u_1.
        high: u_T.

    Example:
        >>> [round(float(b), 4) for b in squared_cumulative(6, 1e-2, 3e-1).b]
        [0.0, 0.01, 0.0786, 0.218, 0.437, 0.7156, 0.9665]
    """
    u = torch.linspace(low, high, num_levels, dtype=torch.float64)
    beta = torch.cat([u.new_zeros(1), u.cumsum(0).square().clamp(max=1.0)])
    a = (1 - beta).sqrt().cumprod(0)
    b = (1 - a.square()).clamp(min=0.0).sqrt()
    return Noising(a.to(torch.get_default_dtype()), b.to(torch.get_default_dtype()))


class Gaussian(NamedTuple):
    """N(m, Q diag(λ) Qᵀ).

    Attributes:
        centre: Qᵀ m, the mean in the axes (d,).
        variances: λ (d,).
        axes: Q, one axis per column (d, d).
    """

    centre: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def fitted(cls, x: Float[Tensor, "N *event"], noise: float = 0.0) -> "Gaussian":
        """The Gaussian with the mean and covariance of samples.

        Args:
            x: Samples, in the precision of the computation.
            noise: Standard deviation of independent noise to add to them.
        """
        x = x.flatten(1)
        values, axes = eigenvectors(torch.cov(x.T).reshape(x.shape[1], -1))
        return cls(x.mean(0) @ axes, values.clamp(min=0) + noise**2, axes)

    def at_levels(self, noising: Noising) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
        """Means and variances of every level, in the axes."""
        a, b = (c.to(self.centre)[:, None] for c in noising)
        return a * self.centre, a.square() * self.variances + b.square()


def level_distances(data: Gaussian, noising: Noising) -> Float[Tensor, " T"]:
    """Nats between neighbouring levels of Gaussian data: the mean of KL(q_t ‖ q_{t+1}) and KL(q_{t+1} ‖ q_t).

    For one scale σ_t in d dimensions it is about d (Δ log σ)². Chains often jump between levels a few nats apart.

    Args:
        data: The moments of the data, noise included.
        noising: The levels.

    Example:
        >>> data = Gaussian(torch.zeros(100), torch.ones(100), torch.eye(100))
        >>> levels = Noising(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.4582576]))  # variances 1 and 1.21
        >>> [round(float(nats), 2) for nats in level_distances(data, levels)]  # 100 (log 1.1)² = 0.91
        [0.91]
    """
    means, variances = data.at_levels(noising)
    near, far = variances[:-1], variances[1:]
    apart = (means[1:] - means[:-1]).square()
    return 0.25 * (near / far + far / near - 2 + apart * (1 / near + 1 / far)).sum(1)


def enough_levels(
    data: Gaussian, num_levels: int, low: float, high: float, nats: float, limit: int = 1_000
) -> tuple[int, float, float] | None:
    """The smallest number of levels, up to the same noise, whose neighbours are at most `nats` apart.

    Args:
        data: The moments of the data, noise included.
        num_levels: T of the `squared_cumulative` schedule to refine.
        low: Its u_1.
        high: Its u_T.
        nats: The largest distance allowed.
        limit: The largest T to try.

    Returns:
        T, u_1 and u_T of the finer schedule, which ends at the same a_T; None if even `limit` levels are too few.
    """
    end = float(squared_cumulative(num_levels, low, high).a[-1])
    for finer in range(num_levels, limit + 1):
        small, large = 0.0, 1.0
        for _ in range(40):  # a_T falls as the increments grow
            middle = (small + large) / 2
            falls_short = float(squared_cumulative(finer, middle * low, middle * high).a[-1]) > end
            small, large = (middle, large) if falls_short else (small, middle)
        if float(level_distances(data, squared_cumulative(finer, large * low, large * high)).max()) <= nats:
            return finer, large * low, large * high
    return None
