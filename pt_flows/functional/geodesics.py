r"""Shortest curves between many pairs of latents at once, under the metric of a map (geometry.py).

    repeat   E_p = Σ_i w_i φ_p(t_i)²                    energy of pair p, at Gauss-Legendre times t_i with weights w_i
             ω_p ← one step of Adam on E_p              every pair has parameters ω_p of its own
    until    E_p on a denser grid falls by less than `tolerance` between two checks, for every pair
    return   the best curve of every pair, never longer than the straight line; its length is the distance

Two parametrisations of a curve from z0 to z1:

    SineSeries   z(t) = (1-t) z0 + t z1 + ‖z1 - z0‖ Σ_k c_k sin(kπt) / (kπ)
    Network      z(t) = A ẑ(t) - B by coordinate, A = (z0 - z1) / (ẑ(0) - ẑ(1)), B = A ẑ(0) - z0, with a network ẑ

The network, its affine normalisation and Adam are those of Chen et al. 2018, Metrics for Deep Generative Models,
arXiv:1711.01204. The normalisation fixes a coordinate in which z0 and z1 agree: A is zero there. The series holds the
end points exactly and cannot degenerate; it is ours and the default.

If a map has kinks (geometry.py), the speeds of the search are differences over a time 1 / num_points. All lengths and
energies that are returned are from exact speeds.

Departures: the paper minimises the length and watches the largest speed. A length hardly depends on the times, so
curves jump between them. Here the energy is minimised and validated, whose minima are the shortest curves at constant
speed. Curves start at straight lines, and if `num_starts` is above one, also at random bends in place of Bézier curves.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.functional.geometry import Curves, Metric, kinks, measured, straight_lines

CHECK = 25
"""Steps between two checks of convergence."""
BENDS = 3
"""Sines of a random first curve, whose deviation from the straight line is about a third of its length."""


class Parametrisation(Protocol):
    """A family of curves with given end points."""

    @property
    def learning_rate(self) -> float:
        """Rate of Adam."""
        ...

    def start(
        self, z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], bends: Float[Tensor, "P b d"], rng: torch.Generator
    ) -> list[Tensor]:
        """Parameters (P, ...) of first curves: straight lines with b coefficients of sines, zeros for none."""
        ...

    def at(
        self, omega: list[Tensor], z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], t: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "P n d"], Float[Tensor, "P n d"]]:
        """Points and derivatives of the curves at times t."""
        ...


@dataclass(frozen=True)
class SineSeries:
    """The straight line and a series of sines, which vanish at both ends.

    Args:
        num_terms: Number of sines, K.
        learning_rate: Rate of Adam, in lengths of the straight line.
    """

    num_terms: int = 8
    learning_rate: float = 0.02

    def start(
        self, z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], bends: Float[Tensor, "P b d"], rng: torch.Generator
    ) -> list[Tensor]:
        """Coefficients c (P, K, d)."""
        c = bends.new_zeros(len(bends), self.num_terms, bends.shape[2])
        c[:, : bends.shape[1]] = bends[:, : self.num_terms]
        return [c]

    def at(
        self, omega: list[Tensor], z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], t: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "P n d"], Float[Tensor, "P n d"]]:
        """Points and derivatives."""
        c, span = omega[0], z1 - z0
        k = math.pi * torch.arange(1, c.shape[1] + 1, dtype=t.dtype, device=t.device)
        angle, unit, t = t[:, None] * k, span.norm(dim=1)[:, None, None], t[:, None]
        z = (1 - t) * z0[:, None] + t * z1[:, None] + unit * ((angle.sin() / k) @ c)
        return z, span[:, None] + unit * (angle.cos() @ c)


@dataclass(frozen=True)
class Network:
    """The published curves: a network of the time with tanh layers, normalised to hold the end points.

    Args:
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        learning_rate: Rate of Adam.
    """

    width: int = 150
    depth: int = 2
    learning_rate: float = 5e-4

    def start(
        self, z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], bends: Float[Tensor, "P b d"], rng: torch.Generator
    ) -> list[Tensor]:
        """Weights and biases of every layer: random ones, and for the output those that fit the first curves best."""
        sizes, omega = [1, *[self.width] * self.depth], []
        for num_in, num_out in zip(sizes, sizes[1:], strict=False):
            weight = torch.randn(len(z0), num_in, num_out, generator=rng, device=rng.device).to(z0)
            bias = torch.randn(len(z0), 1, num_out, generator=rng, device=rng.device).to(z0)
            omega += [weight * num_in**-0.5, bias]
        t = torch.linspace(0, 1, 50, dtype=z0.dtype, device=z0.device)
        curve, _ = SineSeries(bends.shape[1]).at([bends], z0, z1, t)
        h = hidden(omega, t[None, :, None].repeat(len(z0), 1, 1)).double()
        h1 = torch.cat([h, torch.ones_like(h[..., :1])], 2)
        ridge = 1e-2 * torch.eye(h1.shape[2], dtype=h1.dtype, device=h1.device)
        fit = torch.linalg.solve(h1.mT @ h1 + ridge, h1.mT @ curve.double()).to(z0)
        return [*omega, fit[:, :-1].contiguous(), fit[:, -1:].contiguous()]

    def at(
        self, omega: list[Tensor], z0: Float[Tensor, "P d"], z1: Float[Tensor, "P d"], t: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "P n d"], Float[Tensor, "P n d"]]:
        """Points and derivatives."""
        times = torch.cat([t.new_tensor([0.0, 1.0]), t])[None, :, None].repeat(len(z0), 1, 1)
        z_hat = lambda times: torch.baddbmm(omega[-1], hidden(omega[:-2], times), omega[-2])
        raw, slope, *_ = torch.func.jvp(z_hat, (times,), (torch.ones_like(times),))
        first, last = raw[:, :1], raw[:, 1:2]
        A = (z0 - z1)[:, None] / (first - last)
        return z0[:, None] + A * (raw[:, 2:] - first), A * slope[:, 2:]


def hidden(omega: list[Tensor], times: Float[Tensor, "P n 1"]) -> Float[Tensor, "P n h"]:
    """Tanh layers of every pair's network, from weights and biases in turn."""
    for weight, bias in zip(omega[::2], omega[1::2], strict=True):
        times = torch.baddbmm(bias, times, weight).tanh()
    return times


class Geodesics(NamedTuple):
    """The shortest curves that were found.

    Attributes:
        curves: The curves, whose lengths are distances.
        converged: Whether the energy of a pair had settled (P,).
        num_steps: Steps until the last pair settled.
    """

    curves: Curves
    converged: Tensor
    num_steps: int


def geodesics(
    metric: Metric,
    z0: Float[Tensor, "P d"],
    z1: Float[Tensor, "P d"],
    parametrisation: Parametrisation = SineSeries(),
    num_points: int = 24,
    num_steps: int = 400,
    tolerance: float = 1e-4,
    num_starts: int = 1,
    rng: torch.Generator | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
    num: int = 201,
) -> Geodesics:
    """Geodesics between pairs of latents, all at once.

    No pair influences another one. A pair that has settled leaves the batch.

    Args:
        metric: The metric.
        z0: First ends.
        z1: Last ends.
        parametrisation: The family of curves.
        num_points: Times t_i of the energy.
        num_steps: Largest number of steps. The rate of Adam falls like a cosine, to zero at the last one.
        tolerance: Relative fall of the energy between two checks below which a pair has settled.
        num_starts: Curves that start for every pair. The first is straight, and the best one is returned.
        rng: Source of the bends and of the networks' weights; None for seed 0.
        progress: Wrapper of the range of steps, such as a progress bar.
        num: Times of the curves that are returned and validated.

    Raises:
        UserError: The latents of the pairs do not have one shape.
    """
    if z0.dim() != 2 or z0.shape != z1.shape:
        got = f"{tuple(z0.shape)} and {tuple(z1.shape)}"
        raise UserError(f"geodesics: expected two tensors of latents (pairs, dimension), got shapes {got}")
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(z0.device.type, enabled=False):
        first, last = (z.detach().clone().repeat_interleave(num_starts, 0) for z in (z0, z1))
        search = _Search(metric, parametrisation, first, last, num_points, num, tolerance)
        search.begin(num_starts, rng or torch.Generator(first.device).manual_seed(0))
        step = -1
        for step in progress(range(num_steps)):
            search.step((1 + math.cos(math.pi * step / num_steps)) / 2)
            if (step + 1) % CHECK == 0 or step + 1 == num_steps:
                search.check()
            if not len(search.rows):
                break
    return search.best_of(num_starts, step + 1)


class _Search:
    """The curves of all pairs during the search, and the best ones so far.

    Attributes:
        rows: Indices of the pairs that have not settled.
    """

    def __init__(
        self, metric: Metric, family: Parametrisation, z0: Tensor, z1: Tensor, num_points: int, num: int, tol: float
    ) -> None:
        self.metric, self.family, self.z0, self.z1, self.tolerance = metric, family, z0, z1, tol
        self.searched = replace(metric, difference=1 / num_points) if kinks(metric.f, z0[:1]) else metric
        self.t, self.w = (values.to(z0) for values in gauss_legendre(num_points))
        self.dense = torch.linspace(0, 1, num, dtype=z0.dtype, device=z0.device)
        self.best = straight_lines(metric, z0, z1, num)
        self.longest = self.best.length
        self.scale = self.best.energy.clamp(min=torch.finfo(z0.dtype).tiny)
        self.converged = torch.zeros(len(z0), dtype=torch.bool, device=z0.device)
        self.rows = torch.arange(len(z0), device=z0.device)

    def begin(self, num_starts: int, rng: torch.Generator) -> None:
        """Start the curves: the first of every pair at the straight line, the others at random bends."""
        shape = (len(self.z0), BENDS, self.z0.shape[1])
        bends = torch.randn(shape, generator=rng, device=rng.device).to(self.z0)
        bends[::num_starts] = 0.0
        self.omega = [p.requires_grad_(True) for p in self.family.start(self.z0, self.z1, bends, rng)]
        self.optimizer = torch.optim.Adam(self.omega, lr=self.family.learning_rate, betas=(0.9, 0.99))
        self.last = torch.full_like(self.scale, torch.inf)

    def step(self, factor: float) -> None:
        """Take one step of Adam, with its rate times a factor, on energies relative to those of straight lines."""
        z, dz = self.family.at(self.omega, self.z0[self.rows], self.z1[self.rows], self.t)
        squares = self.searched.squared_speed(z.flatten(0, 1), dz.flatten(0, 1)).view(z.shape[:2])
        loss = (squares @ self.w / self.scale[self.rows]).sum()
        for p, gradient in zip(self.omega, torch.autograd.grad(loss, self.omega), strict=True):
            p.grad = gradient
        self.optimizer.param_groups[0]["lr"] = factor * self.family.learning_rate
        self.optimizer.step()

    def check(self) -> None:
        """Measure the curves on the dense grid, keep the better ones, and drop the pairs that have settled."""
        with torch.no_grad():
            now = measured(self.metric, *self.family.at(self.omega, self.z0[self.rows], self.z1[self.rows], self.dense))
        is_shorter = now.length <= self.longest[self.rows]  # a straight line may have more energy and less length
        is_better = is_shorter & (now.energy < self.best.energy[self.rows])
        for best, new in zip(self.best, now, strict=True):
            best[self.rows[is_better]] = new[is_better]
        settled = (self.last[self.rows] - now.energy).abs() <= self.tolerance * now.energy
        self.last[self.rows] = now.energy
        self.converged[self.rows[settled]] = True
        lost = ~now.energy.isfinite()
        self._keep(~(settled | lost))

    def _keep(self, stays: Tensor) -> None:
        """Continue with some of the pairs, and with their state of the optimizer."""
        if bool(stays.all()):
            return
        old, group = self.omega, self.optimizer.param_groups[0]
        self.omega = [p.detach()[stays].requires_grad_(True) for p in old]
        states = [{key: v[stays] if v.dim() else v for key, v in self.optimizer.state[p].items()} for p in old]
        self.optimizer = torch.optim.Adam(self.omega, lr=group["lr"], betas=group["betas"])
        self.optimizer.state.update(zip(self.omega, states, strict=True))
        self.rows = self.rows[stays]

    def best_of(self, num_starts: int, num_steps: int) -> Geodesics:
        """The best start of every pair."""
        chosen = self.best.length.view(-1, num_starts).argmin(1)
        rows = chosen + num_starts * torch.arange(len(chosen), device=chosen.device)
        return Geodesics(Curves(*(part[rows] for part in self.best)), self.converged[rows], num_steps)


def gauss_legendre(num: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Times and weights of Gauss-Legendre quadrature on [0, 1], exact for polynomials of degree 2 num - 1.

    They are from the eigenvalues of the Jacobi matrix (Golub and Welsch 1969).
    """
    k = torch.arange(1, num, dtype=torch.float64)
    beside = k / (4 * k.square() - 1).sqrt()
    x, V = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (x + 1) / 2, V[0].square()
