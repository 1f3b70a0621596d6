"""Encoders q(z | x) and decoders p(x | z) of latent-variable models, without normalisation layers.

Chen et al. 2018, arXiv:1711.01204, have tanh layers, Bernoulli outputs or Gaussian ones with one global variance, and
variances of the encoder by softplus. Here the softplus gives the standard deviation. Gaussian noise that is fixed or
has one variance per output, and the convolutional pair, are additions. Smooth activations give maps z -> x whose
Jacobian is smooth; that of relu networks is piecewise constant.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import DecoderNet, EncoderNet, Shape
from pt_flows.errors import UserError
from pt_flows.nets.init import conv, deconv, linear
from pt_flows.nets.sizes import filled, stages

Activation = Literal["tanh", "softplus", "silu", "relu"]
Likelihood = Literal["gaussian", "bernoulli"]
LearnedStd = Literal["global", "per_output"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "softplus": nn.Softplus, "silu": nn.SiLU, "relu": nn.ReLU}
SMALLEST_STD = 1e-5
"""Smallest standard deviation of an encoder, which keeps log-densities finite."""


def layers(num_in: int, num_out: int, width: int, depth: int, activation: Activation) -> nn.Sequential:
    """Stack `depth` hidden layers of `width` units with an activation, and a linear output; Glorot uniform weights."""
    widths = [num_in, *[width] * depth]
    hidden = [layer for a, b in pairwise(widths) for layer in (linear(a, b), ACTIVATIONS[activation]())]
    return nn.Sequential(*hidden, linear(widths[-1], num_out))


class GaussianEncoder(EncoderNet):
    """Base of encoders whose network has two outputs per latent: the mean, and the input of a softplus for the std.

    Args:
        net: Maps samples (B, *event_shape) to (B, 2 · latent_dim).
        event_shape: Shape of one sample.
        latent_dim: Dimension of z.
    """

    def __init__(self, net: nn.Module, event_shape: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.event_shape, self.latent_shape, self.net = tuple(event_shape), (latent_dim,), net

    def forward(self, x: Tensor) -> Tensor:
        """Means and standard deviations (B, 2, latent_dim) at x (B, *event_shape)."""
        mean, raw = self.net(x).to(x.dtype).chunk(2, 1)
        return torch.stack([mean, nn.functional.softplus(raw) + SMALLEST_STD], 1)


class LikelihoodDecoder(DecoderNet):
    """Base of decoders whose network has one output per value of a sample.

    A Gaussian has the outputs as its means. A Bernoulli distribution has them as logits, over the values -1 and 1 of
    black and white pixels, so that its mean is tanh(output / 2).

    Args:
        net: Maps latents (B, latent_dim) to (B, *event_shape).
        event_shape: Shape of one sample.
        latent_dim: Dimension of z ~ N(0, I).
        likelihood: The distribution of a value given z.
        std: Standard deviation of the Gaussian; the initial one if it is learned.
        learned_std: One learned standard deviation, or one per value of a sample; None keeps it fixed.
    """

    def __init__(
        self,
        net: nn.Module,
        event_shape: Sequence[int],
        latent_dim: int,
        likelihood: Likelihood,
        std: float,
        learned_std: LearnedStd | None,
    ) -> None:
        super().__init__()
        if learned_std and likelihood == "bernoulli":
            wanted = "expected none with a bernoulli likelihood, which has no standard deviation"
            raise UserError(f"{type(self).__name__}.learned_std: {wanted}, got {learned_std}. Omit it")
        self.event_shape, self.latent_shape, self.net = tuple(event_shape), (latent_dim,), net
        self.is_gaussian = likelihood == "gaussian"
        shape: Shape = self.event_shape if learned_std == "per_output" else ()
        log_std = torch.full(shape, math.log(std))
        if learned_std:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std, persistent=False)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Means (B, *event_shape) from latents (B, latent_dim), or log p(x | z) (B,) of x (B, *event_shape)."""
        outputs = self.net(z)
        if x is None:
            return outputs if self.is_gaussian else (outputs / 2).tanh()
        outputs = outputs.to(x.dtype)
        if self.is_gaussian:
            log_p = Normal(outputs, self.log_std.exp(), validate_args=False).log_prob(x)
        else:
            log_p = Bernoulli(logits=outputs, validate_args=False).log_prob((x + 1) / 2)
        return log_p.flatten(1).sum(1)

    def draw(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Draw data from p(x | z), given its mean and standard normal noise, both (B, *event_shape)."""
        if self.is_gaussian:
            return mean + self.log_std.exp() * noise
        return torch.where(torch.special.ndtr(noise) < (mean + 1) / 2, 1.0, -1.0).to(mean)

    def supports(self, x: Tensor) -> Tensor:
        """Whether values are finite, or for a Bernoulli distribution -1 or 1."""
        return x.isfinite() if self.is_gaussian else x.abs() == 1


class MLPEncoder(GaussianEncoder):
    """Fully connected encoder for samples of any shape.

    Args:
        event_shape: Shape of one sample.
        latent_dim: Dimension of z.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: Activation of hidden layers.
    """

    def __init__(
        self,
        event_shape: Sequence[Count] = (2,),
        latent_dim: Count = 2,
        width: Count = 128,
        depth: Count = 2,
        activation: Activation = "tanh",
    ) -> None:
        filled(self, event_shape=event_shape)
        net = layers(math.prod(event_shape), 2 * latent_dim, width, depth, activation)
        super().__init__(nn.Sequential(nn.Flatten(), *net), event_shape, latent_dim)


class MLPDecoder(LikelihoodDecoder):
    """Fully connected decoder for samples of any shape.

    Args:
        latent_dim: Dimension of z ~ N(0, I).
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        activation: Activation of hidden layers; all but relu give a smooth Jacobian.
        likelihood: The distribution of a value given z; a bernoulli one needs data with the values -1 and 1.
        std: Standard deviation of the Gaussian; the initial one if it is learned.
        learned_std: One learned standard deviation, or one per value of a sample; None keeps it fixed.
    """

    def __init__(
        self,
        latent_dim: Count = 2,
        event_shape: Sequence[Count] = (2,),
        width: Count = 128,
        depth: Count = 2,
        activation: Activation = "tanh",
        likelihood: Likelihood = "gaussian",
        std: Positive = 0.1,
        learned_std: LearnedStd | None = None,
    ) -> None:
        filled(self, event_shape=event_shape)
        net = layers(latent_dim, math.prod(event_shape), width, depth, activation)
        shaped = nn.Sequential(*net, nn.Unflatten(1, tuple(event_shape)))
        super().__init__(shaped, event_shape, latent_dim, likelihood, std, learned_std)


class ConvEncoder(GaussianEncoder):
    """Convolutional encoder: strided 5x5 convolutions down to 4 to 7 pixels, then one linear output.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the first layer; each level below has twice as many.
        latent_dim: Dimension of z.
        activation: Activation of hidden layers.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 32,
        latent_dim: Count = 32,
        activation: Activation = "silu",
    ) -> None:
        side, k = stages(self, image_size)
        channels = [num_channels, *(width * 2**i for i in range(k))]
        hidden = [m for a, b in pairwise(channels) for m in (conv(a, b, 5, stride=2), ACTIVATIONS[activation]())]
        net = nn.Sequential(*hidden, nn.Flatten(), linear(channels[-1] * side**2, 2 * latent_dim))
        super().__init__(net, (num_channels, image_size, image_size), latent_dim)


class ConvDecoder(LikelihoodDecoder):
    """Convolutional decoder: linear to 4x4 (up to 7x7), then transposed 5x5 convolutions that double the size.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the last hidden layer; each level below has twice as many.
        latent_dim: Dimension of z ~ N(0, I).
        activation: Activation of hidden layers; all but relu give a smooth Jacobian.
        likelihood: The distribution of a value given z; a bernoulli one needs data with the values -1 and 1.
        std: Standard deviation of the Gaussian; the initial one if it is learned.
        learned_std: One learned standard deviation, or one per value of a sample; None keeps it fixed.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 32,
        latent_dim: Count = 32,
        activation: Activation = "silu",
        likelihood: Likelihood = "gaussian",
        std: Positive = 0.1,
        learned_std: LearnedStd | None = None,
    ) -> None:
        side, k = stages(self, image_size)
        channels = [width * 2**i for i in reversed(range(k))]
        act = ACTIVATIONS[activation]
        first = [linear(latent_dim, channels[0] * side**2), act(), nn.Unflatten(1, (channels[0], side, side))]
        hidden = [layer for a, b in pairwise(channels) for layer in (deconv(a, b), act())]
        net = nn.Sequential(*first, *hidden, deconv(channels[-1], num_channels, he=False))
        event_shape = (num_channels, image_size, image_size)
        super().__init__(net, event_shape, latent_dim, likelihood, std, learned_std)
