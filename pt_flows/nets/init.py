"""Initialisations as the papers' code states them."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@torch.no_grad()
def uniform_(weight: Tensor, std: float) -> None:
    """Draw uniformly with mean 0 and the given standard deviation."""
    weight.uniform_(-std * math.sqrt(3), std * math.sqrt(3))


@torch.no_grad()
def normal_(module: nn.Module, std: float) -> None:
    """Draw every weight, batch-norm scales too, from N(0, std²) and set every bias to 0 (W1-FE's released code)."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, std)


@torch.no_grad()
def fan_in_(module: nn.Module) -> None:
    """Draw every weight from N(0, 1 / fan_in), cut off at two standard deviations, and set every bias to 0.

    This is the default of Sonnet and Haiku. The fan-in of a transposed convolution is its input channels times the area
    of its kernel.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            outputs = layer.weight.shape[1 if isinstance(layer, nn.ConvTranspose2d) else 0]
            std = math.sqrt(outputs / layer.weight.numel())
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def kaiming_(module: nn.Module) -> None:
    """Draw every weight from N(0, 1 / fan_in) and set every bias to 0 (DA-EBM's released code)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias) if layer.bias is not None else None


def normalise_spectrally(module: nn.Module) -> None:
    """Divide every weight by its largest singular value, with one power iteration per forward pass in training.

    Kernels are matrices of one row per output. Miyato et al. 2018, arXiv:1802.05957, Algorithm 1. Call it after the
    weights are drawn.
    """
    for layer in [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]:
        spectral_norm(layer)


def linear(num_in: int, num_out: int, he: bool = False) -> nn.Linear:
    """Linear layer, zero bias, uniform weights: Glorot, or He (fan in) for hidden ReLU layers of the WGAN-GP toys."""
    layer = nn.Linear(num_in, num_out)
    uniform_(layer.weight, math.sqrt(2 / num_in) if he else math.sqrt(2 / (num_in + num_out)))
    nn.init.zeros_(layer.bias)
    return layer


def conv(num_in: int, num_out: int, kernel: int, stride: int = 1, he: bool = True) -> nn.Conv2d:
    """Convolution that keeps the size (divided by stride), zero bias, WGAN-GP's uniform weights.

    The standard deviation is √(4 / (fan_in + fan_out)), or √(2 / ...) where `he` is False (shortcuts, outputs), with
    fan_out divided by stride².
    """
    layer = nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2)
    fan_in, fan_out = num_in * kernel**2, num_out * kernel**2 / stride**2
    uniform_(layer.weight, math.sqrt((4 if he else 2) / (fan_in + fan_out)))
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def deconv(num_in: int, num_out: int, kernel: int = 5, he: bool = True) -> nn.ConvTranspose2d:
    """Transposed convolution that doubles the size, zero bias, WGAN-GP's uniform weights (fan_in / stride²)."""
    layer = nn.ConvTranspose2d(num_in, num_out, kernel, stride=2, padding=kernel // 2, output_padding=1)
    fan_in, fan_out = num_in * kernel**2 / 4, num_out * kernel**2
    uniform_(layer.weight, math.sqrt((4 if he else 2) / (fan_in + fan_out)))
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer
