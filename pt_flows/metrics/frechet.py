"""Fréchet distance between generated and real images in the feature space of a network.

Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, arXiv:1706.08500. With `InceptionFeatures`, 50,000
generated images and the training split as reference this is the FID of the literature.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from pt_flows.contracts import DivergenceError, Split, UserError
from pt_flows.files import replacing
from pt_flows.metrics.base import RealData, SampleMetric, as_uint8, count_name
from pt_flows.metrics.features import FeatureNet, Lite0Features
from pt_flows.progress import track

Moments = tuple[Tensor, Tensor]
"""Mean (d,) and unbiased covariance (d, d), float64."""


def frechet_distance(
    mean_1: Float[Tensor, " d"],
    covariance_1: Float[Tensor, "d d"],
    mean_2: Float[Tensor, " d"],
    covariance_2: Float[Tensor, "d d"],
) -> float:
    """‖m₁ - m₂‖² + tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½), the squared W2 between two Gaussians.

    The root is taken of the symmetric product, so eigenvalues are real and rounding can not make them complex; negative
    ones of rounding are set to zero. Float64, on the host.

    Args:
        mean_1: m₁.
        covariance_1: C₁; may be singular.
        mean_2: m₂.
        covariance_2: C₂; may be singular.

    Example:
        >>> eye = torch.eye(2)
        >>> round(frechet_distance(torch.zeros(2), eye, torch.tensor([3.0, 4.0]), 4 * eye), 9)
        27.0
    """
    m1, c1, m2, c2 = (t.double().cpu() for t in (mean_1, covariance_1, mean_2, covariance_2))
    values, vectors = torch.linalg.eigh(c1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ c2 @ root
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * cross)


def moments(total: Tensor, outer: Tensor, num: Tensor | int) -> Moments:
    """Mean and unbiased covariance from Σ f, Σ f fᵀ and the number of samples."""
    mean = total / num
    return mean, (outer - num * torch.outer(mean, mean)) / (num - 1)


class FrechetDistance(SampleMetric):
    """Fréchet distance of n generated images to the real images of a split.

    Exactly n samples over all ranks, bytes by rounding, float64 sums. Reference moments are cached on disk under a hash
    of the images' bytes and the network's weights. The floor beside the number is the distance of n real images of the
    *other* split to the same reference: about what a perfect generator would score at this n.

    Args:
        features: The network; its name becomes part of the number's name.
        split: Real images to compare with.
        num_reference: How many of them; None for all, as the literature does. Fewer are named in the key.
        batch_size: Images per forward of the network.
    """

    total: Tensor
    outer: Tensor
    num: Tensor

    def __init__(
        self,
        features: FeatureNet | None = None,
        split: Split = "train",
        num_reference: int | None = None,
        batch_size: int = 100,
    ) -> None:
        super().__init__()
        self.features = features or Lite0Features()
        self.split: Split = split
        self.num_reference, self.batch_size = num_reference, batch_size
        d = self.features.dim
        self.add_state("total", torch.zeros(d, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(d, d, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Compute or read the moments of the reference, and the floor."""
        if len(data.event_shape) != 3:
            raise UserError(
                f"FrechetDistance compares images, the data have shape {data.event_shape}; take ExactWasserstein"
            )
        if num_samples < 2:
            raise UserError(f"evaluation.num_samples must be at least 2 for FrechetDistance, got {num_samples}")
        self.num_samples = num_samples
        self.reference = self.cached_moments(data.reference(self.split, self.num_reference))
        other = "test" if self.split == "train" else "train"
        try:
            self.floor = frechet_distance(*self.reference, *self.cached_moments(data.reference(other, num_samples)))
        except UserError:  # the other split has fewer than n images: no floor at this n
            self.floor = None

    @property
    def key(self) -> str:
        """Such as `fd_inception_50k_train`: network, generated images, split, and the reference's size if not all."""
        subset = count_name(self.num_reference) if self.num_reference else ""
        return f"fd_{self.features.name}_{count_name(self.num_samples)}_{self.split}{subset}"

    def update(self, x: Tensor) -> None:
        """Take generated images (B, C, H, W) in [-1, 1]."""
        if not bool(x.isfinite().all()):
            raise DivergenceError(f"{int((~x.isfinite()).sum())} generated pixels are not finite; nothing to measure")
        total, outer, num = self.sums(as_uint8(x).split(self.batch_size))
        self.total += total
        self.outer += outer
        self.num += num

    def compute(self) -> dict[str, float]:
        """The distance under `key`, and its floor."""
        if int(self.num) != self.num_samples:
            raise RuntimeError(f"{self.key}: {int(self.num)} samples were measured, {self.num_samples} are promised")
        distance = frechet_distance(*self.reference, *moments(self.total, self.outer, self.num))
        return {self.key: distance} | ({} if self.floor is None else {f"{self.key}_floor": self.floor})

    def sums(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor, int]:
        """Σ f, Σ f fᵀ and the count over batches of uint8 images."""
        total, outer, num = torch.zeros_like(self.total), torch.zeros_like(self.outer), 0
        for images in batches:
            f = self.features(images.to(total.device)).double()
            total, outer, num = total + f.sum(0), outer.addmm_(f.T, f), num + len(f)
        return total, outer, num

    def cached_moments(self, images: Tensor) -> Moments:
        """Moments of real images uint8 (N, C, H, W), from the cache if these very images were measured before."""
        path = cache_folder() / f"{self.features.name}-{self.features.weights_hash[:12]}-{content_hash(images)}.pt"
        if path.is_file():
            try:
                saved: dict[str, Any] = torch.load(path, weights_only=True)
                return saved["mean"], saved["covariance"]
            except Exception as error:  # any damage: say so and measure again
                tqdm.write(f"note: the cached statistics {path} can not be read ({error}); measuring again")
        batches = track(images.split(self.batch_size), f"{self.features.name} features of {len(images)} real images")
        mean, covariance = (t.cpu() for t in moments(*self.sums(batches)))
        with replacing(path) as partial:
            torch.save({"mean": mean, "covariance": covariance}, partial)
        return mean, covariance


def content_hash(images: Tensor) -> str:
    """Sixteen hexadecimal digits that change with any pixel or the shape."""
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=8)
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where reference statistics are kept: $PT_FLOWS_CACHE, else pt_flows in the user's cache folder."""
    if folder := os.environ.get("PT_FLOWS_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pt_flows"
