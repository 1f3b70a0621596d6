"""Energies U(x) for toys and images, at one scale or several, low on data.

Activations are smooth, because a sampler follows first derivatives and its training second ones.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.bounds import Bound, Count, Positive
from pt_flows.contracts import EnergyNet
from pt_flows.errors import UserError
from pt_flows.nets.sizes import filled, halved


class MLPEnergy(EnergyNet):
    """Fully connected energy with softplus layers, for samples of any shape.

    Args:
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        input_scale: Factor for samples before the first layer. Softplus units bend over a distance of one. For data
            with finer detail, use the inverse of the scale at which the energy should bend.
    """

    def __init__(
        self, event_shape: Sequence[Count] = (2,), width: Count = 128, depth: Count = 3, input_scale: Positive = 1.0
    ) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.input_scale = tuple(event_shape), input_scale
        widths = [math.prod(self.event_shape), *[width] * depth]
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.Softplus())]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """U (B,) at x (B, *event_shape)."""
        return self.net(self.input_scale * x.flatten(1)).squeeze(1)


class ConvEnergy(EnergyNet):
    """Plain convolutional energy U(x) without normalisation, for small images, such as 16 pixels on a CPU.

    Three SiLU convolutions of kernels 5, 3 and 3 halve the size, and have 1, 2 and 4 times the width. A SiLU layer of
    64 units and a linear one follow. This network is not from a paper.

    Args:
        image_size: Height and width, at least 8. Halves are rounded up: 28 -> 14 -> 7 -> 4.
        num_channels: Colour channels, any number.
        width: Channels of the first convolution.
    """

    def __init__(self, image_size: Annotated[int, Bound(8)] = 16, num_channels: Count = 1, width: Count = 16) -> None:
        super().__init__()
        self.event_shape = (num_channels, image_size, image_size)
        layers: list[nn.Module] = []
        for channels, out, kernel in ((num_channels, width, 5), (width, 2 * width, 3), (2 * width, 4 * width, 3)):
            layers += [nn.Conv2d(channels, out, kernel, 2, kernel // 2), nn.SiLU()]
        units = 4 * width * halved(image_size, 3) ** 2
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(units, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        """U (B,) at images (B, C, H, W)."""
        return self.net(x).squeeze(1)


class StandardisedConv2d(nn.Conv2d):
    """Convolution whose filters have mean zero and variance one (Qiao et al. 2019, arXiv:1903.10520), unscaled."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H, W)."""
        w = self.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w / (w.flatten(1).std(1)[:, None, None, None] + 1e-5)
        return F.conv2d(input, w, self.bias, self.stride, self.padding)


class SelfAttention(nn.Module):
    """Attention over pixels, added with a gain that starts at zero (Zhang et al. 2019, arXiv:1805.08318).

    It is written out, because fused attention kernels have no second derivative.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(channels, channels // 8, 1), nn.Conv2d(channels, channels // 8, 1)
        self.value, self.gain = nn.Conv2d(channels, channels, 1), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (q.transpose(1, 2) @ k).softmax(2)
        return x + self.gain * (v @ attention.transpose(1, 2)).view_as(x)


class StandardisedBlock(nn.Module):
    """Twice standardised convolution, norm, swish, plus the input. To halve the size, conv, pool and swish follow."""

    def __init__(self, channels: int, down_to: int | None = None) -> None:
        super().__init__()
        conv = lambda: StandardisedConv2d(channels, channels, 3, 1, 1)
        norm = lambda: nn.GroupNorm(channels if channels <= 128 else 32, channels)  # one group each: instance norm
        self.inside = nn.Sequential(conv(), norm(), nn.SiLU(), conv(), norm(), nn.SiLU())
        down = lambda out: nn.Sequential(nn.Conv2d(channels, out, 3, 1, 1), nn.AvgPool2d(3, 2, 1), nn.SiLU())
        self.after = nn.Identity() if down_to is None else down(down_to)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, or (B, down_to, H/2, W/2), rounded up."""
        return self.after(x + self.inside(x))


class OneScaleEnergy(EnergyNet):
    """Residual energy without a noise level: the energy of one scale in improved contrastive divergence.

    Du et al. 2021, arXiv:2012.01316.

    Args:
        image_size: Height and width, at least 2^num_levels. Halves are rounded up: 28 -> 14 -> 7 -> 4.
        num_channels: Colour channels, any number.
        width: Channels of the first blocks.
        num_levels: Number of halvings. The first one keeps the width, each later one doubles it.
        attention: Self-attention after the second halving, if there is one.
    """

    def __init__(
        self,
        image_size: Annotated[int, Bound(2)] = 32,
        num_channels: Count = 3,
        width: Count = 64,
        num_levels: Count = 4,
        attention: bool = True,
    ) -> None:
        super().__init__()
        if image_size < 2**num_levels:
            wanted = f"at most {image_size.bit_length() - 1} for {image_size} pixels"
            raise UserError(f"OneScaleEnergy.num_levels: expected {wanted}, got {num_levels}. Every level halves them")
        if attention and num_levels > 1 and width < 4:
            wanted = "at least 4 with attention"
            raise UserError(f"OneScaleEnergy.width: expected {wanted}, got {width}. Increase it or omit attention")
        if any(channels > 128 and channels % 32 for channels in (width, 2 * width)):
            wanted = "a multiple of 32 if there are more than 128 channels"
            raise UserError(f"OneScaleEnergy.width: expected {wanted}, got {width}. Later levels have twice as many")
        self.event_shape = (num_channels, image_size, image_size)
        blocks: list[nn.Module] = [nn.Conv2d(num_channels, width, 3, 1, 1)]
        for level in range(num_levels):
            wider = width if level == 0 else 2 * width
            blocks += [StandardisedBlock(width), StandardisedBlock(width, wider)]
            width = wider
            if attention and level == 1:
                blocks.append(SelfAttention(width))
        self.body, self.last = nn.Sequential(*blocks), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """U (B,) at images (B, C, H, W)."""
        return self.last(F.silu(self.body(x)).mean((2, 3))).squeeze(1)


class MultiScaleEnergy(EnergyNet):
    """Sum of energies of the image at full, half and quarter resolution: improved contrastive divergence's network.

    Du et al. 2021, arXiv:2012.01316. At 32 pixels and width 64 it has 6,564,196 parameters, as many as the released
    code uses without classes. Every scale goes down to 2x2, and a size twice as large has one more level of twice the
    width. The released code has other networks for MNIST and for CelebA at 128 pixels.

    Args:
        image_size: Height and width, at least 16. Halves are rounded up: 28 -> 14 -> 7 -> 4 -> 2.
        num_channels: Colour channels, any number.
        width: Channels of each scale's first blocks.
        attention: Self-attention in the full scale.
    """

    def __init__(
        self,
        image_size: Annotated[int, Bound(16)] = 32,
        num_channels: Count = 3,
        width: Count = 64,
        attention: bool = True,
    ) -> None:
        super().__init__()
        self.event_shape = (num_channels, image_size, image_size)
        levels = (image_size - 1).bit_length() - 1  # down to 2x2
        self.scales = nn.ModuleList(
            OneScaleEnergy(halved(image_size, s), num_channels, width, levels - s, attention and s == 0)
            for s in range(3)
        )

    def parts(self, x: Tensor) -> Tensor:
        """Energies (B, 3) of the three scales."""
        energies = []
        for scale in self.scales:
            energies.append(scale(x))
            x = F.avg_pool2d(x, 3, 2, 1)
        return torch.stack(energies, 1)

    def forward(self, x: Tensor) -> Tensor:
        """U (B,), their sum."""
        return self.parts(x).sum(1)
