"""Sizes of the networks against the papers' code, shapes, and refusals."""

import pytest
import torch
from torch import nn

from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.nets import (
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPGenerator,
    ResidualMLPGenerator,
    ResNetCritic,
    ResNetGenerator,
)

# parameters counted in the released WGAN-GP scripts
COUNTS = [
    (DCGANGenerator(), 5_179_907),
    (DCGANCritic(), 4_114_689),
    (ResNetGenerator(), 1_204_483),
    (ResNetCritic(), 1_053_825),
    (MLPGenerator(width=512), 527_874),
    (MLPCritic(width=512), 527_361),
]


@pytest.mark.parametrize(("net", "count"), COUNTS, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_number_of_parameters(net: nn.Module, count: int) -> None:
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kind", ["dcgan", "resnet"])
def test_shapes(size: int, kind: str) -> None:
    G: GeneratorNet = {"dcgan": DCGANGenerator, "resnet": ResNetGenerator}[kind](size, width=4)
    D: CriticNet = {"dcgan": DCGANCritic, "resnet": ResNetCritic}[kind](size, width=4)
    x = G(torch.randn(2, *G.latent_shape))
    assert x.shape == (2, *G.event_shape) == (2, 3, size, size)
    assert D.event_shape == G.event_shape
    assert D(x).shape == (2,)
    assert x.abs().max() <= 1


@pytest.mark.parametrize("make", [DCGANGenerator, DCGANCritic, ResNetGenerator, ResNetCritic])
def test_impossible_sizes_are_refused(make: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"image_size must be .* got 48"):
        make(image_size=48)


def test_residual_generator_starts_near_the_identity() -> None:
    G, z = ResidualMLPGenerator(), torch.randn(64, 2)
    assert (G(z) - z).abs().max() < 1e-3


@pytest.mark.parametrize("critic", [DCGANCritic(width=4), ResNetCritic(width=4), MLPCritic(event_shape=(3, 32, 32))])
def test_critics_treat_samples_independently(critic: CriticNet) -> None:
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x)[0], x)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


def test_spectral_norm_bounds_every_weight() -> None:
    D = ResNetCritic(width=8, spectral_norm=True, pooling="sum").train()
    for _ in range(50):
        D(torch.zeros(1, 3, 32, 32))
    D.eval()
    for layer in (m for m in D.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        top = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert top.item() == pytest.approx(1.0, abs=0.05)


def test_normal_initialisation_of_the_released_code() -> None:
    critic = MLPCritic(width=400, depth=3, init_std=0.1)
    hidden = critic.net[2]
    assert isinstance(hidden, nn.Linear)
    assert hidden.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert all(bool((p == 0).all()) for name, p in critic.named_parameters() if name.endswith("bias"))
