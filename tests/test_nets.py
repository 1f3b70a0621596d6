"""Sizes of the networks against the papers' code, shapes, and refusals."""

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

import pt_flows.nets
from pt_flows.construction import path_of
from pt_flows.contracts import CriticNet, EnergyNet, GeneratorNet
from pt_flows.errors import UserError
from pt_flows.nets import (
    ConvEnergy,
    ConvFlow,
    ConvTransportMap,
    DCGANCritic,
    DCGANGenerator,
    MLPCritic,
    MLPGenerator,
    MultiScaleEnergy,
    ResidualMLPGenerator,
    ResNetCritic,
    ResNetGenerator,
    SNDCGANCritic,
    SNDCGANGenerator,
    TimeResNetEnergy,
)
from pt_flows.nets.energy import OneScaleEnergy
from pt_flows.nets.resnet import ClassBatchNorm2d

# parameters counted in the released WGAN-GP scripts
COUNTS = [
    (DCGANGenerator(), 5_179_907),
    (DCGANCritic(), 4_114_689),
    (ResNetGenerator(), 1_204_483),
    (ResNetCritic(), 1_053_825),
    (MLPGenerator(width=512), 527_874),
    (MLPCritic(width=512), 527_361),
    # ODE-GAN's released code; its CIFAR-10 discriminator has a second logit, 8,193 parameters more
    (SNDCGANGenerator(), 3_812_355),
    (SNDCGANCritic(), 2_944_066 - 8_193),
    (MLPGenerator(latent_dim=32, width=25, depth=2), 1_527),
    (MLPCritic(width=25, depth=2), 751),
]


GENERATORS = {
    "dcgan": DCGANGenerator, "resnet": ResNetGenerator, "sndcgan": SNDCGANGenerator, "map": ConvTransportMap,
    "flow": partial(ConvFlow, num_steps=1, integrator="euler"),
}  # fmt: skip
CRITICS = {"dcgan": DCGANCritic, "resnet": ResNetCritic, "sndcgan": SNDCGANCritic}
ENERGIES = {"time": TimeResNetEnergy, "conv": ConvEnergy, "scales": MultiScaleEnergy}
IMAGE_SIZES = [16, 28, 32, 64, 128]


@pytest.mark.parametrize(("net", "count"), COUNTS, ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_number_of_parameters(net: nn.Module, count: int) -> None:
    assert sum(p.numel() for p in net.parameters()) == count


def connect(net: nn.Module) -> None:
    """Replace parameters that start at zero, which stop gradients."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def assert_every_weight_has_a_gradient(net: nn.Module) -> None:
    """Check weights only: a norm removes the bias of the layer before it."""
    lost = [name for name, p in net.named_parameters() if p.ndim > 1 and (p.grad is None or not p.grad.any())]
    assert not lost


@pytest.mark.parametrize("num_channels", [1, 4])
@pytest.mark.parametrize("size", IMAGE_SIZES)
@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_of_any_size(kind: str, size: int, num_channels: int) -> None:
    torch.manual_seed(0)
    G: GeneratorNet = GENERATORS[kind](size, num_channels, width=4)
    connect(G)
    x = G(torch.randn(2, *G.latent_shape))
    assert x.shape == (2, *G.event_shape) == (2, num_channels, size, size)
    assert kind in ("map", "flow") or x.abs().max() <= 1
    x.square().sum().backward()
    assert_every_weight_has_a_gradient(G)
    assert all(p.grad is not None for p in G.parameters())


@pytest.mark.parametrize("num_channels", [1, 4])
@pytest.mark.parametrize("size", IMAGE_SIZES)
@pytest.mark.parametrize("kind", [*CRITICS, *ENERGIES])
def test_critics_and_energies_of_any_size(kind: str, size: int, num_channels: int) -> None:
    """They have a first derivative for every parameter, and a penalty on slopes has one for every weight."""
    torch.manual_seed(0)
    net: CriticNet | EnergyNet = (CRITICS | ENERGIES)[kind](size, num_channels, width=4)
    connect(net)
    x, labels = torch.randn(2, num_channels, size, size, requires_grad=True), torch.tensor([0, 1])
    u = net(x, labels) if kind == "time" else net(x)
    assert u.shape == (2,)
    assert net.event_shape == x.shape[1:]
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    slope.square().sum().backward(retain_graph=True)
    assert_every_weight_has_a_gradient(net)
    net.zero_grad()
    u.square().sum().backward()
    assert_every_weight_has_a_gradient(net)
    assert all(p.grad is not None for p in net.parameters())


HALVES = r"expected 4, 5, 6 or 7 times a power of two \(16, 28, 32, 48, 64, ...\), got {}. Resize the images"
SIZED = [*(cls for kind, cls in GENERATORS.items() if kind != "flow"), ConvFlow, *CRITICS.values()]
REFUSED_IMAGES = [
    *((cls, size, HALVES) for cls in SIZED for size in (0, 4, 7, 30, 36, 72)),
    *((TimeResNetEnergy, size, "expected a multiple of 4 from 8 on, got {}. Resize") for size in (-8, 4, 30)),
    (ConvEnergy, 7, "expected at least 8, got {}"),
    (MultiScaleEnergy, 15, "expected at least 16, got {}"),
]


@pytest.mark.parametrize(("cls", "size", "message"), REFUSED_IMAGES)
def test_impossible_image_sizes_are_refused(cls: type[nn.Module], size: int, message: str) -> None:
    with pytest.raises(UserError, match=rf"^{cls.__name__}\.image_size: {message.format(size)}"):
        cls(image_size=size)


@pytest.mark.parametrize(("size", "sides"), [(8, [8, 4]), (28, [28, 14, 7]), (48, [48, 24, 12, 6]), (20, [20, 10, 5])])
def test_images_are_halved_evenly(size: int, sides: list[int]) -> None:
    """The maps of a critic have the sides that sizes.py names."""
    found = []
    D = DCGANCritic(size, width=2)
    for layer in D.net:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, out: found.append(out.shape[-1]))
    D(torch.zeros(1, 3, size, size))
    assert [size, *found] == sides


WIDENING = [
    (8, [1, 1], [1, 1, 1, 1], 1),
    *((size, [1, 1, 1], [1, 1, 1, 1], 2) for size in (16, 28)),
    *((size, [1, 1, 1, 1], [1, 1, 1, 1], 2) for size in (32, 48)),
    (64, [8, 8, 4, 2, 1], [1, 2, 4, 8, 8], 4),
    (128, [16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], 5),
]


@pytest.mark.parametrize(("size", "generator", "critic", "halvings"), WIDENING)
def test_residual_pairs_widen_from_64_pixels(size: int, generator: list[int], critic: list[int], halvings: int) -> None:
    G, D = ResNetGenerator(size, width=3), ResNetCritic(size, width=3)
    inputs = [block.conv1.in_channels for block in G.blocks]
    assert [*inputs, G.last.in_channels] == [3 * m for m in generator]
    assert [block.conv1.out_channels for block in D.blocks] == [3 * m for m in critic]
    assert [block.down for block in D.blocks] == [i < halvings for i in range(len(critic))]


def test_levels_that_do_not_halve_evenly_are_refused() -> None:
    """The energy with labels checks levels; it pads 28 pixels to 32 and 12 to 16 first."""
    for size, most in ((8, 4), (12, 5), (16, 5), (24, 4), (28, 6), (64, 7)):
        TimeResNetEnergy(size, 1, 2, [1] * most)(torch.zeros(1, 1, size, size), torch.zeros(1))
        with pytest.raises(UserError, match=rf"^TimeResNetEnergy\.multipliers: expected at most {most} levels"):
            TimeResNetEnergy(size, 1, 2, [1] * (most + 1))


def test_energies_round_halves_up() -> None:
    scales = MultiScaleEnergy(30, 1, width=4).scales
    assert [scale.event_shape for scale in scales] == [(1, 30, 30), (1, 15, 15), (1, 8, 8)]
    assert [scale.body(torch.zeros(1, *scale.event_shape)).shape[-1] for scale in scales] == [2, 2, 2]
    assert ConvEnergy(30, 1, width=4).net[:6](torch.zeros(1, 1, 30, 30)).shape[-1] == 4


def test_residual_generator_starts_near_the_identity() -> None:
    G, z = ResidualMLPGenerator(), torch.randn(64, 2)
    assert (G(z) - z).abs().max() < 1e-3


@pytest.mark.parametrize("critic", [DCGANCritic(width=4), ResNetCritic(width=4), MLPCritic(event_shape=(3, 32, 32))])
def test_critics_treat_samples_independently(critic: CriticNet) -> None:
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in critic.modules())
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x)[0], x)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().sum() == 0


@pytest.mark.parametrize(
    "D",
    [
        ResNetCritic(width=8, spectral_norm=True, pooling="sum"),
        DCGANCritic(width=8, spectral_norm=True),
        SNDCGANCritic(width=8, spectral_norm=True),
        MLPCritic((3, 32, 32), width=8, spectral_norm=True),
    ],
    ids=lambda net: type(net).__name__,
)
def test_spectral_norm_bounds_every_weight(D: CriticNet) -> None:
    D.train()
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


@pytest.mark.parametrize("size", [16, 28, 32, 64, 128])
def test_class_conditional_networks_use_their_labels(size: int) -> None:
    G, D = ResNetGenerator(size, width=4, num_classes=3), ResNetCritic(size, width=4, num_classes=3, pooling="sum")
    first = [m for m in G.modules() if isinstance(m, ClassBatchNorm2d)]
    assert len(first) == 2 * len(G.blocks)
    nn.init.normal_(first[0].shift.weight)
    z, y = torch.randn(4, 128), torch.tensor([0, 1, 2, 0])
    x = G.eval()(z, y)
    assert x.shape == (4, 3, size, size)
    assert not torch.allclose(x, G(z, (y + 1) % 3))
    assert D(x, y).shape == (4,)
    assert not torch.allclose(D(x, y), D(x, (y + 1) % 3))


def test_projection_is_the_inner_product_with_the_class_vector() -> None:
    D = ResNetCritic(width=4, num_classes=3)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([2, 1])
    pooled = torch.relu(D.blocks(x)).mean((2, 3))
    torch.testing.assert_close(
        D(x, y) - D.last(pooled).squeeze(1), torch.einsum("bc,bc->b", D.project.weight[y], pooled)
    )


def test_class_batch_norm_starts_as_plain_batch_norm() -> None:
    x, y = torch.randn(6, 5, 4, 4), torch.randint(3, (6,))
    torch.testing.assert_close(ClassBatchNorm2d(5, 3)(x, y), nn.BatchNorm2d(5)(x))


def test_fan_in_initialisation() -> None:
    """Truncated at two standard deviations of 1/√fan_in; the deviation after the cut is 0.8796 of it."""
    G = SNDCGANGenerator()
    for layer, fan_in in ((G.net[0], 128), (G.net[2], 512 * 16), (G.net[-2], 64 * 9)):
        std = fan_in**-0.5
        assert layer.weight.abs().max() <= 2 * std
        assert layer.weight.std().item() == pytest.approx(0.8796 * std, rel=0.05)
        assert not layer.bias.any()
    assert MLPCritic(width=25, init_std="fan_in").net[2].weight.abs().max() <= 0.4


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("image_size", [32, 64])
def test_activation_checkpointing_changes_memory_and_nothing_else(image_size: int, num_classes: int) -> None:
    """This includes second derivatives and batch norm's running statistics."""
    torch.set_default_dtype(torch.float64)
    y = (torch.arange(4) % num_classes,) if num_classes else ()
    x, z = torch.randn(4, 3, image_size, image_size), torch.randn(4, 128)
    found, kept, sizes = [], [], dict[int, int]()
    same: Callable[[torch.Tensor], torch.Tensor] = lambda t: t
    for again in (False, True):
        torch.manual_seed(0)
        D = ResNetCritic(image_size, width=8, num_classes=num_classes, activation_checkpointing=again)
        G = ResNetGenerator(image_size, width=8, num_classes=num_classes, activation_checkpointing=again)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.update({t.data_ptr(): t.nbytes}), t)[1], same):
            values, images = D(x, *y), G(z, *y)
        kept.append(sum(sizes.values()))
        sizes.clear()
        u = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(D(u, *y).sum(), u, create_graph=True)
        penalty = slope.flatten(1).square().sum(1).mean()
        gradients = torch.autograd.grad(penalty + values.sum(), list(D.parameters()))
        gradients += torch.autograd.grad(images.square().sum(), list(G.parameters()))
        found.append([*gradients, *G.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[1] < 0.5 * kept[0]


def test_activation_checkpointing_with_spectral_norm_is_refused() -> None:
    with pytest.raises(UserError, match=r"^ResNetCritic\.activation_checkpointing: expected false with spectral"):
        ResNetCritic(spectral_norm=True, activation_checkpointing=True)


SIZES = (
    "image_size", "num_channels", "dim", "hidden", "width", "depth", "latent_dim", "num_levels", "input_scale",
    "latent_std", "bound",
)  # fmt: skip
REFUSED: dict[str, list[object]] = {
    **{name: [0, -1] for name in SIZES}, "event_shape": [(), (0,), (2, -1)], "multipliers": [(), (1, 0)]
}  # fmt: skip
NETWORKS = [getattr(pt_flows.nets, name) for name in pt_flows.nets.__all__]


@pytest.mark.parametrize("name", pt_flows.nets.__all__)
def test_checkpoints_name_networks_by_their_room_alone(name: str) -> None:
    """A network may move to another file of the room."""
    assert path_of(getattr(pt_flows.nets, name)) == f"pt_flows.nets.{name}"


@pytest.mark.parametrize("cls", [*NETWORKS, OneScaleEnergy], ids=lambda cls: cls.__name__)
def test_sizes_that_leave_no_network_are_refused(cls: type[nn.Module]) -> None:
    """Every class checks every size of its constructor, whoever calls it."""
    sizes = [name for name in inspect.signature(cls).parameters if name in REFUSED]
    assert sizes
    for name in sizes:
        for value in REFUSED[name]:
            with pytest.raises(UserError, match=rf"^{cls.__name__}\.{name}: expected .*, got "):
                cls(**{name: value})


def test_energies_of_several_scales_name_the_width_that_they_need() -> None:
    with pytest.raises(UserError, match=r"^OneScaleEnergy\.width: expected at least 4 with attention, got 2"):
        MultiScaleEnergy(width=2)
    with pytest.raises(UserError, match="expected a multiple of 32 if there are more than 128 channels, got 100"):
        MultiScaleEnergy(width=100)
    with pytest.raises(UserError, match=r"^OneScaleEnergy\.num_levels: expected at most 5 for 32 pixels, got 6"):
        OneScaleEnergy(num_levels=6)
    MultiScaleEnergy(width=2, attention=False)
