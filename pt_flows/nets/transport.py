"""A transport map between images of one shape, of 8, 16, 28, 32, 48, 64, 128, ... pixels."""

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, Positive
from pt_flows.contracts import GeneratorNet
from pt_flows.nets.init import conv
from pt_flows.nets.sizes import stages


class ConvTransportMap(GeneratorNet):
    """Transport map G(z) = z + H(z) on images: H goes down to 4x4 and up again, with a skip connection on every level.

    This is the residual generator of W2-FE in a form for images. It maps Gaussian noise of the data's dimension, or
    images of another domain. H starts at zero, so G starts as the identity. Other sizes go down to 5x5, 6x6 or 7x7, as
    `stages` in sizes.py says. The last layer has no bound; samples are clipped where they are shown or measured.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels at full size. Each level below has twice as many, up to four times `width`.
        latent_std: Standard deviation of the source N(0, latent_std² I).
    """

    def __init__(
        self, image_size: int = 32, num_channels: Count = 3, width: Count = 64, latent_std: Positive = 1.0
    ) -> None:
        super().__init__()
        self.event_shape = self.latent_shape = (num_channels, image_size, image_size)
        self.latent_std = latent_std
        channels = [width * min(2**i, 4) for i in range(stages(self, image_size)[1] + 1)]
        self.first = conv(num_channels, width, 3)
        self.down = nn.ModuleList(conv(a, b, 3, stride=2) for a, b in zip(channels, channels[1:], strict=False))
        self.middle = conv(channels[-1], channels[-1], 3)
        self.up = nn.ModuleList(conv(b + a, a, 3) for a, b in reversed(list(zip(channels, channels[1:], strict=False))))
        self.last = conv(width, num_channels, 3)
        nn.init.zeros_(self.last.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) from images or noise of the same shape."""
        h = self.first(z)
        skips = []
        for layer in self.down:
            skips.append(h)
            h = layer(norm(h).relu())
        h = h + self.middle(norm(h).relu())
        for layer in self.up:
            h = nn.functional.interpolate(h, scale_factor=2)
            h = layer(norm(torch.cat([h, skips.pop()], 1)).relu())
        return z + self.last(norm(h).relu())


def norm(h: Tensor) -> Tensor:
    """Scale every sample to mean zero and variance one over its channels and pixels, without parameters."""
    return nn.functional.layer_norm(h, h.shape[1:])
