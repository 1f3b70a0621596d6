"""The number of modes of a mixture that a generator reaches."""

import torch
from torch import Tensor

from pt_flows.bounds import Positive
from pt_flows.contracts import Split
from pt_flows.functional.distances import exact_distances
from pt_flows.metrics.base import Direction, RealData, SampleMetric


class ModeCoverage(SampleMetric):
    """Modes covered and fraction of high-quality samples, on mixtures with known centres.

    A sample has high quality within `num_std` standard deviations of its nearest centre. A mode is covered if it is the
    nearest centre of at least one such sample (Metz et al. 2017, arXiv:1611.02163). Data without modes give no numbers.

    Args:
        num_std: Radius in standard deviations: 3 is usual, ODE-GAN's grid has 4.
    """

    higher_is_better = True
    split: Split = "test"  # the split of the other metrics of toys; modes are counted without real samples
    counts: Tensor
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
        self.add_state("counts", default=torch.zeros(num_modes), dist_reduce_fx="sum")
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
            good = nearest[distance <= self.num_std * self.std]
            self.counts += torch.bincount(good, minlength=len(self.centres))

    def compute(self) -> dict[str, float]:
        """`modes`, `modes_of` (their total) and `high_quality` (fraction), with the radius if unusual."""
        if self.centres is None:
            return {}
        return {
            self.key: float((self.counts > 0).sum()),
            "modes_of": float(len(self.centres)),
            f"high_quality{self.suffix}": float(self.counts.sum() / self.total),
        }

    def directions(self) -> dict[str, Direction]:
        """Higher values are better. The number of modes in the data is no result."""
        return {**super().directions(), "modes_of": ""}
