"""Distances between samples on the plane."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.functional.transport import MOST_POINTS, exact_wasserstein, gaussian_mmd, sliced_wasserstein
from pt_flows.metrics.base import RealData, SampleMetric, count_name, other_split
from pt_flows.metrics.reference import cached, content_hash

NUM_FLOOR_DRAWS = 4


class PointDistance(SampleMetric):
    """Distances of n generated to n fixed real samples of a split, "test" by default, and their floor.

    The floor is the mean distance between the fixed samples and as many real samples of the other split: the score of a
    perfect generator.
    """

    split: Split = "test"
    samples: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("samples", [], dist_reduce_fx="cat")

    @abstractmethod
    def distances(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Distances between points (n, d) and points (n, d) by their names."""

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Draw the fixed samples and compute the floor."""
        if len(data.event_shape) != 1:
            found = f"data of shape {data.event_shape}"
            raise UserError(f"{type(self).__name__}: expected vectors, got {found}. Use FrechetDistance")
        self.num = num_samples
        self.real = data.reference(self.split, num_samples)
        self.floor = self.floor_of(self.floor_samples(data, other_split(self.split), NUM_FLOOR_DRAWS * num_samples))

    def floor_of(self, x: Tensor) -> dict[str, float]:
        """Mean distances between the fixed samples and real samples (4n, d), taken n at a time."""
        draws = [self.distances(points, self.real) for points in x.split(self.num)]
        return {name: sum(draw[name] for draw in draws) / NUM_FLOOR_DRAWS for name in draws[0]}

    def reset(self) -> None:
        """Begin again with an empty batch, because a process without samples must take part in the gathering."""
        super().reset()
        assert isinstance(self.samples, list)
        self.samples.append(self.real.new_zeros(0, self.real.shape[1], dtype=torch.float64, device=self.device))

    def update(self, x: Tensor) -> None:
        """Take generated samples (B, d)."""
        assert isinstance(self.samples, list)
        self.samples.append(x.double())

    def compute(self) -> dict[str, float]:
        """Distances as `<name>_<n>`, and floors."""
        n = count_name(self.num)
        found = self.distances(dim_zero_cat(self.samples), self.real)
        return {f"{name}_{n}": value for name, value in found.items()} | {
            f"{name}_{n}_floor": value for name, value in self.floor.items()
        }


class ExactWasserstein(PointDistance):
    """Exact W1 and W2: `w1_n`, `w2_n`, and their floors."""

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Draw the fixed samples and compute the floor."""
        if num_samples > MOST_POINTS:
            found = f"{num_samples}. The cost of exact transport grows with its cube"
            raise UserError(f"evaluation.num_samples: expected at most {MOST_POINTS}, got {found}")
        super().prepare(data, num_samples)

    @property
    def key(self) -> str:
        """Name of W2, such as `w2_1k`."""
        return f"w2_{count_name(self.num)}"

    def distances(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """W1 and W2."""
        return {f"w{p}": exact_wasserstein(x, y, p) for p in (1, 2)}

    def floor_of(self, x: Tensor) -> dict[str, float]:
        """The floor, from the cache if these samples were compared before: it costs four times the measurement."""
        name, floor = f"exact-transport-{content_hash(self.real)}-{content_hash(x)}", super().floor_of
        numbers = lambda: torch.tensor(list(floor(x).values()), dtype=torch.float64)
        w1, w2 = cached(name, ("floor",), lambda: (numbers(),))[0].tolist()
        return {"w1": w1, "w2": w2}


class SampleDiscrepancy(PointDistance):
    """Two cheap distances for many samples: `sliced_w2_n` and `mmd2_n`, and their floors.

    Sliced W2 is the root of the mean squared W2 over 200 fixed directions. The squared maximum mean discrepancy is
    unbiased, so it may be slightly negative; its kernel is the mean of five Gaussians.
    """

    @property
    def key(self) -> str:
        """Name of sliced W2, such as `sliced_w2_1k`."""
        return f"sliced_w2_{count_name(self.num)}"

    def distances(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Sliced W2 and MMD²."""
        return {"sliced_w2": sliced_wasserstein(x, y), "mmd2": gaussian_mmd(x, y)}
