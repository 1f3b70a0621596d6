"""The log-likelihood of test data under a latent-variable model, bounded by importance sampling."""

from collections.abc import Callable

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Split
from pt_flows.metrics.base import SECOND, RealData, SampleMetric, count_name, full_precision, real_samples
from pt_flows.training.distributed import share_of
from pt_flows.training.noise import generator_at

CHUNK = 100
"""Real samples that share one seed, so that the number does not depend on ranks."""

BoundOf = Callable[[Tensor, int, torch.Generator], Tensor]
"""Bounds (B,) in nats of samples (B, *event), given a number of importance samples and a source of randomness."""


class LikelihoodBound(SampleMetric):
    """Mean over real samples of the bound L_K of log p(x), in nats per sample, with fixed noise.

    Its expectation lies below the log-likelihood and rises with K (Burda et al. 2016, arXiv:1509.00519), so numbers
    with different K must not be compared: the name has K, the number of real samples and their split. For binarised
    images it is the logarithm of a probability, for other data that of a density in data units.

    Args:
        num_importance_samples: K.
        num_real: Number of real samples.
    """

    higher_is_better = True
    held_out = True
    split: Split = "test"
    total: Tensor
    count: Tensor

    def __init__(self, num_importance_samples: Count = 500, num_real: Count = 1_000) -> None:
        super().__init__()
        self.num_importance_samples, self.num_real, self.skip = num_importance_samples, num_real, 0
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def key(self) -> str:
        """Name with K, the number of real samples and their split, such as `log_likelihood_iw500_1k_test`."""
        name = f"log_likelihood_iw{self.num_importance_samples}_{count_name(self.num_real)}_{self.split}"
        return f"{name}{SECOND * (self.skip > 0)}"

    def use_other_samples(self) -> None:
        """Take the next samples of the test split, because the training split is known to the method."""
        self.skip = self.num_real

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read the real samples, as a method sees them."""
        self.real = real_samples(data, self.skip + self.num_real, self.split)[self.skip :]

    def update_likelihood(self, bound: BoundOf) -> None:
        """Bound the log-likelihood of this rank's part of the real samples."""
        device, chunks = self.total.device, self.real.split(CHUNK)
        with full_precision(device):
            for i in share_of(len(chunks)):
                rng = generator_at(device, "likelihood bound", i)
                self.total += bound(chunks[i].to(device), self.num_importance_samples, rng).double().sum()
                self.count += len(chunks[i])

    def update(self, x: Tensor) -> None:
        """Ignore generated samples."""

    def compute(self) -> dict[str, float]:
        """The mean; empty for methods that cannot bound the likelihood."""
        return {self.key: float(self.total / self.count)} if self.count else {}
