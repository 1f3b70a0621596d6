"""Quality and variety of images in one feature space, from one pass over them.

In addition to the Fréchet distance: the kernel distance (KID), which has no bias in the number of images; precision and
recall, density and coverage, which separate quality from variety; and, for networks that classify, the inception score.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.errors import UserError
from pt_flows.functional.distances import feature_distances
from pt_flows.functional.jackknife import frechet_left_out, interval, jackknife_error
from pt_flows.metrics.base import Direction, RealData, count_name, full_precision
from pt_flows.metrics.features import FeatureNet
from pt_flows.metrics.frechet import FrechetDistance
from pt_flows.metrics.reference import cached
from pt_flows.training.distributed import gathered
from pt_flows.training.noise import generator_at

KID_BLOCK = 1_000
MANIFOLD = 10_000
LEAST = 7
"""Fewest images for which fifth neighbours are useful."""
ROWS = 1_000


def polynomial_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (xᵀy / d + 1)³.

    Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401. Only products of points around the mean of y are
    computed in the dtype of x; everything else is float64. So float32 features give the value of float64 to 1e-6.

    Args:
        x: Features, at least two.
        y: Features, at least two.
    """
    return _polynomial_mmd(x, y)[0]


def _polynomial_mmd(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The discrepancy, and those (n,) without each one of the points x, of which there should be three."""
    n, m, d, centre = len(x), len(y), x.shape[1], y.mean(0)
    x, y = x - centre, y - centre
    slope = centre.double() / d
    slope_x, slope_y, constant = x.double() @ slope, y.double() @ slope, centre.double() @ slope + 1

    def kernel(a: Tensor, b: Tensor, slope_a: Tensor, slope_b: Tensor) -> Tensor:
        return (slope_a[:, None] + (slope_b + constant)).add_(a @ b.T, alpha=1 / d).pow_(3)

    with full_precision(x.device):
        xx, yy = kernel(x, x, slope_x, slope_x), kernel(y, y, slope_y, slope_y)
        across = kernel(x, y, slope_x, slope_y).sum(1)
    others = xx.sum(1) - xx.diagonal()
    within_x, within_y = others.sum(), (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    fewer = (within_x - 2 * others) / ((n - 1) * (n - 2)) + within_y - 2 * (across.sum() - across) / ((n - 1) * m)
    return float(within_x / (n * (n - 1)) + within_y - 2 * across.sum() / (n * m)), fewer


class KernelDistance(NamedTuple):
    """A KID with its standard errors.

    Attributes:
        distance: The mean over blocks.
        error: Standard error from the spread of the blocks, which samples of both sides cause; NaN for one block.
        of_generated: Standard error that the generated samples cause, with the real ones held fixed, by the jackknife.
    """

    distance: float
    error: float
    of_generated: float


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], block: int = KID_BLOCK) -> KernelDistance:
    """KID: the mean of `polynomial_mmd` over disjoint blocks.

    Args:
        x: Features of generated images, in any fixed order.
        y: Features of real images.
        block: Number of images of each side in a block; all of them if there are fewer.
    """
    size = min(block, len(x), len(y))
    pairs = zip(x.split(size), y.split(size), strict=False)
    found = [_polynomial_mmd(a, b) for a, b in pairs if len(a) == len(b) == size]
    values = torch.tensor([value for value, _ in found])
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    of_generated = math.hypot(*(jackknife_error(left_out) for _, left_out in found)) / len(found)
    return KernelDistance(float(values.mean()), error, of_generated)


def inception_score(logits: Float[Tensor, "n c"], num_splits: int = 10) -> tuple[float, float]:
    """Exp E KL(p(y | x) ‖ p(y)), mean and standard deviation over splits.

    Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498.

    Args:
        logits: Logits of generated images.
        num_splits: Number of equal parts of the images; each has a score.
    """
    scores = []
    for part in logits.double().tensor_split(num_splits):
        log_p = part.log_softmax(1)
        log_marginal = log_p.logsumexp(0) - math.log(len(part))
        scores.append(float((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()))
    values = torch.tensor(scores)
    return float(values.mean()), float(values.std(correction=0))


def radii(x: Float[Tensor, "n d"], ks: Sequence[int]) -> list[Float[Tensor, " n"]]:
    """Distances of every point to its k-th nearest other one, for each k."""
    near = torch.cat([feature_distances(p, x).topk(max(ks) + 1, largest=False).values for p in x.split(ROWS)])
    return [near[:, k] for k in ks]


class Manifolds(NamedTuple):
    """The degrees to which two sets of points cover each other."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k_precision: int = 3, k_coverage: int = 5
) -> Manifolds:
    """Precision and recall, density and coverage.

    A manifold is the union of balls around its points that reach to their k-th neighbour. Precision is the fraction of
    generated points inside the real manifold, recall that of real ones inside the generated one (Kynkäänniemi et al.
    2019, arXiv:1904.06991). Density is the number of real balls that hold a generated point, over k, and coverage the
    fraction of real balls that hold a generated point (Naeem et al. 2020, arXiv:2002.09797).

    Args:
        fake: Generated points.
        real: Real points.
        k_precision: Number k of the neighbour for precision and recall.
        k_coverage: Number k of the neighbour for density and coverage.
    """
    real_small, real_large = radii(real, (k_precision, k_coverage))
    (fake_small,) = radii(fake, (k_precision,))
    inside, balls = 0, 0
    recalled = covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for points, reach in zip(fake.split(ROWS), fake_small.split(ROWS), strict=True):
        distance = feature_distances(points, real)
        inside += int((distance <= real_small).any(1).sum())
        recalled = recalled | (distance <= reach[:, None]).any(0)
        held = distance <= real_large
        balls, covered = balls + int(held.sum()), covered | held.any(0)
    share = lambda flags: float(flags.double().mean())
    return Manifolds(inside / len(fake), share(recalled), balls / (k_coverage * len(fake)), share(covered))


class ImageQuality(FrechetDistance):
    """Fréchet distance, KID, inception score, precision, recall, density and coverage in one pass.

    It keeps the features of all images, so it is for `pt-flows evaluate` and for rare evaluations. The Fréchet distance
    is to all real images. KID compares with as many of them as are generated, drawn once. Precision, recall, density
    and coverage compare at most the first 10,000 of each side, and their names include that number. Both distances have
    an interval, `..._low` to `..._high`: 95 % for the chance in the generated images, with the real ones held fixed.

    Args:
        features: The network.
        split: Split of the real images to compare with.
        num_reference: Number of real images; None for all.
    """

    found: list[Tensor] | Tensor

    def __init__(
        self, features: FeatureNet | None = None, split: Split = "train", num_reference: Count | None = None
    ) -> None:
        super().__init__(features, split, num_reference)
        self.add_state("found", [], dist_reduce_fx="cat")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Compute or read the moments of the reference, the floor, and features of some real images."""
        super().prepare(data, num_samples)
        images = self.real_images(data)
        order = torch.randperm(len(images), generator=generator_at("cpu", "reference", self.split))
        some = images[order[:num_samples]]
        nothing = torch.zeros(0, self.features.dim, device=self.device)
        whole = lambda: (gathered(torch.cat([nothing, *self.real_features(some)])),)
        (self.real,) = cached(f"{self.cache_name(some)}-features", ("features",), whole)

    def check(self, data: RealData, num_samples: int) -> None:
        """Check also that there are enough images for neighbours."""
        super().check(data, num_samples)
        num_real = len(self.real_images(data))
        if min(num_samples, num_real) < LEAST:
            found = f"{num_samples} generated and {num_real} real images"
            raise UserError(f"ImageQuality: expected at least {LEAST} of each kind, got {found}")

    def reset(self) -> None:
        """Begin again with an empty batch, because a process without samples must take part in the gathering."""
        super().reset()
        assert isinstance(self.found, list)
        self.found.append(torch.zeros(0, self.features.dim, device=self.device))

    def take(self, f: Tensor) -> None:
        """Add features (B, d) to the sums, and keep them."""
        super().take(f)
        assert isinstance(self.found, list)
        self.found.append(f)

    def compute(self) -> dict[str, float]:
        """Every number under its own name."""
        values = super().compute()
        fake, real = dim_zero_cat(self.found), self.real.to(self.device)
        error = jackknife_error(frechet_left_out(fake, self.reference.mean, self.root))
        low, high = interval(values[self.key], error)
        values |= {f"{self.key}_low": max(low, 0.0), f"{self.key}_high": high}
        kid, key = kernel_distance(fake, real), f"kid_{self.suffix}"
        values |= {key: kid.distance} | ({} if math.isnan(kid.error) else {f"{key}_error": kid.error})
        values[f"{key}_low"], values[f"{key}_high"] = interval(kid.distance, kid.of_generated)
        if (logits := self.features.logits(fake)) is not None:
            values[f"is_{self.features.name}_{count_name(len(fake))}"] = inception_score(logits)[0]
        n = min(MANIFOLD, len(fake), len(real))
        found = zip(self.manifold_keys, manifolds(fake[:n], real[:n]), strict=True)
        return values | dict(found)

    @property
    def manifold_keys(self) -> list[str]:
        """Names of precision, recall, density and coverage."""
        n = count_name(min(MANIFOLD, self.num_samples, len(self.real)))
        return [f"{word}_{self.features.name}_{n}_{self.split}" for word in Manifolds._fields]

    def details(self) -> dict[str, str]:
        """The reference, if precision and the others do not choose their real images from the whole split."""
        part = f"from {self.num_reference} real images"
        return dict.fromkeys(self.manifold_keys, part) if self.num_reference is not None else {}

    def directions(self) -> dict[str, Direction]:
        """Low distances are better, and high values of all other numbers. Errors and ends of intervals have none."""
        told = super().directions()
        better = lambda key: told[key] if key.startswith(("fd_", "kid_")) else "higher"
        return {key: "" if key.endswith(("_error", "_low", "_high")) else better(key) for key in told}
