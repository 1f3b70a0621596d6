"""Energies U, low on data: for toys and images, with and without a noise level, at one scale or several.

Activations are smooth, because a sampler follows first derivatives and its training second ones.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.contracts import EnergyNet
from pt_flows.errors import UserError
from pt_flows.nets.init import check_sizes


class TimeEmbedding(nn.Module):
    """Sinusoids of a label at `dim` / 2 frequencies from 1 to 1/10,000, then two linear layers.

    Args:
        dim: Number of sinusoids.
        width: Units of both layers.
        activation: Between the layers.
    """

    frequencies: Tensor

    def __init__(self, dim: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, width), activation, nn.Linear(width, width))
        exponents = torch.arange(dim // 2) / (dim // 2 - 1)
        self.register_buffer("frequencies", (-math.log(10_000.0) * exponents).exp(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Vectors (B, width) of labels (B,)."""
        angles = t[:, None] * self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], 1))


@torch.no_grad()
def kaiming_(net: nn.Module) -> None:
    """Weights N(0, 1 / fan_in), zero biases: DA-EBM's released code."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias) if layer.bias is not None else None


class MLPEnergy(EnergyNet):
    """Fully connected energy with softplus layers.

    Args:
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        depth: Number of hidden layers.
        input_scale: What points are multiplied by first. Softplus units bend over a distance of one; for data with
            finer detail take the inverse of the scale at which the energy should bend.
    """

    def __init__(
        self, event_shape: Sequence[int] = (2,), width: int = 128, depth: int = 3, input_scale: float = 1.0
    ) -> None:
        super().__init__()
        check_sizes(self, event_shape=event_shape, width=width, depth=depth, input_scale=input_scale)
        self.event_shape, self.input_scale = tuple(event_shape), input_scale
        widths = [math.prod(self.event_shape), *[width] * depth]
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.Softplus())]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """U (B,) at x (B, *event_shape)."""
        return self.net(self.input_scale * x.flatten(1)).squeeze(1)


class TimeMLPEnergy(EnergyNet):
    """Fully connected energy U(x, t) whose hidden units are gated by the label: DA-EBM's network for rings.

    h = act(L_1 x ⊙ P_1), then twice h = act(L h) ⊙ P, with P linear in act(e(t)); the gate is inside the activation in
    the first layer and outside in the others, as in the released code.

    Args:
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        input_scale: As for MLPEnergy; 1 in the released code.
    """

    takes_labels = True

    def __init__(self, event_shape: Sequence[int] = (2,), width: int = 128, input_scale: float = 1.0) -> None:
        super().__init__()
        check_sizes(self, event_shape=event_shape, width=width, input_scale=input_scale)
        self.event_shape, self.input_scale = tuple(event_shape), input_scale
        self.embed = TimeEmbedding(128, width, nn.Softplus())
        self.layers = nn.ModuleList(nn.Linear(n, width) for n in (math.prod(self.event_shape), width, width))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 1)
        kaiming_(self)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """U (B,) at x (B, *event_shape) and labels (B,)."""
        e = F.softplus(self.embed(t))
        first, second, third = (gate(e) for gate in self.gates)
        h = F.softplus(self.layers[0](self.input_scale * x.flatten(1)) * first)
        h = F.softplus(self.layers[1](h)) * second
        h = F.softplus(self.layers[2](h)) * third
        return -self.last(h).squeeze(1)


class TimeBlock(nn.Module):
    """SiLU conv, plus the label's vector, SiLU conv; plus a shortcut, a convolution where the width changes."""

    def __init__(self, num_in: int, num_out: int, embedding: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(num_in, num_out, 3, 1, 1), nn.Conv2d(num_out, num_out, 3, 1, 1)
        self.shift = nn.Linear(embedding, num_out)
        self.shortcut = nn.Conv2d(num_in, num_out, 3, 1, 1) if num_in != num_out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(B, num_in, H, W) and vectors (B, embedding) to (B, num_out, H, W)."""
        h = self.conv1(F.silu(x)) + self.shift(F.silu(e))[..., None, None]
        return self.conv2(F.silu(h)) + self.shortcut(x)


class TimeResNetEnergy(EnergyNet):
    """Residual energy U(x, t) for 16, 28 or 32 pixels: DA-EBM's network for images.

    Four levels of one block, all but the last followed by average pooling; then SiLU, the sum over pixels and an inner
    product with a vector of the label. 4,756,864 parameters at width 128 with one colour channel: the released
    code's 4,757,121 less the 257 of a layer that it never uses. No normalisation, no attention.

    Args:
        image_size: 16, 28, which the first convolution pads to 32, or 32.
        num_channels: Colour channels.
        width: Channels of the first level.
        multipliers: Channels of each level in multiples of `width`; their number is that of the levels.
        zero_start: U begins as zero and averages over pixels instead of summing: for a network that corrects a base
            (`base` of DAEBM).
    """

    takes_labels = True

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width, multipliers=multipliers)
        if image_size not in (16, 28, 32):
            raise UserError(f"image_size must be 16, 28 or 32 for TimeResNetEnergy, got {image_size}")
        if len(multipliers) > 5:
            raise UserError(f"multipliers of TimeResNetEnergy: expected at most 5, got {list(multipliers)}")
        self.event_shape = (num_channels, image_size, image_size)
        channels = [width, *(m * width for m in multipliers)]
        self.embed = TimeEmbedding(128, 4 * width, nn.SiLU())
        self.stem = nn.Conv2d(num_channels, width, 3, 1, 3 if image_size == 28 else 1)
        self.blocks = nn.ModuleList(TimeBlock(a, b, 4 * width) for a, b in zip(channels, channels[1:], strict=False))
        self.head = nn.Linear(4 * width, channels[-1])
        kaiming_(self)
        self.averages = zero_start
        if zero_start:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """U (B,) at images (B, C, H, W) and labels (B,)."""
        e = self.embed(t)
        h = self.stem(x)
        for i, block in enumerate(self.blocks):
            h = block(h if i == 0 else F.avg_pool2d(h, 2), e)
        h = F.silu(h)
        pooled = h.mean((2, 3)) if self.averages else h.sum((2, 3))
        return -(pooled * self.head(F.silu(e))).sum(1)


class ConvEnergy(EnergyNet):
    """Plain convolutional energy U(x) without normalisation, for small images: 16 pixels on a CPU.

    Three SiLU convolutions that halve the size, of kernels 5, 3 and 3, to 1, 2 and 4 times the width. Then a SiLU layer
    of 64 units and a linear one.

    Args:
        image_size: Pixels of a side, a multiple of 8.
        num_channels: Colour channels.
        width: Channels of the first convolution.
    """

    def __init__(self, image_size: int = 16, num_channels: int = 1, width: int = 16) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width)
        if image_size < 8 or image_size % 8:
            raise UserError(f"image_size must be a multiple of 8 for ConvEnergy, got {image_size}")
        self.event_shape = (num_channels, image_size, image_size)
        layers: list[nn.Module] = []
        for channels, out, kernel in ((num_channels, width, 5), (width, 2 * width, 3), (2 * width, 4 * width, 3)):
            layers += [nn.Conv2d(channels, out, kernel, 2, kernel // 2), nn.SiLU()]
        units = 4 * width * (image_size // 8) ** 2
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

    Written out, because fused attention kernels have no second derivative.
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
    """Twice standardised convolution, norm, swish; plus the input; then, to halve the size, conv, pool, swish."""

    def __init__(self, channels: int, down_to: int | None = None) -> None:
        super().__init__()
        conv = lambda: StandardisedConv2d(channels, channels, 3, 1, 1)
        norm = lambda: nn.GroupNorm(channels if channels <= 128 else 32, channels)  # one group each: instance norm
        self.inside = nn.Sequential(conv(), norm(), nn.SiLU(), conv(), norm(), nn.SiLU())
        down = lambda out: nn.Sequential(nn.Conv2d(channels, out, 3, 1, 1), nn.AvgPool2d(3, 2, 1), nn.SiLU())
        self.after = nn.Identity() if down_to is None else down(down_to)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, or (B, down_to, H/2, W/2)."""
        return self.after(x + self.inside(x))


class OneScaleEnergy(EnergyNet):
    """Residual energy without a noise level: the energy of one scale in improved contrastive divergence.

    Args:
        image_size: Pixels of a side.
        num_channels: Colour channels.
        width: Channels of the first blocks.
        num_levels: Times the size is halved: the first time at the same width, each later time to twice the width.
        attention: Self-attention after the second halving, where there is one.
    """

    def __init__(
        self, image_size: int = 32, num_channels: int = 3, width: int = 64, num_levels: int = 4, attention: bool = True
    ) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width, num_levels=num_levels)
        if image_size < 2**num_levels:
            raise UserError(
                f"num_levels of {type(self).__name__}: {image_size} pixels cannot be halved {num_levels} times"
            )
        if attention and num_levels > 1 and width < 4:
            raise UserError(
                f"width of {type(self).__name__}: expected 4 or more with attention, got {width}; its queries have an "
                "eighth of 2 width channels"
            )
        if any(channels > 128 and channels % 32 for channels in (width, 2 * width)):
            raise UserError(
                f"width of {type(self).__name__}: expected a multiple of 32 where there are more than 128 channels, "
                f"got {width}; later levels have twice as many"
            )
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

    6,564,196 parameters with width 64 at 32 pixels, as in the released code but for what only classes use.

    Args:
        image_size: 32 or 64.
        num_channels: Colour channels.
        width: Channels of each scale's first blocks.
        attention: Self-attention in the full scale.
    """

    def __init__(self, image_size: int = 32, num_channels: int = 3, width: int = 64, attention: bool = True) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width)
        if image_size not in (32, 64):
            raise UserError(f"image_size must be 32 or 64 for MultiScaleEnergy, got {image_size}")
        self.event_shape = (num_channels, image_size, image_size)
        levels = int(math.log2(image_size)) - 1  # down to 2x2
        self.scales = nn.ModuleList(
            OneScaleEnergy(image_size >> s, num_channels, width, levels - s, attention and s == 0) for s in range(3)
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
