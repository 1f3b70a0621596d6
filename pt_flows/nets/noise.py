r"""Noise inside a generator: stochastic layers, whose noise is a part of the latent.

    a_l = μ_l(h_{l-1}) + σ_l ξ_l,  ξ_l ~ N(0, I)  for every unit and sample        h_l = activation(a_l)

The noise of all layers is the tail of the latent vector, z = (z_0, ξ_1, ..., ξ_L). So a generator stays a function of
its latent: the noise of a persistent target stays with its latent, chains over latents move the noise too, and the
noise is there in evaluation as in training.

Liu, Xu, Xiang 2020, Towards GANs' Approximation Ability, arXiv:2004.05912, of which only the abstract could be read. It
fixes randomness inside a layer by reparameterisation. Ours are its place (after normalisation, before the activation,
in every hidden layer) and its scale (learned for every channel, between 0.001 and 1).
"""

import math
from collections.abc import Iterable
from itertools import accumulate

import torch
from torch import Tensor, nn

from pt_flows.contracts import GeneratorNet
from pt_flows.errors import UserError


class StochasticLayer(nn.Module):
    """Adds σ ξ to (B, C, ...), with one σ per channel.

    Args:
        name: Name of the generator's class, for messages.
        noise_std: First value of every σ, inside (0.001, 1).
        shape: Shape (C, ...) of one sample.
    """

    LOW, HIGH = 1e-3, 1.0

    def __init__(self, name: str, noise_std: float, *shape: int) -> None:
        super().__init__()
        if not self.LOW < noise_std < self.HIGH:
            wanted = f"expected 0, or a number between {self.LOW:g} and {self.HIGH:g}"
            raise UserError(f"{name}.noise_std: {wanted}, got {noise_std!r}. 0.1 is usual")
        self.shape, self.num_units = shape, math.prod(shape)
        share = math.log(noise_std / self.LOW) / math.log(self.HIGH / self.LOW)
        self.rho = nn.Parameter(torch.full((shape[0],), math.log(share / (1 - share))))

    @property
    def sigma(self) -> Tensor:
        """Standard deviations σ (C,), which no value of the parameter takes out of their bounds."""
        return self.LOW * (self.HIGH / self.LOW) ** self.rho.sigmoid()

    def forward(self, mu: Tensor, xi: Tensor) -> Tensor:
        """(B, C, ...) and noise (B, number of units) to (B, C, ...)."""
        sigma = self.sigma.view(-1, *[1] * (len(self.shape) - 1))
        return mu + (sigma * xi.reshape(-1, *self.shape)).to(mu.dtype)


class Layers(nn.Sequential):
    """Layers in a row, some of which may be stochastic."""

    def forward(self, h: Tensor, xi: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Apply the layers to h (B, ...), with the noise (B, num_units) of the stochastic ones."""
        for layer in self:
            if isinstance(layer, StochasticLayer):
                assert xi is not None
                h, xi = layer(h, xi[:, : layer.num_units]), xi[:, layer.num_units :]
            else:
                h = layer(h)
        return h


def with_noise(name: str, noise_std: float, layers: nn.Sequential, shapes: Iterable[tuple[int, ...]]) -> Layers:
    """Put a stochastic layer before every ReLU; none if `noise_std` is 0.

    Args:
        name: Name of the generator's class, for messages.
        noise_std: First value of σ.
        layers: The layers, initialised.
        shapes: Shape of one sample at every ReLU.
    """
    found, at = [], iter(shapes)
    for layer in layers:
        if noise_std and isinstance(layer, nn.ReLU):
            found.append(StochasticLayer(name, noise_std, *next(at)))
        found.append(layer)
    return Layers(*found)


def noise_units(net: nn.Module) -> int:
    """Number of entries of the latent that are noise of stochastic layers."""
    return sum(layer.num_units for layer in net.modules() if isinstance(layer, StochasticLayer))


def noise_parts(net: GeneratorNet) -> dict[str, slice]:
    """Name the parts of the latent: "z" for the input of the first layer, and the noise of every stochastic layer.

    Returns:
        Slices of the latent by "z" and the names of the layers, in their order.
    """
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, StochasticLayer)}
    sizes = {"z": math.prod(net.latent_shape) - noise_units(net)} | {n: layer.num_units for n, layer in layers.items()}
    ends = accumulate(sizes.values())
    return {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}
