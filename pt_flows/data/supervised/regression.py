"""Regression: a linear one with a sparse truth, and a function with a kink."""

import math

import torch
from torch import Tensor

from pt_flows.bounds import Count, CountOrZero, NonNegative
from pt_flows.contracts import Split
from pt_flows.data.base import require
from pt_flows.data.supervised.base import Supervised
from pt_flows.training.noise import generator_at


class LinearRegression(Supervised):
    """Linear regression y = xᵀθ₀ + N(0, noise²), x ~ N(0, I), with ‖θ₀‖ = 1 and equal non-zero entries, the first ones.

    The test split is large, so that a risk on it is close to that of the population. A high-dimensional example is
    that with 400 features, 5 of which count, and 100 samples.

    Args:
        num_train: Number n of training samples.
        dim: Number d of features.
        sparsity: Number of non-zero entries of the truth θ₀.
        noise: Standard deviation of the noise on y.
        num_test: Number of samples of the test split.
        data_seed: Seed of the samples. Runs with other seeds of their own see the same ones.
        batch_size: Samples of one minibatch over all ranks; `num_train` for steps on all samples.
        iterations_per_block: Iterations that one Lightning step runs.

    Attributes:
        truth: θ₀ (dim,).
    """

    real_targets = True

    def __init__(
        self,
        num_train: Count = 200,
        dim: Count = 10,
        sparsity: Count = 10,
        noise: NonNegative = 0.5,
        num_test: Count = 10_000,
        data_seed: CountOrZero = 0,
        batch_size: Count = 50,
        iterations_per_block: Count = 50,
    ) -> None:
        super().__init__(batch_size, iterations_per_block)
        require(sparsity <= dim, "LinearRegression.sparsity", f"at most dim {dim}", f"{sparsity}. Lower it")
        self.num: dict[Split, int] = {"train": num_train, "test": num_test}
        self.noise, self.data_seed, self.event_shape = noise, data_seed, (dim,)
        self.truth = torch.zeros(dim)
        self.truth[:sparsity] = 1 / math.sqrt(sparsity)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Features (N, dim) and values (N,)."""
        rng = generator_at("cpu", self.data_seed, "linear regression", split)
        x = torch.randn(self.num[split], *self.event_shape, generator=rng)
        return x, x @ self.truth + self.noise * torch.randn(len(x), generator=rng)


class Kink(Supervised):
    """The function y = |x| at 101 equal points of [-1, 1]; the test split has the 100 points between them.

    A small ReLU network with input weights of one sign cannot see one half of it.

    Args:
        batch_size: Samples of one minibatch over all ranks; all by default.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    event_shape = (1,)
    real_targets = True

    def __init__(self, batch_size: Count = 101, iterations_per_block: Count = 50) -> None:
        super().__init__(batch_size, iterations_per_block)

    def load(self, split: Split) -> tuple[Tensor, Tensor]:
        """Points (N, 1) and values (N,)."""
        x = torch.arange(-50, 51) / 50
        x = x if split == "train" else (x[1:] + x[:-1]) / 2
        return x[:, None], x.abs()
