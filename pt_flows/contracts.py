"""What the parts of a run may assume of each other.

Networks, data and methods never import one another; they meet in the configuration file. These few types are what
makes them fit: the shape a network declares, the batch a method receives, the error a user sees.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from pt_flows.construction import Constructed

Shape = tuple[int, ...]
Batch = tuple[Tensor, Tensor]
"""Data and labels `(x, y)`: x float (B, *event), images in [-1, 1], toys in data units; y int64 (B,), zeros if none."""

Weights = Literal["ema", "raw"]
Split = Literal["train", "test"]


class Source(Protocol):
    """Data that a generator may start from instead of noise."""

    event_shape: Shape

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        """Independent samples (num, *event) on the generator's device."""
        ...


class Consumer(Protocol):
    """A method as data see it: how far it is, and how much it takes."""

    @property
    def iteration(self) -> int:
        """Iterations done."""
        ...

    @property
    def minibatches_per_iteration(self) -> int:
        """Minibatches of one iteration."""
        ...


class GeneratorNet(Constructed, nn.Module):
    """Base of generators: maps latents (B, *latent_shape) to samples (B, *event_shape).

    Latents are drawn from N(0, latent_std² I). Where `num_classes` is above zero, forward takes labels (B,) as well.
    """

    latent_shape: Shape
    event_shape: Shape
    latent_std: float = 1.0
    num_classes: int = 0


class CriticNet(Constructed, nn.Module):
    """Base of critics and discriminators: maps (B, *event_shape) to one unbounded value per sample, (B,).

    Where `num_classes` is above zero, forward takes labels (B,) as well.
    """

    event_shape: Shape
    num_classes: int = 0


class EnergyNet(Constructed, nn.Module):
    """Base of energies U, with p(x) proportional to exp(-U(x)): maps (B, *event_shape) to one value per sample, (B,).

    Where `takes_labels` is true, forward takes labels (B,) as well: U(x, t). Low on data; never -U.
    """

    event_shape: Shape
    takes_labels: bool = False

    def parts(self, x: Tensor) -> Tensor:
        """The energies (B, S) whose sum is U(x); one column unless the energy is a product of experts."""
        return self(x)[:, None]
