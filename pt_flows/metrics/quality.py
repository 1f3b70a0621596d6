"""Quality and variety of images in one feature space, from one pass over them.

Beside the Fréchet distance: the kernel distance (KID), which has no bias in the number of images; precision and recall,
density and coverage, which tell quality from variety; and, for networks that classify, the inception score.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from pt_flows.contracts import DivergenceError, Split, UserError
from pt_flows.metrics.base import RealData, SampleMetric, as_uint8, count_name
from pt_flows.metrics.features import FeatureNet, Lite0Features
from pt_flows.metrics.frechet import frechet_distance, moments
from pt_flows.progress import track
from pt_flows.state.noise import generator_at

KID_BLOCK = 1_000
NEIGHBOURS = {"precision": 3, "coverage": 5}
MANIFOLD = 10_000
ROWS = 1_000


def polynomial_mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (xᵀy / d + 1)³; float64.

    Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401.

    Args:
        x: Features, at least two.
        y: Features, at least two.
    """
    x, y = x.double(), y.double()
    kernel = lambda a, b: (a @ b.T / x.shape[1] + 1) ** 3
    xx, yy = kernel(x, x), kernel(y, y)
    n, m = len(x), len(y)
    inside = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1)) + (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return float(inside - 2 * kernel(x, y).mean())


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], block: int = KID_BLOCK) -> tuple[float, float]:
    """KID: the mean of `polynomial_mmd` over disjoint blocks, and the standard error of that mean.

    Args:
        x: Features of generated images, in any fixed order.
        y: Features of real images.
        block: Images of each side in a block; all of them where there are fewer.

    Returns:
        The distance, and its standard error (not a number with one block).
    """
    size = min(block, len(x), len(y))
    pairs = zip(x.split(size), y.split(size), strict=False)
    values = torch.tensor([polynomial_mmd(a, b) for a, b in pairs if len(a) == len(b) == size])
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error


def inception_score(logits: Float[Tensor, "n c"], num_splits: int = 10) -> tuple[float, float]:
    """Exp E KL(p(y | x) ‖ p(y)), mean and standard deviation over splits.

    Salimans et al. 2016, Improved Techniques for Training GANs, arXiv:1606.03498.

    Args:
        logits: Of generated images.
        num_splits: In how many equal parts the images are scored.
    """
    scores = []
    for part in logits.double().tensor_split(num_splits):
        log_p = part.log_softmax(1)
        log_marginal = log_p.logsumexp(0) - math.log(len(part))
        scores.append(float((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()))
    values = torch.tensor(scores)
    return float(values.mean()), float(values.std(correction=0))


def radii(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """Distance of every point to its k-th nearest other one."""
    return torch.cat([torch.cdist(part, x).kthvalue(k + 1, 1).values for part in x.split(ROWS)])


def precision_recall(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = NEIGHBOURS["precision"]
) -> tuple[float, float]:
    """Share of generated points inside the real manifold, and of real ones inside the generated one.

    A manifold is the union of balls around its points that reach to their k-th neighbour. Kynkäänniemi et al. 2019,
    Improved Precision and Recall Metric for Assessing Generative Models, arXiv:1904.06991.

    Args:
        fake: Generated points.
        real: Real points.
        k: Which neighbour.
    """
    inside = lambda x, y, r: float(torch.cat([(torch.cdist(p, y) <= r).any(1) for p in x.split(ROWS)]).double().mean())
    return inside(fake, real, radii(real, k)), inside(real, fake, radii(fake, k))


def density_coverage(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], k: int = NEIGHBOURS["coverage"]
) -> tuple[float, float]:
    """In how many real balls a generated point lies, over k; and the share of real balls that hold a generated point.

    Naeem et al. 2020, Reliable Fidelity and Diversity Metrics for Generative Models, arXiv:2002.09797.

    Args:
        fake: Generated points.
        real: Real points.
        k: Balls reach to the k-th neighbour.
    """
    r, balls, covered = radii(real, k), 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part in fake.split(ROWS):
        inside = torch.cdist(part, real) <= r
        balls, covered = balls + int(inside.sum()), covered | inside.any(0)
    return balls / (k * len(fake)), float(covered.double().mean())


class ImageQuality(SampleMetric):
    """Fréchet distance, KID, inception score, precision, recall, density and coverage in one pass.

    Features of all images are kept, which training does not need: this is for `pt-flows evaluate`. Precision, recall,
    density and coverage compare the first 10,000 images of each side at most, and say so in their names.

    Args:
        features: The network.
        split: Real images to compare with.
        num_reference: How many of them; None for all.
        batch_size: Images per forward of the network.
    """

    found: list[Tensor] | Tensor

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
        self.add_state("found", [], dist_reduce_fx="cat")

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Compute features of the real images.

        Raises:
            UserError: The data are no images, or too few are asked for.
        """
        if len(data.event_shape) != 3:
            raise UserError(f"ImageQuality compares images, the data have shape {data.event_shape}")
        least = max(NEIGHBOURS.values()) + 2
        images = data.reference(self.split, self.num_reference)
        if min(num_samples, len(images)) < least:
            raise UserError(
                f"ImageQuality needs at least {least} images of each kind, got {num_samples} generated and "
                f"{len(images)} real ones"
            )
        self.num_samples = num_samples
        real = self.features_of(images, f"{self.features.name} features of {len(images)} real images")
        self.real = real[torch.randperm(len(real), generator=generator_at("cpu", "reference", self.split))]

    @property
    def suffix(self) -> str:
        """Network, number of generated images, split, and how many real ones if not all."""
        subset = count_name(self.num_reference) if self.num_reference else ""
        return f"{self.features.name}_{count_name(self.num_samples)}_{self.split}{subset}"

    @property
    def key(self) -> str:
        """Runs are ranked by the Fréchet distance."""
        return f"fd_{self.suffix}"

    def features_of(self, images: Tensor, text: str = "features") -> Tensor:
        """Features (N, d) float32 of images uint8 (N, C, H, W), on the host."""
        batches = track(images.split(self.batch_size), text)
        return torch.cat([self.features(batch.to(self.device)).float().cpu() for batch in batches])

    def reset(self) -> None:
        """Begin again, with an empty batch: a process without samples of its own must take part in the gathering."""
        super().reset()
        assert isinstance(self.found, list)
        self.found.append(torch.zeros(0, self.features.dim, device=self.device))

    def update(self, x: Tensor) -> None:
        """Take generated images (B, C, H, W) in [-1, 1]."""
        if not bool(x.isfinite().all()):
            raise DivergenceError(f"{int((~x.isfinite()).sum())} generated pixels are not finite; nothing to measure")
        assert isinstance(self.found, list)
        for batch in as_uint8(x).split(self.batch_size):
            self.found.append(self.features(batch.to(self.device)).float())

    def compute(self) -> dict[str, float]:
        """Every number under its own name."""
        fake, real = dim_zero_cat(self.found).cpu(), self.real
        if len(fake) != self.num_samples:
            raise RuntimeError(f"{self.key}: {len(fake)} samples were measured, {self.num_samples} are promised")
        both = [moments(f.sum(0), f.T @ f, len(f)) for f in (fake.double(), real.double())]
        distance, error = kernel_distance(fake, real)
        values = {self.key: frechet_distance(*both[0], *both[1]), f"kid_{self.suffix}": distance}
        values |= {} if math.isnan(error) else {f"kid_{self.suffix}_error": error}
        if (logits := self.features.logits(fake.to(self.device))) is not None:
            values[f"is_{self.suffix.rpartition('_')[0]}"] = inception_score(logits)[0]
        n = min(MANIFOLD, len(fake), len(real))
        some_fake, some_real = fake[:n].to(self.device), real[:n].to(self.device)
        name = f"{self.features.name}_{count_name(n)}_{self.split}"
        precision, recall = precision_recall(some_fake, some_real)
        density, coverage = density_coverage(some_fake, some_real)
        found = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
        return values | {f"{word}_{name}": value for word, value in found.items()}
