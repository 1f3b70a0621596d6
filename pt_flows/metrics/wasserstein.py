"""Exact Wasserstein distances between samples on the plane."""

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pt_flows.contracts import UserError
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.metrics.base import RealData, SampleMetric, count_name

NUM_FLOOR_DRAWS = 4


class ExactWasserstein(SampleMetric):
    """W1 and W2 of n generated against n fixed real samples, with the real-against-real floor beside them.

    The floor is the mean distance between the fixed samples and fresh real samples of the same number: what a perfect
    generator would score. `compute` gives `w1_n`, `w2_n`, `w1_n_floor` and `w2_n_floor`.
    """

    samples: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("samples", [], dist_reduce_fx="cat")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Draw the fixed samples and compute the floor."""
        if len(data.event_shape) != 1:
            raise UserError(
                f"ExactWasserstein compares vectors, the data have shape {data.event_shape}; take FrechetDistance"
            )
        if num_samples > 5_000:
            raise UserError(
                f"evaluation.num_samples is {num_samples}: exact transport grows with its cube; take at most 5000"
            )
        self.num = num_samples
        self.real = data.reference("test", num_samples)
        fresh = data.reference("train", NUM_FLOOR_DRAWS * num_samples).split(num_samples)
        self.floor = {p: sum(exact_wasserstein(r, self.real, p) for r in fresh) / NUM_FLOOR_DRAWS for p in (1, 2)}

    @property
    def key(self) -> str:
        """Runs are ranked by W2."""
        return f"w2_{count_name(self.num)}"

    def reset(self) -> None:
        """Begin again, with an empty batch: a process without samples of its own must take part in the gathering."""
        super().reset()
        assert isinstance(self.samples, list)
        self.samples.append(self.real.new_zeros(0, self.real.shape[1], dtype=torch.float64, device=self.device))

    def update(self, x: Tensor) -> None:
        """Take generated samples (B, d)."""
        assert isinstance(self.samples, list)
        self.samples.append(x.double())

    def compute(self) -> dict[str, float]:
        """Distances and floors."""
        n = count_name(self.num)
        return {f"w{p}_{n}": exact_wasserstein(dim_zero_cat(self.samples), self.real, p) for p in (1, 2)} | {
            f"w{p}_{n}_floor": self.floor[p] for p in (1, 2)
        }
