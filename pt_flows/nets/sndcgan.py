"""The convolutional pair of SN-GAN that ODE-GAN trains, for images of 8, 16, 28, 32, 48, 64, 128, ... pixels.

Miyato et al. 2018, Spectral Normalization for GANs, arXiv:1802.05957, by default without spectral norm, with the
initialisation of ODE-GAN's released code. At 32 pixels and width 64 the pair has 3,812,355 and 2,935,873 parameters.
The discriminator of that code has two logits instead of one, and 8,193 parameters more. Other sizes have as many stages
as `stages` in sizes.py says: a generator of 28 pixels goes from 7x7 to 14x14 to 28x28.
"""

import torch
from torch import Tensor, nn

from pt_flows.bounds import Count, Fraction, NonNegative
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.nets.init import fan_in_, normalise_spectrally
from pt_flows.nets.noise import noise_units, with_noise
from pt_flows.nets.sizes import stages


class SNDCGANGenerator(GeneratorNet):
    """Generator: linear to 4x4 (up to 7x7), transposed 4x4 convolutions that double the size, 3x3 convolution, tanh.

    Batch norm and ReLU follow every transposed convolution.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the last hidden layer; each level below has twice as many.
        latent_dim: Dimension of z ~ N(0, I).
        batch_norm_momentum: Weight of a new batch in the running statistics. The released code has 0.001; a run shorter
            than a few thousand iterations needs more.
        noise_std: First standard deviation of the noise inside every hidden layer (noise.py); 0 for none.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 64,
        latent_dim: Count = 128,
        batch_norm_momentum: Fraction = 0.001,
        noise_std: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        side, k = stages(self, image_size)
        self.latent_dim, self.event_shape = latent_dim, (num_channels, image_size, image_size)
        channels = [width * 2**i for i in reversed(range(k + 1))]
        first = nn.Linear(latent_dim, channels[0] * side**2)
        layers: list[nn.Module] = [first, nn.Unflatten(1, (channels[0], side, side))]
        for c_in, c_out in zip(channels, channels[1:], strict=False):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1),
                nn.BatchNorm2d(c_out, eps=1e-3, momentum=batch_norm_momentum),
                nn.ReLU(),
            ]
        net = nn.Sequential(*layers, nn.Conv2d(channels[-1], num_channels, 3, padding=1), nn.Tanh())
        fan_in_(net)
        shapes = [(c, side * 2**i, side * 2**i) for i, c in enumerate(channels[1:], 1)]
        self.net = with_noise(type(self).__name__, noise_std, net, shapes)
        self.latent_shape = (latent_dim + noise_units(self),)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, *latent_shape)."""
        return self.net(z[:, : self.latent_dim], z[:, self.latent_dim :])


class SNDCGANCritic(CriticNet):
    """Critic: alternating 3x3 and strided 4x4 convolutions, leaky ReLU 0.1, no normalisation, one linear output.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the first layer; each level below has twice as many.
        spectral_norm: Divide every weight by its largest singular value, with one power iteration per forward pass in
            training.
    """

    def __init__(
        self, image_size: int = 32, num_channels: Count = 3, width: Count = 64, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        side, k = stages(self, image_size)
        self.event_shape = (num_channels, image_size, image_size)
        layers: list[nn.Module] = [nn.Conv2d(num_channels, width, 3, padding=1), nn.LeakyReLU(0.1)]
        for i in range(k):
            c = width * 2**i
            layers += [nn.Conv2d(c, c, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(c, 2 * c, 3, padding=1), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 2**k * side**2, 1))
        fan_in_(self.net)
        if spectral_norm:
            normalise_spectrally(self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,) at images (B, C, H, W)."""
        return torch.squeeze(self.net(x), 1)
