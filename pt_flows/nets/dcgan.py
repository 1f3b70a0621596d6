"""The DCGAN pair of WGAN-GP's released CIFAR-10 script, for images of 8, 16, 28, 32, 48, 64, 128, ... pixels.

Gulrajani et al. 2017, Improved Training of Wasserstein GANs, arXiv:1704.00028. At 32 pixels and width 128 the pair has
5,179,907 and 4,114,689 parameters, as in that script. Other sizes have as many stages as `stages` in sizes.py says: a
generator of 28 pixels goes from 7x7 to 14x14 to 28x28. Departures: transposed and strided convolutions pad
symmetrically, half a pixel off TensorFlow's "same" padding; the released MNIST script starts at 4x4 and crops 8x8 to
7x7.
"""

from torch import Tensor, nn

from pt_flows.bounds import Count, NonNegative
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.nets.init import conv, deconv, linear, normalise_spectrally
from pt_flows.nets.noise import noise_units, with_noise
from pt_flows.nets.sizes import stages


class DCGANGenerator(GeneratorNet):
    """Generator: linear to 4x4 (up to 7x7), transposed 5x5 convolutions that double the size, tanh.

    Batch norm and ReLU are between the layers.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the last hidden layer; each level below has twice as many.
        latent_dim: Dimension of z ~ N(0, I).
        batch_norm: Batch norm in every hidden layer.
        noise_std: First standard deviation of the noise inside every hidden layer (noise.py); 0 for none.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: Count = 3,
        width: Count = 128,
        latent_dim: Count = 128,
        batch_norm: bool = True,
        noise_std: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        side, k = stages(self, image_size)
        self.latent_dim, self.event_shape = latent_dim, (num_channels, image_size, image_size)
        channels = [width * 2**i for i in reversed(range(k))]
        first = channels[0] * side**2
        layers: list[nn.Module] = [linear(latent_dim, first)]
        layers += [
            *([nn.BatchNorm1d(first)] if batch_norm else []),
            nn.ReLU(),
            nn.Unflatten(1, (channels[0], side, side)),
        ]
        for c_in, c_out in zip(channels, channels[1:], strict=False):
            layers += [deconv(c_in, c_out), *([nn.BatchNorm2d(c_out)] if batch_norm else []), nn.ReLU()]
        net = nn.Sequential(*layers, deconv(channels[-1], num_channels), nn.Tanh())
        shapes = [(first,), *((c, side * 2**i, side * 2**i) for i, c in enumerate(channels[1:], 1))]
        self.net = with_noise(type(self).__name__, noise_std, net, shapes)
        self.latent_shape = (latent_dim + noise_units(self),)

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] from latents (B, *latent_shape)."""
        return self.net(z[:, : self.latent_dim], z[:, self.latent_dim :])


class DCGANCritic(CriticNet):
    """Critic: strided 5x5 convolutions with leaky ReLU 0.2, no normalisation, then one linear output.

    Args:
        image_size: Height and width: 4, 5, 6 or 7 times a power of two, from 8 on (28 -> 14 -> 7).
        num_channels: Colour channels, any number.
        width: Channels of the first layer; each level below has twice as many.
        spectral_norm: Divide every weight by its largest singular value, with one power iteration per forward pass in
            training.
    """

    def __init__(
        self, image_size: int = 32, num_channels: Count = 3, width: Count = 128, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        side, k = stages(self, image_size)
        self.event_shape = (num_channels, image_size, image_size)
        channels = [num_channels, *(width * 2**i for i in range(k))]
        layers: list[nn.Module] = []
        for c_in, c_out in zip(channels, channels[1:], strict=False):
            layers += [conv(c_in, c_out, 5, stride=2), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Flatten(), linear(channels[-1] * side**2, 1))
        if spectral_norm:
            normalise_spectrally(self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Values (B,) at images (B, C, H, W)."""
        return self.net(x).squeeze(1)
