"""Fréchet distance between generated and real images in the feature space of a network.

Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500. With `InceptionFeatures`, 50,000
generated images and the training split as reference this is the FID of the literature.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.pixels import as_uint8
from pt_flows.functional.transport import squared_bures, symmetric_sqrt
from pt_flows.metrics.base import RealData, SampleMetric, count_name, other_split
from pt_flows.metrics.features import FeatureNet, Lite0Features
from pt_flows.metrics.reference import cached, content_hash
from pt_flows.progress import track
from pt_flows.training.distributed import share_of, sum_over_ranks, world

BATCH = 100
"""Batch size of feature networks. It is fixed, because float32 results depend on it in the seventh digit."""


class Moments(NamedTuple):
    """Mean (d,) and unbiased covariance (d, d), float64 on the host."""

    mean: Tensor
    covariance: Tensor


def frechet_distance(
    mean_1: Float[Tensor, " d"],
    covariance_1: Float[Tensor, "d d"],
    mean_2: Float[Tensor, " d"],
    covariance_2: Float[Tensor, "d d"],
    root_1: Float[Tensor, "d d"] | None = None,
) -> float:
    """‖m₁ - m₂‖² + tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½), the squared W2 between two Gaussians.

    The trace is computed from singular values (`squared_bures`), so it is never negative, and zero for equal moments
    even with fewer samples than dimensions. Float64, on the host.

    Args:
        mean_1: m₁.
        covariance_1: C₁; may be singular.
        mean_2: m₂.
        covariance_2: C₂; may be singular.
        root_1: C₁^½ if it is known, which saves a third of the work.

    Example:
        >>> eye = torch.eye(2)
        >>> round(frechet_distance(torch.zeros(2), eye, torch.tensor([3.0, 4.0]), 4 * eye), 9)
        27.0
    """
    m1, c1, m2, c2 = (t.double().cpu() for t in (mean_1, covariance_1, mean_2, covariance_2))
    root = symmetric_sqrt(c1) if root_1 is None else root_1.double().cpu()
    return float((m1 - m2).square().sum() + squared_bures(root, symmetric_sqrt(c2)))


def moments(total: Tensor, outer: Tensor, num: Tensor | int) -> Moments:
    """Mean and unbiased covariance from Σ f, Σ f fᵀ and the number of samples."""
    mean = total / num
    return Moments(mean.cpu(), ((outer - num * torch.outer(mean, mean)) / (num - 1)).cpu())


def accumulate(f: Tensor, total: Tensor, outer: Tensor) -> None:
    """Add features (B, d) to the float64 sums Σ f and Σ f fᵀ, in place."""
    f = f.double()
    total += f.sum(0)
    outer.addmm_(f.T, f)


class FrechetDistance(SampleMetric):
    """Fréchet distance of n generated images to the real images of a split.

    It takes exactly n samples over all ranks, rounded to bytes, and sums in float64. Reference moments are cached on
    disk under a hash of the images' bytes and the network's weights. The floor next to the number is the distance of n
    real images of the *other* split to the same reference: about the score of a perfect generator at this n.

    Args:
        features: The network; its name becomes part of the number's name.
        split: Split of the real images to compare with.
        num_reference: Number of real images; None for all, as in the literature. The key includes it.
    """

    total: Tensor
    outer: Tensor
    num: Tensor

    def __init__(
        self,
        features: FeatureNet | None = None,
        split: Split = "train",
        num_reference: Count | None = None,
    ) -> None:
        super().__init__()
        self.features = features or Lite0Features()
        self.split: Split = split
        self.num_reference = num_reference
        d = self.features.dim
        self.add_state("total", torch.zeros(d, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(d, d, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Compute or read the moments of the reference, and the floor."""
        self.check(data, num_samples)
        self.num_samples = num_samples
        images = self.real_images(data)
        name = self.cache_name(images)
        self.reference = self.real_moments(images, name)
        self.root = cached(f"{name}-root", ("root",), lambda: (symmetric_sqrt(self.reference.covariance),))[0]
        other = other_split(self.split)
        try:
            others = self.floor_samples(data, other, num_samples)
            self.floor = self.distance_to(self.real_moments(others, self.cache_name(others)))
        except UserError:  # the other split has fewer than n images, so there is no floor
            self.floor = None

    def real_images(self, data: RealData) -> Tensor:
        """The real images to compare with.

        Raises:
            UserError: The split has fewer than `num_reference`.
        """
        if self.num_reference is not None and (most := len(data.reference(self.split))) < self.num_reference:
            wanted = f"expected at most {most}, the images of the split {self.split}, got {self.num_reference}"
            raise UserError(f"{type(self).__name__}.num_reference: {wanted}. Lower it")
        return data.reference(self.split, self.num_reference)

    def check(self, data: RealData, num_samples: int) -> None:
        """Check that the data can be measured, before anything is computed.

        Raises:
            UserError: The data are no images, or there are too few samples.
        """
        if len(data.event_shape) != 3:
            found = f"data of shape {data.event_shape}"
            raise UserError(f"FrechetDistance: expected images, got {found}. Use ExactWasserstein")
        if num_samples < 2:
            raise UserError(f"evaluation.num_samples: expected at least 2, got {num_samples}")

    @property
    def suffix(self) -> str:
        """Network, generated images, split, and the reference's size if not all, such as `inception_50k_train`."""
        subset = count_name(self.num_reference) if self.num_reference else ""
        return f"{self.features.name}_{count_name(self.num_samples)}_{self.split}{subset}"

    @property
    def key(self) -> str:
        """Name with the protocol, such as `fd_inception_50k_train`."""
        return f"fd_{self.suffix}"

    def update(self, x: Tensor) -> None:
        """Take generated images (B, C, H, W) in [-1, 1]."""
        if not bool(x.isfinite().all()):
            raise DivergenceError(f"{int((~x.isfinite()).sum())} generated pixels are not finite. Lower the step size")
        batches = as_uint8(x).split(BATCH)
        self.take(torch.cat([self.features(images.to(self.device)) for images in batches]))

    def take(self, f: Tensor) -> None:
        """Add features (B, d) to the sums."""
        accumulate(f, self.total, self.outer)
        self.num += len(f)

    def compute(self) -> dict[str, float]:
        """The distance under `key`, and its floor."""
        if int(self.num) != self.num_samples:
            raise RuntimeError(f"{self.key}: expected {self.num_samples} samples, got {int(self.num)}")
        distance = self.distance_to(moments(self.total, self.outer, self.num))
        return {self.key: distance} | ({} if self.floor is None else {f"{self.key}_floor": self.floor})

    def distance_to(self, other: Moments) -> float:
        """Fréchet distance of the reference to other moments."""
        return frechet_distance(*self.reference, *other, root_1=self.root)

    def real_moments(self, images: Tensor, name: str) -> Moments:
        """Moments of real images uint8 (N, C, H, W), cached under a name."""

        def measure() -> Moments:
            total, outer = torch.zeros_like(self.total), torch.zeros_like(self.outer)
            for f in self.real_features(images):
                accumulate(f, total, outer)
            return moments(sum_over_ranks(total), sum_over_ranks(outer), len(images))

        return Moments(*cached(name, Moments._fields, measure))

    def cache_name(self, images: Tensor) -> str:
        """Name of statistics of these images with this network."""
        return f"{self.features.name}-{self.features.weights_hash[:12]}-{content_hash(images)}"

    def real_features(self, images: Tensor) -> Iterator[Tensor]:
        """Features of this process's share of real images uint8 (N, C, H, W), in batches and in order."""
        batches = images.split(BATCH)
        own = [batches[i] for i in share_of(len(batches))]
        text = f"{self.features.name} features of {len(images)} real images"
        for batch in track(own, text, quiet=world()[0] > 0):
            yield self.features(batch.to(self.device))
