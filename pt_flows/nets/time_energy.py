"""Energies U(x, t) with a label t, the noise level, for toys and images: the networks of DA-EBM, low on data.

Zhang, Tan and Ou 2023, Persistently Trained, Diffusion-assisted Energy-based Models, arXiv:2304.10707.
Activations are smooth, because a sampler follows first derivatives and its training second ones.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import EnergyNet
from pt_flows.errors import UserError
from pt_flows.nets.init import kaiming_
from pt_flows.nets.sizes import filled, halved


class TimeEmbedding(nn.Module):
    """Embedding of a label: sinusoids at `dim` / 2 frequencies from 1 to 1/10,000, then two linear layers.

    Args:
        dim: Number of sinusoids.
        width: Units of both layers.
        activation: Activation between the layers.
    """

    frequencies: Tensor

    def __init__(self, dim: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, width), activation, nn.Linear(width, width))
        exponents = torch.arange(dim // 2) / (dim // 2 - 1)
        self.register_buffer("frequencies", (-math.log(10_000.0) * exponents).exp(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Vectors (B, width) for labels (B,)."""
        angles = t[:, None] * self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], 1))


def distinct(t: Tensor) -> tuple[Tensor, Tensor]:
    """The labels in t (B,), and for each entry its place among them, so that functions of t are computed once a label.

    On a GPU, where finding them would wait for the device, and under compilation these are t and 0 ... B - 1.
    """
    if t.is_cuda or torch.compiler.is_compiling():
        return t, torch.arange(len(t), device=t.device)
    return torch.unique(t, return_inverse=True)


class TimeMLPEnergy(EnergyNet):
    """Fully connected energy U(x, t) whose hidden units are gated by the label: DA-EBM's network for rings.

    h = act(L_1 x ⊙ P_1), then twice h = act(L h) ⊙ P, with P linear in act(e(t)). The gate is inside the activation in
    the first layer and outside in the others, as in the released code. It accepts samples of any shape.

    Args:
        event_shape: Shape of one sample.
        width: Units of a hidden layer.
        input_scale: As for MLPEnergy. The released code has 1.
    """

    takes_labels = True

    def __init__(self, event_shape: Sequence[Count] = (2,), width: Count = 128, input_scale: Positive = 1.0) -> None:
        super().__init__()
        filled(self, event_shape=event_shape)
        self.event_shape, self.input_scale = tuple(event_shape), input_scale
        self.embed = TimeEmbedding(128, width, nn.Softplus())
        self.layers = nn.ModuleList(nn.Linear(n, width) for n in (math.prod(self.event_shape), width, width))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.last = nn.Linear(width, 1)
        kaiming_(self)

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        """Gates P (B, width) of the three layers at labels (B,)."""
        labels, places = distinct(t)
        e = F.softplus(self.embed(labels))
        return tuple(gate(e).index_select(0, places) for gate in self.gates)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """U (B,) at x (B, *event_shape) and labels (B,)."""
        return self.at(x, *self.conditions(t))

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """U (B,) at x (B, *event_shape) with the gates of its labels."""
        return self.gated(self.entered(x), *conditions)

    def every(self, x: Tensor, labels: Tensor) -> Tensor:
        """U (B, L) at every one of the labels (L,)."""
        return self.gated(self.entered(x)[:, None], *self.conditions(labels))

    def entered(self, x: Tensor) -> Tensor:
        """The first layer (B, width), which does not know the label."""
        return self.layers[0](self.input_scale * x.flatten(1))

    def gated(self, h: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        """U (...) from the first layer (..., width) and gates that broadcast with it."""
        h = F.softplus(h * first)
        h = F.softplus(self.layers[1](h)) * second
        h = F.softplus(self.layers[2](h)) * third
        return -self.last(h).squeeze(-1)


class TimeBlock(nn.Module):
    """SiLU conv, plus the label's vector, SiLU conv, plus a shortcut, which is a convolution if the width changes."""

    def __init__(self, num_in: int, num_out: int, embedding: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(num_in, num_out, 3, 1, 1), nn.Conv2d(num_out, num_out, 3, 1, 1)
        self.shift = nn.Linear(embedding, num_out)
        self.shortcut = nn.Conv2d(num_in, num_out, 3, 1, 1) if num_in != num_out else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(B, num_in, H, W) and vectors (B, embedding) to (B, num_out, H, W)."""
        return self.shifted(x, self.shift(F.silu(e)))

    def shifted(self, x: Tensor, shift: Tensor) -> Tensor:
        """The same, given what is added for the label (B, num_out)."""
        h = self.conv1(F.silu(x)) + shift[..., None, None]
        return self.conv2(F.silu(h)) + self.shortcut(x)

    def every(self, x: Tensor, shift: Tensor) -> Tensor:
        """(B, num_in, H, W) and shifts (L, num_out) to all pairs (B L, num_out, H, W)."""
        h = (self.conv1(F.silu(x))[:, None] + shift[..., None, None]).flatten(0, 1)
        return self.conv2(F.silu(h)) + self.shortcut(x).repeat_interleave(len(shift), 0)


class TimeResNetEnergy(EnergyNet):
    """Residual energy U(x, t) for images of 8, 12, 16, ..., 28, 32, ..., 64, ..., 128, ... pixels: DA-EBM's network.

    There are four levels of one block, and all but the last are followed by average pooling. Then come SiLU, the sum
    over pixels and an inner product with a vector of the label. There is no normalisation and no attention. With width
    128 and one colour channel the network has 4,756,864 parameters: the released code's 4,757,121 less the 257 of a
    layer that it never uses. The released code has 28 pixels. At 64 and 128 pixels, a fifth or sixth multiplier keeps
    the last level at 4x4.

    Args:
        image_size: Height and width, a multiple of 4 from 8 on. If it is not a multiple of 8, the first convolution
            pads to the next one, as the released code does: 28 -> 32 -> 16 -> 8 -> 4.
        num_channels: Colour channels, any number.
        width: Channels of the first level.
        multipliers: Channels of each level in multiples of `width`. Every level but the last must halve the (padded)
            size evenly, so 16 pixels have at most five levels.
        zero_start: Start with U = 0, and average over pixels instead of summing, for a network that corrects a base
            (`base` of DAEBM).
    """

    takes_labels = True

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 128,
        multipliers: Sequence[Count] = (1, 2, 2, 2),
        zero_start: bool = False,
    ) -> None:
        super().__init__()
        filled(self, multipliers=multipliers)
        if image_size < 8 or image_size % 4:
            wanted = "expected a multiple of 4 from 8 on"
            raise UserError(f"TimeResNetEnergy.image_size: {wanted}, got {image_size}. Resize the images")
        padded = 8 * halved(image_size, 3)
        if padded % 2 ** (len(multipliers) - 1):
            wanted = f"at most {(padded & -padded).bit_length()} levels for {image_size} pixels"
            raise UserError(f"TimeResNetEnergy.multipliers: expected {wanted}, got {list(multipliers)}. Remove some")
        self.event_shape = (num_channels, image_size, image_size)
        channels = [width, *(m * width for m in multipliers)]
        self.embed = TimeEmbedding(128, 4 * width, nn.SiLU())
        self.stem = nn.Conv2d(num_channels, width, 3, 1, 1 + (padded - image_size) // 2)
        self.blocks = nn.ModuleList(TimeBlock(a, b, 4 * width) for a, b in zip(channels, channels[1:], strict=False))
        self.head = nn.Linear(4 * width, channels[-1])
        kaiming_(self)
        self.averages = zero_start
        if zero_start:
            nn.init.zeros_(self.head.weight)

    @property
    def levels(self) -> list[TimeBlock]:
        """The blocks from the full size down."""
        return [cast(TimeBlock, block) for block in self.blocks]

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        """Vectors that labels (B,) add to each block, and the vector of the inner product."""
        e = F.silu(self.embed(t))
        return *(block.shift(e) for block in self.levels), self.head(e)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """U (B,) at images (B, C, H, W) and labels (B,)."""
        return self.at(x, *self.conditions(t))

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """U (B,) at images (B, C, H, W), given what depends on their labels."""
        return self.ended(self.levels[0].shifted(self.stem(x), conditions[0]), *conditions[1:])

    def every(self, x: Tensor, labels: Tensor) -> Tensor:
        """U (B, L) at every one of the labels (L,); two convolutions of images do not know the label."""
        first, *others = self.conditions(labels)
        h = self.levels[0].every(self.stem(x), first)
        return self.ended(h, *(c.repeat(len(x), 1) for c in others)).view(-1, len(labels))

    def ended(self, h: Tensor, *conditions: Tensor) -> Tensor:
        """U (B,) from the first block, given what labels add to the others and the vector of the inner product."""
        *shifts, vector = conditions
        for block, shift in zip(self.levels[1:], shifts, strict=True):
            h = block.shifted(F.avg_pool2d(h, 2), shift)
        h = F.silu(h)
        pooled = h.mean((2, 3)) if self.averages else h.sum((2, 3))
        return -(pooled * vector).sum(1)
