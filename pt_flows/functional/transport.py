"""Exact and closed-form optimal transport: between samples, on the line, between Gaussians.

Costs are ½‖x - y‖² for potentials, as in the W2 flow; distances are the usual W_p of the Euclidean distance. Optimal
plans between samples come from POT's network simplex, on the CPU in float64.
"""

import math
from typing import Any, NamedTuple

import ot
import scipy.linalg
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pt_flows.functional.distances import exact_distances

MOST_POINTS = 5_000
"""Largest number of points for which metrics solve exact transport, as its cost grows with its cube."""

# ------------------------------------------------------------------------------------------------------ between samples


def exact_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], p: int) -> float:
    """W_p between the uniform distributions on two point sets; NaN if it cannot be found, as for points with NaN.

    Args:
        x: Points.
        y: Points.
        p: Power of the Euclidean cost; 1 or 2.

    Example:
        >>> exact_wasserstein(torch.zeros(3, 2), torch.tensor([[3.0, 4.0]]), p=2)
        5.0
    """
    cost = _distances(x, y) ** p
    if not bool(cost.isfinite().all()):
        return math.nan  # the solver would find no plan, of cost 0
    found: Any = ot.emd2(_uniform(len(x)), _uniform(len(y)), cost.numpy(), numItermax=1_000_000, log=True)
    value, log = found
    return math.nan if log["warning"] else max(float(value), 0.0) ** (1 / p)


def sliced_wasserstein(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], num_projections: int = 200) -> float:
    """Sliced W2: the root of the mean squared W2 of projections onto fixed random directions.

    Bonneel et al. 2015, Sliced and Radon Wasserstein Barycenters of Measures, Journal of Mathematical Imaging and
    Vision 51.

    Args:
        x: Points.
        y: Points.
        num_projections: Number of directions.
    """
    points = [t.double().cpu().numpy() for t in (x, y)]
    value: Any = ot.sliced.sliced_wasserstein_distance(*points, n_projections=num_projections, seed=0)
    return float(value)


def gaussian_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Unbiased squared maximum mean discrepancy; float64.

    The kernel is the mean of exp(-r² / 2h²) over h = 1/4, 1/2, 1, 2 and 4 times the median distance of y. Gretton et
    al. 2012, A Kernel Two-Sample Test, JMLR 13.

    Args:
        x: Points, at least two.
        y: Points, at least two.
    """
    x, y = x.double().cpu(), y.double().cpu()
    yy, n, m = _distances(y, y), len(x), len(y)
    median = yy[~torch.eye(m, dtype=torch.bool)].median()
    kernel = lambda r: torch.stack([(-(r / (h * median)).square() / 2).exp() for h in (0.25, 0.5, 1, 2, 4)]).mean(0)
    inside = lambda r, num: (kernel(r).sum() - num) / (num * (num - 1))
    return float(inside(_distances(x, x), n) + inside(yy, m) - 2 * kernel(_distances(x, y)).mean())


def assignment(y: Float[Tensor, "n *event"], x: Float[Tensor, "n *event"]) -> Int[Tensor, " n"]:
    """Indices i such that the pairs (y, x[i]) have the least sum of squared distances.

    Args:
        y: Points.
        x: The same number of points.

    Example:
        >>> assignment(torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [1.0]]))
        tensor([1, 0])
    """
    cost = _distances(y, x) ** 2
    plan: Any = ot.emd(_uniform(len(y)), _uniform(len(x)), cost.numpy(), numItermax=1_000_000)
    return torch.from_numpy(plan).argmax(1).to(y.device)


def sorting_map(y: Float[Tensor, " n"], x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The optimal map on the line: for each y the value of x that has the same rank.

    Example:
        >>> sorting_map(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([10.0, 30.0, 20.0]))
        tensor([20., 10., 30.])
    """
    return torch.empty_like(x).index_copy_(0, y.argsort(), x.sort().values)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    x, y = (points.detach().flatten(1).double().cpu() for points in (x, y))
    return exact_distances(x, y)


def _uniform(num: int) -> Any:
    return torch.full((num,), 1 / num, dtype=torch.float64).numpy()


# ---------------------------------------------------------------------------------------------------- between Gaussians


class Gaussian(NamedTuple):
    """N(mean, covariance): mean (d,), covariance (d, d) positive definite."""

    mean: Tensor
    covariance: Tensor


def moments(y: Float[Tensor, "n d"]) -> Gaussian:
    """The Gaussian with a sample's mean and covariance (divided by n)."""
    centred = y - y.mean(0)
    return Gaussian(y.mean(0), centred.T @ centred / len(y))


def eigenvectors(a: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d,), in ascending order, and eigenvectors (d, d) of a symmetric matrix.

    The usual algorithm, divide and conquer, may fail to converge where many eigenvalues are equal, as those of a
    covariance of few samples, which are zero. QR iteration (SciPy) is slower and replaces it there.
    """
    try:
        return torch.linalg.eigh(a)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        values, vectors = scipy.linalg.eigh(a.detach().cpu().numpy(), driver="ev")
        return torch.from_numpy(values).to(a), torch.from_numpy(vectors).to(a)


def symmetric_sqrt(a: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Positive square root of a symmetric positive semidefinite matrix.

    Eigenvalues within rounding become zero, because the root of a rounding error is far larger than the error.
    """
    values, vectors = eigenvectors(a)
    rounding = torch.maximum(-values[0], len(values) * torch.finfo(a.dtype).eps * values[-1])
    return (vectors * torch.where(values > rounding, values, 0).sqrt()) @ vectors.T


def gaussian_map(law: Gaussian, target: Gaussian) -> Float[Tensor, "d d"]:
    """Matrix A of the optimal map T(y) = b + A (y - m): A = Σ^{-1/2} (Σ^{1/2} Σ_d Σ^{1/2})^{1/2} Σ^{-1/2}.

    Args:
        law: N(m, Σ), the source of the mass.
        target: N(b, Σ_d), its destination.
    """
    root = symmetric_sqrt(law.covariance)
    inverse = torch.linalg.inv(root)
    return inverse @ symmetric_sqrt(root @ target.covariance @ root) @ inverse


def bures_distance(a: Float[Tensor, "d d"], b: Float[Tensor, "d d"]) -> Tensor:
    """Bures distance of two covariances: W2 of centred Gaussians, √(tr a + tr b - 2 tr (a^{1/2} b a^{1/2})^{1/2}).

    Example:
        >>> bures_distance(torch.diag(torch.tensor([4.0, 9.0])), torch.eye(2))
        tensor(2.2361)
    """
    return squared_bures(symmetric_sqrt(a.double()), symmetric_sqrt(b.double())).sqrt().to(a)


def squared_bures(root_a: Float[Tensor, "d d"], root_b: Float[Tensor, "d d"]) -> Tensor:
    """The square of `bures_distance` from the roots R, S of both covariances: ‖R‖² + ‖S‖² - 2 Σ singular values of R S.

    It equals min ‖R - S Q‖² over rotations Q, so it is negative by the rounding of this one difference at most. The
    eigenvalues of R b R have the squared singular values, and where they are zero the root of their rounding errors.

    Args:
        root_a: R = a^{1/2}.
        root_b: S = b^{1/2}.
    """
    cross = torch.linalg.svdvals(root_a @ root_b).sum()
    return (root_a.square().sum() + root_b.square().sum() - 2 * cross).clamp(min=0)


def gaussian_wasserstein2(law: Gaussian, target: Gaussian) -> Tensor:
    """W2 of two Gaussians: √(‖m - b‖² + Bures²)."""
    return torch.hypot((law.mean - target.mean).norm(), bures_distance(law.covariance, target.covariance))


# ----------------------------------------------------------------------------------------------------- exact potentials


class GaussianPotential(NamedTuple):
    """The exact potential of two Gaussians for the cost ½‖x - y‖², as a critic: f = -ψ, so that y + ∇f(y) = T(y).

    f(y) = ½ (y - m)ᵀ(A - I)(y - m) + (b - m)ᵀ y up to a constant, A as in `gaussian_map`.

    Args:
        law: N(m, Σ), the distribution of the particles.
        target: N(b, Σ_d), the distribution of the data.
    """

    law: Gaussian
    target: Gaussian

    def __call__(self, y: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Values at y."""
        m, b = self.law.mean, self.target.mean
        a = gaussian_map(self.law, self.target) - torch.eye(len(m)).to(m)
        return 0.5 * (((y - m) @ a) * (y - m)).sum(1) + y @ (b - m)


class EntropicPotential(NamedTuple):
    """A potential given by its dual values on data points, as a critic: f = -ψ, ψ the soft c-transform of φ.

    f(y) = γ log Σ_j exp((φ_j - ½‖x_j - y‖²) / γ). Then y + ∇f(y) is a weighted mean of the data points: the barycentric
    projection of the entropic plan (Seguy et al. 2018, arXiv:1711.02283).

    Args:
        x: Data points (n, *event).
        phi: Dual values φ_j (n,).
        entropy: Temperature γ in units of the cost.
    """

    x: Tensor
    phi: Tensor
    entropy: float

    def __call__(self, y: Float[Tensor, "B *event"]) -> Float[Tensor, " B"]:
        """Values at y."""
        return self.entropy * ((self.phi - half_squared_distances(y, self.x)) / self.entropy).logsumexp(1)


def half_squared_distances(y: Float[Tensor, "B *event"], x: Float[Tensor, "n *event"]) -> Float[Tensor, "B n"]:
    """The cost ½‖y_i - x_j‖² of all pairs, differentiable twice.

    Products of centred points in float64, outside autocast, rounded at the end: exact differences of all pairs of
    images would take too much memory.
    """
    dtype = torch.promote_types(y.dtype, torch.float32)
    centre = x.detach().flatten(1).double().mean(0)
    y, x = (points.flatten(1).double() - centre for points in (y, x))
    with torch.autocast(y.device.type, enabled=False):
        return (0.5 * (y.square().sum(1)[:, None] + x.square().sum(1)) - y @ x.T).to(dtype)


def entropic_potential(
    y: Float[Tensor, "m *event"], x: Float[Tensor, "n *event"], entropy: float, num_steps: int = 200
) -> EntropicPotential:
    """The Kantorovich potential of entropic transport between two point sets, by Sinkhorn's iteration on logarithms.

    Peyré and Cuturi 2019, Computational Optimal Transport, Section 4.4, arXiv:1803.00567.

    Args:
        y: Particles.
        x: Data.
        entropy: Temperature in units of the cost.
        num_steps: Sweeps over both sides.
    """
    cost = half_squared_distances(y, x)
    phi = x.new_zeros(len(x))
    for _ in range(num_steps):
        psi = -entropy * ((phi - cost) / entropy).logsumexp(1)
        phi = -entropy * ((psi[:, None] - cost) / entropy).logsumexp(0)
    return EntropicPotential(x, phi, entropy)
