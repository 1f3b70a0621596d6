r"""Geometry that a map f: z -> x gives to its latents: lengths are those of the images of curves.

    G(z)  = J(z)ᵀ J(z),  J = df/dz                  the pull-back metric
    φ     = sqrt(z'ᵀ G(z) z') = ‖J(z) z'‖           the speed of a curve z(t), from one Jacobian-vector product
    L     = ∫ φ dt,  E = ∫ φ² dt ≥ L²               length and energy; equal for constant speed alone
    MF(z) = sqrt(det G(z))                          the magnification factor, from the singular values of J
    Ĝ     = Σ_i≤r  s_i³ / (s_i² + λ)  v_i v_iᵀ      the smoothed metric, from the eigenvalues s_i of G, largest first

Chen, Klushyn, Kurle, Jiang, Bayer, van der Smagt 2018, Metrics for Deep Generative Models, arXiv:1711.01204. A large λ
makes directions that f hardly uses almost free, so that short paths stay on the manifold of the data.

Latents are vectors here, and f maps every row by itself: a network is in evaluation mode. The derivative of φ needs
that of J, which is zero for networks of ReLU layers, as their Jacobian is constant in pieces. For these the speed is
also available as a difference over a time h, ‖f(z + z'h/2) - f(z - z'h/2)‖ / h, which sees the kinks inside.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pt_flows.errors import UserError

Map = Callable[[Tensor], Tensor]
"""f: latents (B, d) to samples (B, *event), every row by itself."""

KINKED = ("relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "hardtanh", "hardsigmoid")
"""Activations with a piecewise constant derivative, by their names in torch."""


@dataclass(frozen=True)
class Metric:
    """The metric that a map pulls back to its latents, smoothed or not.

    Args:
        f: The map.
        smoothing: λ; 0 keeps the eigenvalues.
        rank: r, the number of eigenvalues that are kept; None for all.
        difference: h, if speeds of a metric that is not smoothed are differences; 0 for exact speeds.
    """

    f: Map
    smoothing: float = 0.0
    rank: int | None = None
    difference: float = 0.0

    def __post_init__(self) -> None:
        if not self.smoothing >= 0:
            raise UserError(f"smoothing: expected at least 0, got {self.smoothing}")

    def __call__(self, z: Float[Tensor, "B d"]) -> Float[Tensor, "B d d"]:
        """Ĝ at latents."""
        J = jacobian(self.f, z)
        G = J.mT @ J
        return smoothed(G, self.smoothing, self.rank) if self.is_smoothed(z.shape[1]) else G

    def squared_speed(self, z: Float[Tensor, "B d"], dz: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """φ² = dzᵀ Ĝ(z) dz, without a Jacobian if nothing is smoothed."""
        if self.is_smoothed(z.shape[1]):
            return torch.einsum("bi,bij,bj->b", dz, self(z), dz).clamp(min=0.0)
        if self.difference:
            ahead, behind = (self.f(z + s * self.difference / 2 * dz) for s in (1, -1))
            return ((ahead - behind) / self.difference).flatten(1).square().sum(1)
        return torch.func.jvp(self.f, (z,), (dz,))[1].flatten(1).square().sum(1)

    def log_magnification(self, z: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """Log MF of the metric that is not smoothed; -inf if f loses a dimension."""
        J = jacobian(self.f, z)
        if J.shape[1] < J.shape[2]:
            return torch.full_like(z[:, 0], -torch.inf)
        return torch.linalg.svdvals(J).log().sum(1)

    def is_smoothed(self, dim: int) -> bool:
        """Whether Ĝ is another matrix than G.

        Raises:
            UserError: The rank is not one of latents of this dimension.
        """
        if self.rank is not None and not 1 <= self.rank <= dim:
            wanted = f"1 to {dim}, the dimension of the latents"
            raise UserError(f"rank: expected {wanted}, got {self.rank}. Use a smaller rank, or none for all directions")
        return self.smoothing > 0 or self.rank not in (None, dim)


def jacobian(f: Map, z: Float[Tensor, "B d"]) -> Float[Tensor, "B n d"]:
    """J of every row, from one Jacobian-vector product for each coordinate."""
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    column = lambda e: torch.func.jvp(f, (z,), (e.expand_as(z),))[1].flatten(1)
    return torch.func.vmap(column, out_dims=2)(basis)


def smoothed(G: Float[Tensor, "B d d"], smoothing: float, rank: int | None = None) -> Float[Tensor, "B d d"]:
    """Ĝ, with exact first derivatives also where eigenvalues are equal.

    The derivative of a function h of a symmetric matrix G = V diag(s) Vᵀ in a direction D is V (F ∘ (Vᵀ D V)) Vᵀ, with
    the divided differences F_ij = (h(s_i) - h(s_j)) / (s_i - s_j), or h'(s_i) (Daleckii and Krein).

    Args:
        G: Metrics, positive semidefinite.
        smoothing: λ.
        rank: r; None for all.
    """
    fixed = G.detach()
    s, V = torch.linalg.eigh(fixed)
    s = s.clamp(min=0.0)
    kept = torch.arange(s.shape[1], device=s.device) >= s.shape[1] - (rank or s.shape[1])
    below = s.square() + smoothing
    safe = below.clamp(min=torch.finfo(s.dtype).tiny)
    h = torch.where(kept, s.pow(3) / safe, 0.0)
    slope = torch.where(kept, s.square() * (s.square() + 3 * smoothing) / safe.square(), 0.0)
    gap, rise = (a[:, :, None] - a[:, None, :] for a in (s, h))
    near = gap.abs() <= 1e-4 * s[:, -1:, None]
    F = torch.where(near, (slope[:, :, None] + slope[:, None, :]) / 2, rise / torch.where(near, 1.0, gap))
    moved = V @ (F * (V.mT @ (G - fixed) @ V)) @ V.mT
    return (V * h[:, None, :]) @ V.mT + moved


class Curves(NamedTuple):
    """Curves at equally spaced times from 0 to 1.

    Attributes:
        points: z(t) (P, m, d).
        speed: φ(t) (P, m).
    """

    points: Tensor
    speed: Tensor

    @property
    def length(self) -> Tensor:
        """L (P,), by the trapezoidal rule."""
        return mean_over_time(self.speed)

    @property
    def energy(self) -> Tensor:
        """E (P,), by the trapezoidal rule."""
        return mean_over_time(self.speed.square())


def mean_over_time(values: Float[Tensor, "P m"]) -> Float[Tensor, " P"]:
    """The integral over [0, 1] of values at equally spaced times that include both ends."""
    return torch.trapezoid(values, dim=1) / (values.shape[1] - 1)


def measured(metric: Metric, z: Float[Tensor, "P m d"], dz: Float[Tensor, "P m d"], chunk: int = 8192) -> Curves:
    """Curves from their points and derivatives, without gradients.

    Args:
        metric: The metric.
        z: Points at equally spaced times.
        dz: Derivatives there.
        chunk: Largest number of rows of one call of the map.
    """
    with torch.no_grad():
        parts = zip(z.detach().flatten(0, 1).split(chunk), dz.detach().flatten(0, 1).split(chunk), strict=True)
        squares = torch.cat([metric.squared_speed(*part) for part in parts])
    return Curves(z.detach(), squares.sqrt().view(z.shape[:2]))


def straight_lines(metric: Metric, z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], num: int = 201) -> Curves:
    """Straight lines between latents.

    Args:
        metric: The metric.
        z0: First ends.
        z1: Last ends.
        num: Number of times.
    """
    t = torch.linspace(0, 1, num, dtype=z0.dtype, device=z0.device)[:, None]
    z = (1 - t) * z0[:, None] + t * z1[:, None]
    return measured(metric, z, (z1 - z0)[:, None].expand_as(z))


class _Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.add(getattr(func, "__name__", "").rstrip("_"))
        return func(*args, **(kwargs or {}))


def kinks(f: Map, z: Float[Tensor, "B d"]) -> list[str]:
    """Names of activations inside f whose derivative is constant in pieces.

    The derivative of the metric lacks their part, so an energy is not truly minimised.

    Args:
        f: The map, which is called once.
        z: Any latents.
    """
    with _Names() as names, torch.no_grad():
        f(z)
    return sorted(names.found.intersection(KINKED))
