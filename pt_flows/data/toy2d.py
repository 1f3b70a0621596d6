"""Distributions on the plane, drawn on the device."""

from typing import Literal, get_args

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import Batch, Split
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.functional.energies import (
    Checkerboard,
    GaussianMixture,
    Law,
    Normal,
    Rings,
    Spirals,
    SwissRoll,
    TwoMoons,
    ring_of_eight,
    square_grid,
)
from pt_flows.training.noise import generator_at, run_seed

ToyName = Literal[
    "ring8",
    "ring8_narrow",
    "grid16",
    "grid25",
    "unequal4",
    "gaussian",
    "moons",
    "swissroll",
    "checkerboard",
    "spirals",
    "rings4",
    "rings4_wide",
]


def toy_law(name: ToyName) -> Law:
    """The distribution of a name, in the geometry of the paper that made it a benchmark.

    `ring8` is W1-FE's (radius 1, std 0.1), `ring8_narrow` and `grid25` are WGAN-GP's (std 0.02 / 1.414 at radius √2;
    std 0.05 / 2.828), `grid16` is ODE-GAN's (std 0.02), `unequal4` has four modes with weights 0.4, 0.3, 0.2, 0.1
    (std 0.3), `rings4` and `rings4_wide` are DA-EBM's (radii 1 to 4; std 0.01 in the published run, 0.15 by default in
    its code). `gaussian` has mean (2, 1) and correlated coordinates, so that flows from N(0, I) have closed forms.

    Raises:
        UserError: No distribution has this name.
    """
    match name:
        case "ring8":
            return ring_of_eight(1.0, 0.1)
        case "ring8_narrow":
            return ring_of_eight(2 / 1.414, 0.02 / 1.414)
        case "grid16":
            return square_grid([-1.5, -0.5, 0.5, 1.5], 0.02)
        case "grid25":
            return square_grid([2 * i / 2.828 for i in range(-2, 3)], 0.05 / 2.828)
        case "unequal4":
            centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
            return GaussianMixture(centres, 0.3, (0.4, 0.3, 0.2, 0.1))
        case "gaussian":
            return Normal(torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.7]]))
        case "moons":
            return TwoMoons()
        case "swissroll":
            return SwissRoll()
        case "checkerboard":
            return Checkerboard()
        case "spirals":
            return Spirals()
        case "rings4":
            return Rings((1.0, 2.0, 3.0, 4.0), 0.01)
        case "rings4_wide":
            return Rings((1.0, 2.0, 3.0, 4.0), 0.15)
        case _:
            raise UserError(f"toy_law: expected one of {', '.join(get_args(ToyName))}, got {name!r}")


class Toy2D(FlowData):
    """Endless exact samples of a distribution on the plane.

    Args:
        target: Name of the distribution; see `toy_law`.
        batch_size: Samples of one minibatch over all ranks.
        iterations_per_block: Iterations that one Lightning step runs.
    """

    def __init__(self, target: ToyName = "ring8", batch_size: Count = 256, iterations_per_block: Count = 10) -> None:
        super().__init__(batch_size, iterations_per_block)
        self.target = target
        self.law = toy_law(target)
        self.event_shape = (2,)

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor]:
        """Fresh samples (num_minibatches, B, 2) and zeros (num_minibatches, B)."""
        rng = generator_at(self.device, run_seed(), "data", iteration)
        x = self.law.sample(num_minibatches * self.batch_size, rng).view(num_minibatches, self.batch_size, 2)
        x = x[:, self.share]
        return x, torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Fresh samples (num, 2)."""
        return self.law.sample(num, rng)

    def held_out(self, num: int) -> Batch:
        """Fixed samples (num, 2), independent of those of training and of both splits, and zeros (num,)."""
        x = self.law.sample(num, generator_at("cpu", "held out", self.target))
        return x, torch.zeros(num, dtype=torch.int64)

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        """Fixed samples (num, 2); "test" is independent of "train"."""
        return self.law.sample(num or 10_000, generator_at("cpu", "reference", self.target, split))
