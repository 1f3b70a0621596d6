"""The convolutional pair of SN-GAN that ODE-GAN was trained with on CIFAR-10, for any size 4 · 2^k.

Miyato et al. 2018, Spectral Normalization for GANs, arXiv:1802.05957, without spectral norm, with the initialisation of
ODE-GAN's released code. At 32 pixels and width 64 the pair has 3,812,355 and 2,935,873 parameters; the discriminator of
that code has two logits instead of one, and 8,193 parameters more.
"""

import torch
from torch import Tensor, nn

from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.nets.init import check_sizes, fan_in_, num_doublings


class SNDCGANGenerator(GeneratorNet):
    """Linear to 4x4, transposed 4x4 convolutions that double the size (batch norm, ReLU), 3x3 convolution, tanh.

    Args:
        image_size: Height and width; 4 times a power of two.
        num_channels: Colour channels.
        width: Channels of the last hidden layer; each level below has twice as many.
        latent_dim: Dimension of z ~ N(0, I).
        batch_norm_momentum: Weight of a new batch in the running statistics; 0.001 in the released code, where a run
            shorter than a few thousand iterations needs more.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        batch_norm_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width, latent_dim=latent_dim)
        k = num_doublings(image_size)
        self.latent_shape, self.event_shape = (latent_dim,), (num_channels, image_size, image_size)
        channels = [width * 2**i for i in reversed(range(k + 1))]
        layers: list[nn.Module] = [nn.Linear(latent_dim, channels[0] * 16), nn.Unflatten(1, (channels[0], 4, 4))]
        for c_in, c_out in zip(channels, channels[1:], strict=False):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1),
                nn.BatchNorm2d(c_out, eps=1e-3, momentum=batch_norm_momentum),
                nn.ReLU(),
            ]
        self.net = nn.Sequential(*layers, nn.Conv2d(channels[-1], num_channels, 3, padding=1), nn.Tanh())
        fan_in_(self.net)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, latent_dim)."""
        return self.net(z)


class SNDCGANCritic(CriticNet):
    """3x3 and strided 4x4 convolutions in turn, leaky ReLU 0.1 after each, no normalisation, one linear output.

    Args:
        image_size: Height and width; 4 times a power of two.
        num_channels: Colour channels.
        width: Channels of the first layer; each level below has twice as many.
    """

    def __init__(self, image_size: int = 32, num_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        check_sizes(self, num_channels=num_channels, width=width)
        k = num_doublings(image_size)
        self.event_shape = (num_channels, image_size, image_size)
        layers: list[nn.Module] = [nn.Conv2d(num_channels, width, 3, padding=1), nn.LeakyReLU(0.1)]
        for i in range(k):
            c = width * 2**i
            layers += [nn.Conv2d(c, c, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            layers += [nn.Conv2d(c, 2 * c, 3, padding=1), nn.LeakyReLU(0.1)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 2**k * 16, 1))
        fan_in_(self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,) at images (B, C, H, W)."""
        return torch.squeeze(self.net(x), 1)
