"""Maps between domains: whether they keep the class of an image, and how far they are from optimal transport."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pt_flows.bounds import Bound
from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.functional.distances import feature_distances
from pt_flows.functional.transport import MOST_POINTS, exact_wasserstein
from pt_flows.metrics.base import Direction, RealData, SampleMetric, count_name, other_split, real_samples
from pt_flows.metrics.reference import cached, content_hash
from pt_flows.training.distributed import world

CHUNK = 1_000


def nearest_labels(
    queries: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], labels: Int[Tensor, " m"]
) -> Int[Tensor, " n"]:
    """The label of each query's nearest point in Euclidean distance.

    Example:
        >>> nearest_labels(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]]), torch.tensor([3, 7]))
        tensor([3, 7])
    """
    nearest = [feature_distances(chunk, points).argmin(1) for chunk in queries.split(CHUNK)]
    return labels[torch.cat(nearest)]


def moved_by(push: Callable[[Tensor], Tensor], points: Float[Tensor, "n *event"], device: torch.device) -> Tensor:
    """Points on the host, mapped on a device in chunks, on the host again."""
    return torch.cat([push(chunk.to(device)).cpu() for chunk in points.split(CHUNK)])


class TransferAccuracy(SampleMetric):
    """Fraction of the target's test images whose nearest mapped source image has their label, on whole data sets.

    The classifier is one nearest neighbour among all labelled training images of the source, mapped by the generator.
    It classifies the whole test split of the target. `transfer_accuracy_1nn_source` is the accuracy without the map.
    As in Leygonie et al. 2019, arXiv:1906.09691, and Seguy et al. 2018, arXiv:1711.02283.
    """

    higher_is_better = True
    right: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Load labelled images of both domains."""
        source: Any = getattr(data, "source", None)
        if source is None or not hasattr(source, "labelled") or not hasattr(data, "labelled"):
            wanted = "TwoDomains with labelled images on both sides, such as Digits"
            raise UserError(f"TransferAccuracy: expected {wanted}, got {type(data).__name__}")
        self.points, self.labels = source.labelled("train")
        self.queries, self.answers = data.labelled("test")  # pyright: ignore[reportAttributeAccessIssue]
        if self.points.shape[1:] != self.queries.shape[1:]:
            shapes = f"{tuple(self.points.shape[1:])} and {tuple(self.queries.shape[1:])}"
            raise UserError(f"TransferAccuracy: expected source and target of one shape, got {shapes}")
        self.unmoved = self.accuracy(self.points)

    def details(self) -> dict[str, str]:
        """The labelled images of the source."""
        return dict.fromkeys((self.key, f"{self.key}_source"), f"source {content_hash(self.points)}")

    @property
    def key(self) -> str:
        """Name of the accuracy with the map."""
        return "transfer_accuracy_1nn"

    def accuracy(self, points: Tensor) -> float:
        """Fraction of right answers with these labelled points."""
        right = nearest_labels(self.queries, points, self.labels) == self.answers
        return float(right.float().mean())

    def update(self, x: Tensor) -> None:
        """Ignore generated samples, which have no labels."""

    def update_map(self, push: Callable[[Tensor], Tensor]) -> None:
        """Map the labelled images and classify this rank's part of the target."""
        moved = moved_by(push, self.points, self.right.device)
        rank, num_ranks = world()
        queries, answers = self.queries[rank::num_ranks], self.answers[rank::num_ranks]
        self.right += (nearest_labels(queries, moved, self.labels) == answers).sum()
        self.total += len(queries)

    def compute(self) -> dict[str, float]:
        """Accuracy with the map and without it, in [0, 1]."""
        return {self.key: float(self.right / self.total), f"{self.key}_source": self.unmoved}

    def directions(self) -> dict[str, Direction]:
        """A high accuracy is better. The one without the map does not depend on the method."""
        return {**super().directions(), f"{self.key}_source": ""}


class MapTransport(SampleMetric):
    """Distance of a map's image from the target, and its displacement, beside exact transport between the same samples.

    The map moves n source samples of the test split. `w2_map_<n>` is the exact W2 between them and n test samples of
    the target; its floor is the distance of n training samples of the target. `displacement_<n>` is the root of the
    mean squared distance that the map moves a sample, and `displacement_<n>_optimal` that of exact transport between
    the source and target samples, which is their W2. A map that is optimal has both at its floor and its optimum.
    All are Euclidean distances of whole samples, in data units.

    Args:
        num: n, at most 5000, because the cost of exact transport grows with its cube.
    """

    split: Split = "test"

    def __init__(self, num: Annotated[int, Bound(2, MOST_POINTS)] = 2_000) -> None:
        super().__init__()
        self.num = num
        self.add_state("distance", default=torch.tensor(torch.nan), dist_reduce_fx="mean")
        self.add_state("displacement", default=torch.tensor(torch.nan), dist_reduce_fx="mean")

    @property
    def key(self) -> str:
        """Name of the distance after the map, such as `w2_map_2k`."""
        return f"w2_map_{count_name(self.num)}"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Draw the fixed samples of both domains, and transport them exactly."""
        source: Any = getattr(data, "source", None)
        if source is None:
            raise UserError(f"MapTransport: expected a map between domains, got {type(data).__name__}. Use TwoDomains")
        samples = partial(real_samples, num=self.num, where="MapTransport.num")
        start, target = samples(source, split=self.split), samples(data, split=self.split)
        other = samples(data, split=other_split(self.split))
        if start.shape != target.shape:
            shapes = f"{tuple(start.shape[1:])} and {tuple(target.shape[1:])}"
            raise UserError(f"MapTransport: expected source and target of one shape, got {shapes}")
        self.start, self.target = start, target
        name = "-".join(("exact-transport", *map(content_hash, (start, target, other))))
        to_target = lambda x: torch.tensor(exact_wasserstein(x.flatten(1), target.flatten(1), 2), dtype=torch.float64)
        found = cached(name, ("optimal", "floor"), lambda: (to_target(start), to_target(other)))
        self.optimal, self.floor = map(float, found)

    def details(self) -> dict[str, str]:
        """The samples of the source."""
        away = f"displacement_{count_name(self.num)}"
        return dict.fromkeys(
            (self.key, f"{self.key}_floor", away, f"{away}_optimal"), f"source {content_hash(self.start)}"
        )

    def update(self, x: Tensor) -> None:
        """Ignore generated samples, which have no starting points."""

    def update_map(self, push: Callable[[Tensor], Tensor]) -> None:
        """Move the source samples, and measure where they end and how far they went."""
        device = self.distance.device
        moved = moved_by(push, self.start, device).flatten(1)
        steps = (moved.double() - self.start.flatten(1).double()).square().sum(1)
        self.distance = torch.tensor(exact_wasserstein(moved, self.target.flatten(1), 2), device=device)
        self.displacement = steps.mean().sqrt().float().to(device)

    def compute(self) -> dict[str, float]:
        """The distance after the map with its floor, and the displacement with its optimum."""
        away = f"displacement_{count_name(self.num)}"
        return {
            self.key: float(self.distance),
            f"{self.key}_floor": self.floor,
            away: float(self.displacement),
            f"{away}_optimal": self.optimal,
        }

    def directions(self) -> dict[str, Direction]:
        """A short distance to the target is better. A displacement should be near its optimum."""
        return {**super().directions(), **{key: "" for key in self.compute() if key.startswith("displacement")}}
