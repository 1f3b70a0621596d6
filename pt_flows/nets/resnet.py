"""Residual pairs for 32, 64 and 128 pixels, as WGAN-GP and SN-GAN use them.

Gulrajani et al. 2017, arXiv:1704.00028 (32 pixels, width 128: 1,204,483 and 1,053,825 parameters, as in the released
script) and Miyato et al. 2018, Spectral Normalization for GANs, arXiv:1802.05957 (spectral norm, sum pooling, larger
sizes). Upsampling happens before the first convolution of a block, as in WGAN-GP's code.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm as normalise_spectrally

from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.errors import UserError
from pt_flows.nets.init import check_sizes, conv, linear, uniform_
from pt_flows.nets.recompute import recomputed

# channels in multiples of `width`, from the 4x4 end of the generator / from the image end of the critic
GENERATOR_CHANNELS = {32: (1, 1, 1, 1), 64: (8, 8, 4, 2, 1), 128: (16, 16, 8, 4, 2, 1)}
CRITIC_CHANNELS = {32: (1, 1, 1, 1), 64: (1, 2, 4, 8, 8), 128: (1, 2, 4, 8, 16, 16)}
CRITIC_DOWNSAMPLES = {32: 2, 64: 4, 128: 5}


def channels_for(image_size: int, table: dict[int, tuple[int, ...]], width: int) -> list[int]:
    """Channels of every level.

    Raises:
        UserError: No network of this size is described in the papers.
    """
    if image_size not in table:
        raise UserError(f"image_size must be one of {sorted(table)} for a ResNet, got {image_size}")
    return [m * width for m in table[image_size]]


class ClassBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose scale and shift are looked up by class (de Vries et al. 2017, arXiv:1707.00683).

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
    """Batch norm, class-conditional where there are classes."""
    return ClassBatchNorm2d(num_features, num_classes) if num_classes else nn.BatchNorm2d(num_features)


class UpBlock(nn.Module):
    """BN ReLU upsample conv BN ReLU conv, plus an upsampled 1x1 shortcut."""

    def __init__(self, num_in: int, num_out: int, num_classes: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = batch_norm(num_in, num_classes), conv(num_in, num_out, 3)
        self.norm2, self.conv2 = batch_norm(num_out, num_classes), conv(num_out, num_out, 3)
        self.shortcut = conv(num_in, num_out, 1, he=False)

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        """(B, num_in, H, W), and labels (B,) if class-conditional, to (B, num_out, 2H, 2W)."""
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, *labels)), scale_factor=2.0))
        h = self.conv2(F.relu(self.norm2(h, *labels)))
        return h + self.shortcut(F.interpolate(x, scale_factor=2.0))


class DownBlock(nn.Module):
    """ReLU conv ReLU conv (mean pool), plus a shortcut; the first block of a critic has no leading ReLU."""

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
    """Linear to 4x4, up-blocks, batch norm, ReLU, 3x3 convolution, tanh.

    Args:
        image_size: 32, 64 or 128.
        num_channels: Colour channels.
        width: Channels of the last block (at 32 pixels: of every block; SN-GAN uses 256).
        latent_dim: Dimension of z ~ N(0, I).
        num_classes: Classes of the blocks' batch norms; 0 for an unconditional generator.
        activation_checkpointing: Keep activations between blocks only, and compute the others again in backward passes.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        width: int = 128,
        latent_dim: int = 128,
        num_classes: int = 0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width, latent_dim=latent_dim)
        self.activation_checkpointing = activation_checkpointing
        channels = channels_for(image_size, GENERATOR_CHANNELS, width)
        self.latent_shape, self.event_shape = (latent_dim,), (num_channels, image_size, image_size)
        self.num_classes = num_classes
        self.first = linear(latent_dim, channels[0] * 16)
        self.blocks = nn.ModuleList(UpBlock(a, b, num_classes) for a, b in zip(channels, channels[1:], strict=False))
        self.norm, self.last = nn.BatchNorm2d(channels[-1]), conv(channels[-1], num_channels, 3, he=False)

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, latent_dim), and labels (B,) if class-conditional."""
        h = self.first(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            h = recomputed(block, h, *labels) if self.activation_checkpointing else block(h, *labels)
        return torch.tanh(self.last(F.relu(self.norm(h))))


class ResNetCritic(CriticNet):
    """Residual blocks without normalisation, ReLU, pooling over space, one linear output.

    Args:
        image_size: 32, 64 or 128.
        num_channels: Colour channels.
        width: Channels of the first block (at 32 pixels: of every block).
        spectral_norm: Divide every weight by its largest singular value (one power iteration per training forward).
        pooling: Over space before the output: "mean" (WGAN-GP) or "sum" (SN-GAN).
        num_classes: Classes of the projection, which adds the inner product of the pooled features with a vector of the
            class (Miyato and Koyama 2018, arXiv:1802.05637); 0 for an unconditional critic.
        activation_checkpointing: Keep activations between blocks only, and compute the others again in backward passes.

    Raises:
        UserError: Spectral norm with activation checkpointing: its power iteration would have moved on in between.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        width: int = 128,
        spectral_norm: bool = False,
        pooling: Literal["mean", "sum"] = "mean",
        num_classes: int = 0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width)
        if spectral_norm and activation_checkpointing:
            raise UserError(
                "activation_checkpointing does not go with spectral_norm, whose power iteration changes the network "
                "between a forward pass and its repetition; set one of them to false"
            )
        self.activation_checkpointing = activation_checkpointing
        channels = [num_channels, *channels_for(image_size, CRITIC_CHANNELS, width)]
        self.event_shape, self.pooling = (num_channels, image_size, image_size), pooling
        pairs = list(zip(channels, channels[1:], strict=False))
        down = CRITIC_DOWNSAMPLES[image_size]
        self.blocks = nn.Sequential(*(DownBlock(a, b, i < down, i == 0) for i, (a, b) in enumerate(pairs)))
        self.last, self.num_classes = linear(channels[-1], 1), num_classes
        if num_classes:
            self.project = nn.Embedding(num_classes, channels[-1])
            uniform_(self.project.weight, math.sqrt(2 / (num_classes + channels[-1])))
        if spectral_norm:
            for layer in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]:
                normalise_spectrally(layer)

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
