"""Moving averages of a network's weights."""

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pt_flows.bounds import DecayRates
from pt_flows.training.requirements import SPECTRAL

N = TypeVar("N", bound=nn.Module)


class Average(nn.Module, ABC, Generic[N]):
    """Keeps θ̄ ← β_t θ̄ + (1 - β_t) θ, for floating-point buffers too. A subclass chooses β_t.

    Batch norm's running statistics are averaged like the weights, because those of the latest network do not fit
    averaged weights. Counters are copied. Spectral norm follows the averaged weights by its own power iteration, one
    step per update, because a mean of singular vectors is none. The copy is always in evaluation mode. One fused
    interpolation moves everything, and no step reads a number back from the device (torch's `AveragedModel` does, once
    per update).

    Args:
        network: The network to average; copied now.
    """

    def __init__(self, network: N) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.train(False)
        self._normed = list(_normed(self.network))

    @abstractmethod
    def decay_at(self, iteration: int) -> float:
        """Return β_t of an iteration t, counted from 1."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        super().train(False)
        return self

    def forward(self, *args: Tensor) -> Tensor:
        """The averaged network at its arguments."""
        return cast(Tensor, self.network(*args))

    @torch.no_grad()
    def update(self, network: N, iteration: int) -> None:
        """Fold in the weights after iteration t, counted from 1."""
        own = {id(vector) for _, _, norm in self._normed for vector in norm.buffers()}
        pairs = [(a, b) for a, b in zip(_tensors(self.network), _tensors(network), strict=True) if id(a) not in own]
        floats = [(a, b) for a, b in pairs if a.is_floating_point()]
        get_ema_multi_avg_fn(self.decay_at(iteration))([a for a, _ in floats], [b for _, b in floats], None)
        for count, new in [(a, b) for a, b in pairs if not a.is_floating_point()]:
            count.copy_(new)
        for layer, name, norm in self._normed:
            norm.train()
            getattr(layer, name)  # takes one step of the power iteration
            norm.eval()


class EMA(Average[N]):
    """The exponential average, with β_t = min(decay, (1 + t) / (10 + t)).

    The ramp forgets the initial weights at once, so short runs are averaged too.

    Args:
        network: The network to average; copied now.
        decay: β, in [0, 1). 0 keeps a copy of the latest weights.
    """

    def __init__(self, network: N, decay: float) -> None:
        super().__init__(network)
        self.decay = decay

    def decay_at(self, iteration: int) -> float:
        """Return β_t of an iteration t, counted from 1."""
        return min(self.decay, (1 + iteration) / (10 + iteration))


def decays_of(given: DecayRates) -> list[float]:
    """Return the decays of averages as a list, which is empty without any."""
    return [] if given is None else list(given) if isinstance(given, list | tuple) else [given]


def _normed(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield layers with spectral norm, the name of its weight, and the norm."""
    for layer in network.modules():
        if is_parametrized(layer):
            for name, parts in cast(nn.ModuleDict, layer.parametrizations).items():
                yield from ((layer, name, part) for part in parts.children() if type(part).__name__ in SPECTRAL)


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(network.parameters(), network.buffers())
