"""The modes of a mixture that a generator reaches, with their shares and widths."""

import math

import torch
from torch import Tensor

from pt_flows.bounds import Positive
from pt_flows.contracts import Split
from pt_flows.functional.distances import exact_distances
from pt_flows.metrics.base import Direction, RealData, SampleMetric


class ModeCoverage(SampleMetric):
    """Modes covered, fraction of high-quality samples, shares and widths of modes, on mixtures with known centres.

    A sample has high quality within `num_std` standard deviations of its nearest centre. A mode is covered if it is the
    nearest centre of at least one such sample (Metz et al. 2017, arXiv:1611.02163). One sample covers a mode, so two
    more numbers describe the good samples: `mode_imbalance`, the total variation distance between their shares of the
    modes and the true ones, and `mode_width`, the root of their mean squared distance from their centres over that of
    true samples within the same radius. A perfect generator has 0 and 1. Data without modes give no numbers.

    Args:
        num_std: Radius in standard deviations: 3 is usual, ODE-GAN's grid has 4.
    """

    higher_is_better = True
    split: Split = "test"  # the split of the other metrics of toys; modes are counted without real samples
    counts: Tensor
    squares: Tensor
    total: Tensor

    def __init__(self, num_std: Positive = 3.0) -> None:
        super().__init__()
        self.num_std = num_std

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read centres and width of the modes."""
        law = getattr(data, "law", None)
        self.centres: Tensor | None = getattr(law, "centres", None)
        self.std: float = getattr(law, "std", 0.0)
        num_modes = 0 if self.centres is None else len(self.centres)
        self.lacks = "" if num_modes else "modes with known centres"
        weights = getattr(law, "weights", None) or [1 / max(num_modes, 1)] * num_modes
        self.shares = torch.tensor(weights)
        self.add_state("counts", default=torch.zeros(num_modes), dist_reduce_fx="sum")
        self.add_state("squares", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")

    @property
    def suffix(self) -> str:
        """The mark of an unusual radius, such as `_4std`; empty for 3."""
        return "" if self.num_std == 3 else f"_{self.num_std:g}std"

    @property
    def key(self) -> str:
        """Number of modes: `modes`, or such as `modes_4std`."""
        return f"modes{self.suffix}"

    def update(self, x: Tensor) -> None:
        """Take generated samples (B, 2)."""
        self.total += len(x)
        if self.centres is not None:
            distance, nearest = exact_distances(x, self.centres.to(x)).min(1)
            good = distance <= self.num_std * self.std
            self.counts += torch.bincount(nearest[good], minlength=len(self.centres))
            self.squares += distance[good].square().sum()

    def compute(self) -> dict[str, float]:
        """All numbers, with the radius in their names if it is unusual.

        `modes` covered, `modes_of` (their total), `high_quality` (a fraction), `mode_imbalance` and `mode_width`.
        Without good samples the last two are 1 and 0.
        """
        if self.centres is None:
            return {}
        good = self.counts.sum()
        shares = self.counts / good.clamp(min=1)
        width = (self.squares / good.clamp(min=1)).sqrt() / (self.std * true_width(self.num_std))
        return {
            self.key: float((self.counts > 0).sum()),
            "modes_of": float(len(self.centres)),
            f"high_quality{self.suffix}": float(good / self.total),
            f"mode_imbalance{self.suffix}": float(0.5 * (shares - self.shares.to(shares)).abs().sum()) if good else 1.0,
            f"mode_width{self.suffix}": float(width),
        }

    def directions(self) -> dict[str, Direction]:
        """High values are better, a low imbalance, and a width of 1. The number of modes in the data is no result."""
        neither: dict[str, Direction] = {"modes_of": "", f"mode_width{self.suffix}": ""}
        return {**super().directions(), f"mode_imbalance{self.suffix}": "lower", **neither} if self.compute() else {}


def true_width(num_std: float) -> float:
    """Root of the mean squared distance of standard normal points of the plane within a radius from its centre.

    Example:
        >>> round(true_width(3.0), 4), round(true_width(100.0), 4)
        (1.378, 1.4142)
    """
    half = num_std**2 / 2
    if half > 700:  # exp(-half) is zero
        return math.sqrt(2)
    return math.sqrt(2 * (1 - half * math.exp(-half) / (1 - math.exp(-half))))
