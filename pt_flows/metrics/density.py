"""The distance from the density of an energy on the plane to the true one."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from pt_flows.bounds import Bound
from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.metrics.base import Direction, RealData, SampleMetric


class GridKL(SampleMetric):
    """KL(p ‖ q) in nats of the density q ∝ exp(-U) to the known density p of a toy, both normalised on one grid.

    It measures the energy itself, because good samples do not prove a good energy. The grid covers the data's range,
    widened by half of it. `log_likelihood_grid...` is the mean of log q over 10,000 test samples, in nats, with the
    normaliser of the grid.

    Args:
        num_points: Number of points per side; their distance must resolve the finest detail of both densities.
    """

    split: Split = "test"

    def __init__(self, num_points: Annotated[int, Bound(2)] = 400) -> None:
        super().__init__()
        self.num_points = num_points
        self.add_state("divergence", default=torch.tensor(torch.nan), dist_reduce_fx="mean")
        self.add_state("log_likelihood", default=torch.tensor(torch.nan), dist_reduce_fx="mean")
        self.add_state("is_measured", default=torch.tensor(False), dist_reduce_fx="max")

    @property
    def key(self) -> str:
        """Name with the resolution, such as `kl_grid400`."""
        return f"kl_grid{self.num_points}"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Make the grid and evaluate the true density there.

        Raises:
            UserError: The data have no density in the plane.
        """
        log_prob = getattr(getattr(data, "law", None), "log_prob", None)
        if log_prob is None:
            found = f"{type(data).__name__} without one. Remove GridKL from evaluation.metrics"
            raise UserError(f"GridKL: expected a distribution with a density, got {found}")
        x = data.reference("train", 10_000)
        low, high = x.amin(0), x.amax(0)
        ticks = [torch.linspace(float(a - (b - a) / 4), float(b + (b - a) / 4), self.num_points)
                 for a, b in zip(low, high, strict=True)]  # fmt: skip
        self.grid = torch.cartesian_prod(*ticks).to(self.device)
        self.log_p = log_prob(self.grid).double().log_softmax(0)
        self.log_cell = sum(math.log(float(t[1] - t[0])) for t in ticks)
        self.real = data.reference(self.split, 10_000).to(self.device)

    def update_energy(self, energy: Callable[[Tensor], Tensor]) -> None:
        """Compare the energy, a function (B, 2) to (B,), on the grid."""
        on_grid = -energy(self.grid).double()
        log_q = on_grid.log_softmax(0)
        terms = self.log_p.exp() * (self.log_p - log_q)
        self.divergence = torch.where(self.log_p.isneginf(), 0.0, terms).sum()
        self.is_measured = torch.ones_like(self.is_measured)
        log_z = on_grid.logsumexp(0) + self.log_cell
        self.log_likelihood = -energy(self.real).double().mean() - log_z

    def update(self, x: Tensor) -> None:
        """Ignore samples."""

    def compute(self) -> dict[str, float]:
        """`kl_grid...` and `log_likelihood_grid...`; empty for methods without an energy."""
        if not self.is_measured:
            return {}
        return {self.key: float(self.divergence), f"log_likelihood_grid{self.num_points}": float(self.log_likelihood)}

    def directions(self) -> dict[str, Direction]:
        """A low divergence and a high likelihood are better."""
        return {**super().directions(), f"log_likelihood_grid{self.num_points}": "higher"}
