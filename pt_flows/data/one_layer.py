"""A finite sample of a one-layer generator with a known matrix."""

import torch
from torch import Tensor

from pt_flows.bounds import AtLeastTwo, Count
from pt_flows.contracts import Split
from pt_flows.data.base import FlowData, require
from pt_flows.functional.one_layer import Activation, activate
from pt_flows.training.noise import fold, generator_at, run_seed


class OneLayer(FlowData):
    """Samples x = φ(A* z), z ~ N(0, I), as many as an experiment has. The truth A* and the samples depend on the seed.

    Every minibatch has `batch_size` of the samples, drawn with replacement, or all of them if it is their number.

    Args:
        dim: Number of coordinates d of a sample.
        latent_dim: Number of latents of the truth; default d.
        activation: φ.
        num_samples: Number n of training samples.
        batch_size: Samples of one minibatch over all ranks; default all.
        unit_rows: Whether the rows of A* have length one.
        iterations_per_block: Iterations that one Lightning step runs.

    Attributes:
        truth: A* (d, latent_dim) of the run's seed.
    """

    def __init__(
        self,
        dim: Count = 2,
        latent_dim: Count | None = None,
        activation: Activation = "leaky_relu",
        num_samples: AtLeastTwo = 2_000,
        batch_size: Count | None = None,
        unit_rows: bool = True,
        iterations_per_block: Count = 50,
    ) -> None:
        super().__init__(batch_size or num_samples, iterations_per_block)
        self.event_shape, self.num_samples = (dim,), num_samples
        self.activation: Activation = activation
        self.latent_dim, self.unit_rows = latent_dim or dim, unit_rows
        self._drawn: tuple[int, Tensor] | None = None
        enough = self.batch_size <= num_samples
        require(enough, "data.batch_size", f"at most num_samples, {num_samples}", f"{self.batch_size}. Lower it")

    @property
    def seed(self) -> int:
        """Seed of the run, which draws the truth and the training samples."""
        return run_seed() if self.trained_seed is None else self.trained_seed

    @property
    def truth(self) -> Tensor:
        """A* (d, latent_dim)."""
        A = torch.randn(*self.event_shape, self.latent_dim, generator=generator_at("cpu", self.seed, "truth"))
        return A / A.norm(dim=1, keepdim=True) if self.unit_rows else A

    def training_latents(self) -> Tensor:
        """A* z of all training samples (n, d), before φ."""
        if self._drawn is None or self._drawn[0] != self.seed:
            rng = generator_at("cpu", self.seed, "one-layer samples")
            self._drawn = self.seed, torch.randn(self.num_samples, self.latent_dim, generator=rng) @ self.truth.T
        return self._drawn[1]

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor]:
        """Samples (num_minibatches, B, d) and zeros (num_minibatches, B)."""
        x = activate(self.training_latents(), self.activation)
        shape = (num_minibatches, self.batch_size)
        if self.batch_size == self.num_samples:
            chosen = torch.arange(self.num_samples).expand(shape)
        else:
            chosen = torch.randint(self.num_samples, shape, generator=generator_at("cpu", self.seed, "data", iteration))
        x = x[chosen[:, self.share]].to(self.device)
        return x, torch.zeros(x.shape[:2], dtype=torch.int64, device=self.device)

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Fresh samples (num, d) of the truth."""
        z = torch.randn(num, self.latent_dim, generator=rng, device=rng.device)
        return activate(z @ self.truth.T.to(z), self.activation)

    def fingerprint(self, split: Split) -> str:
        """A hash of the distribution from which every seed draws its truth."""
        drawn = (*self.event_shape, self.latent_dim, self.num_samples, self.activation, self.unit_rows, split)
        return f"{fold('one layer', *map(str, drawn)):016x}"

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed samples (num, d) of the truth, independent of those of training."""
        return self.sample(num or 10_000, generator_at("cpu", "reference", "one layer", split))
