"""Fully connected networks for samples of any shape: toys, and images as vectors."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.nets.init import fan_in_, linear, normal_, normalise_spectrally
from pt_flows.nets.noise import noise_units, with_noise
from pt_flows.nets.sizes import filled

InitStd = NonNegative | Literal["fan_in"] | None


def mlp(
    num_in: int, num_out: int, width: int, depth: int, batch_norm: bool = False, init_std: InitStd = None
) -> nn.Sequential:
    """Stack `depth` hidden layers of `width` units (linear, optional batch norm, ReLU) and a linear output.

    Weights are He uniform, as in WGAN-GP's toys. If `init_std` is a number, they are N(0, init_std²), as in W1-FE's
    code. If it is "fan_in", they are truncated normal with standard deviation 1/√fan_in, as in ODE-GAN's code.
    """
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            linear(num_in, width, he=True),
            *([nn.BatchNorm1d(width)] if batch_norm else []),
            nn.ReLU(),
        ]
        num_in = width
    net = nn.Sequential(*layers, linear(num_in, num_out))
    if init_std == "fan_in":
        fan_in_(net)
    elif init_std is not None:
        normal_(net, init_std)
    return net


class MLPCritic(CriticNet):
    """Critic with ReLU layers and no normalisation of activations, for samples of any shape.

    Args:
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        init_std: Standard deviation of normal weights. "fan_in" gives truncated normal weights with 1/√fan_in
            (ODE-GAN's toys), None gives He uniform weights (WGAN-GP's toys).
        spectral_norm: Divide every weight by its largest singular value, with one power iteration per forward pass in
            training.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        width: Count = 128,
        depth: Count = 3,
        init_std: InitStd = None,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape = tuple(event_shape)
        self.net = mlp(math.prod(self.event_shape), 1, width, depth, init_std=init_std)
        if spectral_norm:
            normalise_spectrally(self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B,) at x (B, *event_shape)."""
        return self.net(x.flatten(1)).squeeze(1)


class MLPGenerator(GeneratorNet):
    """Generator from a latent vector with ReLU layers and a linear output, for samples of any shape.

    Args:
        latent_dim: Dimension of the latent vector z ~ N(0, latent_std² I).
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        batch_norm: Batch norm before each ReLU.
        init_std: Standard deviation of normal weights. "fan_in" gives truncated normal weights with 1/√fan_in
            (ODE-GAN's toys), None gives He uniform weights (WGAN-GP's toys).
        latent_std: Standard deviation of the latent.
        noise_std: First standard deviation of the noise inside every hidden layer (noise.py); 0 for none.
    """

    def __init__(
        self,
        latent_dim: Count = 2,
        event_shape: Sequence[Count] = (2,),
        width: Count = 128,
        depth: Count = 3,
        batch_norm: bool = False,
        init_std: InitStd = None,
        latent_std: Positive = 1.0,
        noise_std: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.latent_std, self.latent_dim = tuple(event_shape), latent_std, latent_dim
        net = mlp(latent_dim, math.prod(self.event_shape), width, depth, batch_norm, init_std)
        self.net = with_noise(type(self).__name__, noise_std, net, [(width,)] * depth)
        self.latent_shape = (latent_dim + noise_units(self),)

    def forward(self, z: Tensor) -> Tensor:
        """Samples (B, *event_shape) from latents (B, *latent_shape)."""
        z, xi = z[:, : self.latent_dim], z[:, self.latent_dim :] / self.latent_std
        return self.net(z, xi).unflatten(1, self.event_shape)


class ResidualMLPGenerator(GeneratorNet):
    """Transport map G(z) = z + H(z) for samples of any shape.

    The latent lives in the data's space, and H starts near zero. This is the network of W1-FE and W2-FE's released
    experiments (weights N(0, 0.01²), batch norm in H).

    Args:
        event_shape: Shape of one sample, and of one latent.
        width: Units of a hidden layer of H.
        depth: Number of hidden layers of H.
        batch_norm: Batch norm before each ReLU.
        init_std: Standard deviation of H's normal weights.
        latent_std: Standard deviation of the source N(0, latent_std² I).
        bound: Largest move of a coordinate: G(z) = z + bound · tanh H(z). The released code has 2 for digits.
        noise_std: First standard deviation of the noise inside every hidden layer of H (noise.py); 0 for none.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        width: Count = 128,
        depth: Count = 3,
        batch_norm: bool = True,
        init_std: NonNegative = 0.01,
        latent_std: Positive = 0.05,
        bound: Positive | None = None,
        noise_std: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.latent_std, self.bound = tuple(event_shape), latent_std, bound
        self.dim = math.prod(self.event_shape)
        net = mlp(self.dim, self.dim, width, depth, batch_norm, init_std)
        self.net = with_noise(type(self).__name__, noise_std, net, [(width,)] * depth)
        self.latent_shape = (self.dim + noise_units(self),) if noise_std else self.event_shape

    def forward(self, z: Tensor) -> Tensor:
        """Samples (B, *event_shape) from latents of the same shape, or from vectors that end with the noise."""
        z = z.flatten(1)
        z, xi = z[:, : self.dim], z[:, self.dim :] / self.latent_std
        move = self.net(z, xi)
        return torch.add(z, move if self.bound is None else self.bound * move.tanh()).unflatten(1, self.event_shape)
