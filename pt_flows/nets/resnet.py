"""The residual pairs of WGAN-GP and SN-GAN, for images of 8, 16, 28, 32, 48, 64, 128, ... pixels.

Gulrajani et al. 2017, arXiv:1704.00028 (32 pixels, width 128: 1,204,483 and 1,053,825 parameters, as in the released
script) and Miyato et al. 2018, Spectral Normalization for GANs, arXiv:1802.05957 (spectral norm, sum pooling, 64 and
128 pixels). Upsampling happens before the first convolution of a block, as in WGAN-GP's code.

The papers have 32, 64 and 128 pixels. Other sizes follow the network with as many stages as `stages` in sizes.py says:
* 1 to 3 stages, from 8 to 56 pixels, such as 16, 28, 32, 48: all blocks have one width. The generator has one up-block
  for every stage. The critic has four blocks, of which the first two halve the size (the first one at 1 stage).
* k > 3 stages, such as 4 for 64 to 112 pixels and 5 for 128 to 224: the generator's k blocks narrow to `width` from
  2^(k-1) times as much. The critic's k + 1 blocks widen in turn, and all but the last halve the size.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.bounds import Count, CountOrZero, NonNegative
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.errors import UserError
from pt_flows.nets.init import conv, linear, normalise_spectrally, uniform_
from pt_flows.nets.noise import StochasticLayer, noise_units
from pt_flows.nets.recompute import recomputed
from pt_flows.nets.sizes import stages

SMALL = 3
"""The largest number of stages with blocks of one width."""


def widening(k: int) -> list[int]:
    """Return the channels of a network with k > 3 stages, in multiples of `width`, from the image on: 1, 2, 4, 8, 8."""
    return [*(2**i for i in range(k)), 2 ** (k - 1)]


class ClassBatchNorm2d(nn.BatchNorm2d):
    """Batch norm with a scale and a shift for every class (de Vries et al. 2017, arXiv:1707.00683).

    Args:
        num_features: Channels.
        num_classes: Classes.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, affine=False)
        self.scale, self.shift = nn.Embedding(num_classes, num_features), nn.Embedding(num_classes, num_features)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, C, H, W) with labels (B,) to the same shape."""
        return super().forward(x) * self.scale(y)[..., None, None] + self.shift(y)[..., None, None]


def batch_norm(num_features: int, num_classes: int) -> nn.Module:
    """Return batch norm, class-conditional if there are classes."""
    return ClassBatchNorm2d(num_features, num_classes) if num_classes else nn.BatchNorm2d(num_features)


class UpBlock(nn.Module):
    """BN ReLU upsample conv BN ReLU conv, plus an upsampled 1x1 shortcut.

    Args:
        num_in: Channels of the input.
        num_out: Channels of the output.
        num_classes: Classes of the batch norms; 0 for none.
        noise: A stochastic layer before each ReLU; none if empty.
    """

    def __init__(self, num_in: int, num_out: int, num_classes: int = 0, noise: Sequence[StochasticLayer] = ()) -> None:
        super().__init__()
        self.noise = nn.ModuleList(noise)
        self.norm1, self.conv1 = batch_norm(num_in, num_classes), conv(num_in, num_out, 3)
        self.norm2, self.conv2 = batch_norm(num_out, num_classes), conv(num_out, num_out, 3)
        self.shortcut = conv(num_in, num_out, 1, he=False)

    def forward(self, x: Tensor, xi: Tensor, *labels: Tensor) -> Tensor:
        """(B, num_in, H, W), noise (B, units), and labels (B,) if class-conditional, to (B, num_out, 2H, 2W)."""
        xi1, xi2 = xi.split([layer.num_units for layer in self.noise], 1) if self.noise else (xi, xi)
        h = F.relu(self._noisy(0, self.norm1(x, *labels), xi1))
        h = self.conv1(F.interpolate(h, scale_factor=2.0))
        h = self.conv2(F.relu(self._noisy(1, self.norm2(h, *labels), xi2)))
        return h + self.shortcut(F.interpolate(x, scale_factor=2.0))

    def _noisy(self, i: int, h: Tensor, xi: Tensor) -> Tensor:
        return self.noise[i](h, xi) if self.noise else h


class DownBlock(nn.Module):
    """ReLU conv ReLU conv (mean pool), plus a shortcut. The first block of a critic has no leading ReLU."""

    def __init__(self, num_in: int, num_out: int, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1, self.conv2 = conv(num_in, num_out, 3), conv(num_out, num_out, 3)
        self.shortcut = conv(num_in, num_out, 1, he=False) if down or num_in != num_out else nn.Identity()

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) to (B, num_out, H, W), or half the size."""
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        skip = self.shortcut(self._pool(x)) if self.first else self._pool(self.shortcut(x))
        return self._pool(h) + skip


class ResNetGenerator(GeneratorNet):
    """Generator: linear to 4x4 (up to 7x7), up-blocks, batch norm, ReLU, 3x3 convolution, tanh.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the last block, and up to 56 pixels of every block. SN-GAN uses 256 at 32 pixels.
        latent_dim: Dimension of z ~ N(0, I).
        num_classes: Classes of the blocks' batch norms (de Vries et al. 2017, arXiv:1707.00683); 0 for an unconditional
            generator.
        activation_checkpointing: Keep activations between blocks only, and compute the others again in backward passes.
        noise_std: First standard deviation of the noise inside every hidden layer (noise.py); 0 for none.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 128,
        latent_dim: Count = 128,
        num_classes: CountOrZero = 0,
        activation_checkpointing: bool = False,
        noise_std: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        side, k = stages(self, image_size)
        self.activation_checkpointing = activation_checkpointing
        channels = [width * m for m in (reversed(widening(k)) if k > SMALL else [1] * (k + 1))]
        self.latent_dim, self.event_shape = latent_dim, (num_channels, image_size, image_size)
        self.num_classes = num_classes
        self.side, self.first = side, linear(latent_dim, channels[0] * side**2)
        noisy = lambda *shapes: [StochasticLayer(type(self).__name__, noise_std, *s) for s in shapes if noise_std]
        self.blocks = nn.ModuleList(
            UpBlock(a, b, num_classes, noisy((a, s, s), (b, 2 * s, 2 * s)))
            for a, b, s in zip(channels, channels[1:], [side * 2**i for i in range(k)], strict=False)
        )
        self.norm, self.last = nn.BatchNorm2d(channels[-1]), conv(channels[-1], num_channels, 3, he=False)
        self.noise = nn.ModuleList(noisy((channels[-1], image_size, image_size)))
        self.noise_sizes = [noise_units(part) for part in (*self.blocks, self.noise)]
        self.latent_shape = (latent_dim + sum(self.noise_sizes),)

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, *latent_shape), and labels (B,) if class-conditional."""
        z, *xi = z.split([self.latent_dim, *self.noise_sizes], 1)
        h = self.first(z).unflatten(1, (-1, self.side, self.side))
        for block, own in zip(self.blocks, xi, strict=False):
            h = recomputed(block, h, own, *labels) if self.activation_checkpointing else block(h, own, *labels)
        h = self.norm(h)
        for noise in self.noise:
            h = noise(h, xi[-1])
        return torch.tanh(self.last(F.relu(h)))


class ResNetCritic(CriticNet):
    """Critic: residual blocks without normalisation, ReLU, pooling over space, one linear output.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the first block, and up to 56 pixels of every block.
        spectral_norm: Divide every weight by its largest singular value, with one power iteration per forward pass in
            training.
        pooling: Pooling over space before the output: "mean" (WGAN-GP) or "sum" (SN-GAN).
        num_classes: Classes of the projection, which adds the inner product of the pooled features with a vector of the
            class (Miyato and Koyama 2018, arXiv:1802.05637); 0 for an unconditional critic.
        activation_checkpointing: Keep activations between blocks only, and compute the others again in backward passes.

    Raises:
        UserError: The image size does not halve evenly, or spectral norm is combined with activation checkpointing.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 128,
        spectral_norm: bool = False,
        pooling: Literal["mean", "sum"] = "mean",
        num_classes: CountOrZero = 0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if spectral_norm and activation_checkpointing:
            # a power iteration changes the network between a forward pass and its repetition
            wanted = "expected false with spectral_norm, got true. Set either to false"
            raise UserError(f"ResNetCritic.activation_checkpointing: {wanted}")
        self.activation_checkpointing = activation_checkpointing
        _, k = stages(self, image_size)
        multipliers, down = (widening(k), k) if k > SMALL else ([1] * 4, min(k, 2))
        channels = [num_channels, *(width * m for m in multipliers)]
        self.event_shape, self.pooling = (num_channels, image_size, image_size), pooling
        pairs = list(zip(channels, channels[1:], strict=False))
        self.blocks = nn.Sequential(*(DownBlock(a, b, i < down, i == 0) for i, (a, b) in enumerate(pairs)))
        self.last, self.num_classes = linear(channels[-1], 1), num_classes
        if num_classes:
            self.project = nn.Embedding(num_classes, channels[-1])
            uniform_(self.project.weight, math.sqrt(2 / (num_classes + channels[-1])))
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        """Values (B,) at images (B, C, H, W), and labels (B,) if class-conditional."""
        h = x
        for block in self.blocks:
            h = recomputed(block, h) if self.activation_checkpointing else block(h)
        h = F.relu(h)
        pooled = h.mean((2, 3)) if self.pooling == "mean" else h.sum((2, 3))
        value = self.last(pooled).squeeze(1)
        for y in labels:
            value = value + (self.project(y) * pooled).sum(1)
        return value
