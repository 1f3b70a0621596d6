"""Noise inside generators: closed forms of the layer and of linear generators, training and sampling."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import ROOT, Adam, build, data, fit
from torch import Tensor, nn
from torch.testing import assert_close as close

from pt_flows.cli.main import main
from pt_flows.contracts import GeneratorNet
from pt_flows.data import Toy2D
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.functional.transport import Gaussian, gaussian_wasserstein2, sorting_map
from pt_flows.functional.variance import variance_from
from pt_flows.nets import DCGANGenerator, MLPGenerator, ResidualMLPGenerator, ResNetGenerator, SNDCGANGenerator
from pt_flows.nets.noise import Layers, StochasticLayer, noise_parts, noise_units
from pt_flows.training.ema import EMA
from pt_flows.training.players import Generator

IMAGES = {"image_size": 16, "num_channels": 1, "width": 4, "latent_dim": 3}
GENERATORS: dict[str, Callable[..., GeneratorNet]] = {
    "mlp": partial(MLPGenerator, width=8, batch_norm=True),
    "mlp-images": partial(MLPGenerator, event_shape=(1, 4, 4), width=8, latent_std=0.5),
    "residual": partial(ResidualMLPGenerator, width=8, init_std=0.3),
    "residual-images": partial(ResidualMLPGenerator, event_shape=(1, 4, 4), width=8, bound=2.0),
    "dcgan": partial(DCGANGenerator, **IMAGES),
    "sndcgan": partial(SNDCGANGenerator, **IMAGES),
    "resnet": partial(ResNetGenerator, **IMAGES),
    "resnet-classes": partial(ResNetGenerator, **IMAGES, num_classes=3),
}
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)


def made(name: str, noise_std: float = 0.0) -> Any:
    """A generator from seed 0."""
    torch.manual_seed(0)
    return GENERATORS[name](noise_std=noise_std)


def inputs(net: GeneratorNet, z: Tensor) -> tuple[Tensor, ...]:
    return (z, LABELS[: len(z)]) if net.num_classes else (z,)


def stochastic(*sigmas: float) -> StochasticLayer:
    """A layer of units with given standard deviations."""
    layer = StochasticLayer("Generator", 0.1, len(sigmas))
    with torch.no_grad():
        layer.rho.copy_(torch.cat([StochasticLayer("Generator", sigma, 1).rho for sigma in sigmas]))
    return layer


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return layer


def matrix(net: Layers, num_in: int) -> Tensor:
    """The matrix of a linear generator, from latents with noise (num_in + units) to samples."""
    basis = torch.eye(num_in + noise_units(net))
    return net(basis[:, :num_in], basis[:, num_in:]).detach().T


def standard_normal(num: int = 200_000) -> Tensor:
    """Midpoints of equally likely cells, so that means over them are integrals."""
    return torch.special.ndtri((torch.arange(num) + 0.5) / num)


# ------------------------------------------------------------------------------------------ the plain generator (T1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GENERATORS)
def test_without_noise_it_is_the_plain_generator_bit_for_bit(name: str, training: bool) -> None:
    plain, noisy = made(name).train(training), made(name, 0.3).train(training)
    z = torch.randn(4, math.prod(plain.latent_shape))
    silent = torch.cat([z, torch.zeros(4, noise_units(noisy))], 1)
    x = plain(*inputs(plain, z.view(4, *plain.latent_shape)))
    assert torch.equal(noisy(*inputs(noisy, silent)), x)
    assert noise_units(plain) == 0
    assert not [key for key in plain.state_dict() if "rho" in key]
    loud = torch.cat([z, torch.randn(4, noise_units(noisy))], 1)
    assert not torch.allclose(noisy(*inputs(noisy, loud)), x)


@pytest.mark.parametrize("name", GENERATORS)
def test_parts_of_the_latent(name: str) -> None:
    """The noise of every layer has its own place, and reaches this layer alone, in units of its own scale."""
    net = made(name, 0.3).eval()
    parts = noise_parts(net)
    ends = [part.stop for part in parts.values()]
    assert [part.start for part in parts.values()] == [0, *ends[:-1]]
    assert ends[-1] == math.prod(net.latent_shape) == parts["z"].stop + noise_units(net)
    u, seen = net.latent_std * torch.randn(4, *net.latent_shape), dict[str, Tensor]()
    for layer_name, layer in net.named_modules():
        if isinstance(layer, StochasticLayer):
            layer.register_forward_pre_hook(lambda _, args, key=layer_name: seen.update({key: args[1]}))
    net(*inputs(net, u))
    assert list(seen) == list(parts)[1:]
    for key, xi in seen.items():
        close(xi, u[:, parts[key]] / net.latent_std)


@pytest.mark.parametrize(("name", "count"), [("mlp", 3), ("residual", 3), ("dcgan", 2), ("sndcgan", 2), ("resnet", 5)])
def test_every_hidden_layer_has_noise_before_its_relu(name: str, count: int) -> None:
    """Sigma has one value per channel, and starts at the given one."""
    layers = [layer for layer in made(name, 0.3).modules() if isinstance(layer, StochasticLayer)]
    assert len(layers) == count
    for layer in layers:
        assert layer.sigma.shape == layer.shape[:1]
        close(layer.sigma, torch.full(layer.shape[:1], 0.3))


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("cls", [DCGANGenerator, SNDCGANGenerator, ResNetGenerator])
def test_noise_fits_images_of_other_sizes(cls: Any, size: int) -> None:
    G = cls(size, num_channels=1, width=2, latent_dim=3, noise_std=0.3)
    x = G(torch.randn(2, *G.latent_shape))
    assert x.shape == (2, 1, size, size)
    missing = torch.autograd.grad(x.square().sum(), [p for n, p in G.named_parameters() if n.endswith("rho")])
    assert all(bool(g.any()) for g in missing)


@pytest.mark.parametrize("value", [-0.1, 1e-3, 5e-4, 1.0, 3.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_bad_scales_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=r"^(MLP|ResNet)Generator\.noise_std: expected .*, got "):
        made(name, value)


def test_sigma_stays_within_its_bounds() -> None:
    layer = stochastic(0.1, 0.1)
    layer.rho.data = torch.tensor([-1e4, 1e4])
    close(layer.sigma.detach(), torch.tensor([1e-3, 1.0]))


# --------------------------------------------------------------------------------------- linear generators (T2, T3)


def test_covariance_of_a_linear_generator() -> None:
    """x = W₂(W₁z + σξ) has covariance W₂(W₁W₁ᵀ + σ²I)W₂ᵀ: rank 1 from a latent line without noise, 2 with it."""
    w1, w2 = torch.randn(3, 1), torch.randn(2, 3)
    plain, noisy = Layers(linear(w1), linear(w2)), Layers(linear(w1), stochastic(0.3, 0.5, 0.7), linear(w2))
    variance = torch.tensor([0.3, 0.5, 0.7]).square().diag()
    a, b = matrix(plain, 1), matrix(noisy, 1)
    close(a @ a.T, w2 @ w1 @ w1.T @ w2.T)
    close(b @ b.T, w2 @ (w1 @ w1.T + variance) @ w2.T)
    assert torch.linalg.eigvalsh(a @ a.T)[0].abs() < 1e-12
    assert torch.linalg.eigvalsh(b @ b.T)[0] > 0.01


def test_gap_of_linear_generators_with_a_latent_line() -> None:
    """The nearest one to N(0, diag(a², b²)) is at b in W2 without noise, and noise closes the gap."""
    a, b, s = 2.0, 0.6, 0.8
    target = Gaussian(torch.zeros(2), torch.tensor([[a**2, 0.0], [0.0, b**2]]))

    def distance(net: Layers) -> float:
        m = matrix(net, 1)
        return gaussian_wasserstein2(Gaussian(torch.zeros(2), m @ m.T), target).item()

    lengths, angles = torch.tensor([0.5, 1.5, a, 2.5]), torch.linspace(0, math.pi, 13)
    lines = [r * torch.stack([t.cos(), t.sin()])[:, None] for r in lengths for t in angles]
    assert distance(Layers(linear(torch.tensor([[a], [0.0]])))) == pytest.approx(b, abs=1e-6)
    assert min(distance(Layers(linear(w))) for w in lines) >= b - 1e-6
    first = linear(torch.tensor([[math.sqrt(a**2 - s**2)], [0.0]]))
    assert distance(Layers(first, stochastic(s, b), linear(torch.eye(2)))) == pytest.approx(0.0, abs=1e-6)


def test_learning_closes_the_gap_of_a_latent_line() -> None:
    """The squared distance is a function of the weights and of sigma: descent finds the smaller eigenvalue, or 0."""
    target = Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 0.7]]))
    smaller = torch.linalg.eigvalsh(target.covariance)[0].sqrt().item()
    found = []
    for layers in ([], [stochastic(0.1, 0.1)]):
        torch.manual_seed(1)
        net = Layers(linear(torch.randn(2, 1)), *layers, linear(torch.randn(2, 2)))
        basis, adam = torch.eye(1 + noise_units(net)), torch.optim.Adam(net.parameters(), lr=0.1)
        for _ in range(80):
            m = net(basis[:, :1], basis[:, 1:]).T
            loss = gaussian_wasserstein2(Gaussian(torch.zeros(2), m @ m.T + 1e-10 * torch.eye(2)), target)
            adam.zero_grad()
            loss.backward()
            adam.step()
        found.append(loss.item())
    assert found[0] == pytest.approx(smaller, abs=0.01)
    assert found[1] < 0.02


# ----------------------------------------------------------------------------------- one stochastic layer (T4, T5, T7)


def test_mean_of_a_relu_after_noise() -> None:
    """E max(0, μ + σξ) = μΦ(μ/σ) + σϕ(μ/σ)."""
    xi, mu, sigma = standard_normal(), 0.4, 0.7
    h = Layers(stochastic(sigma), nn.ReLU())(torch.full((len(xi), 1), mu), xi[:, None])
    normal = torch.distributions.Normal(0.0, 1.0)
    ratio = torch.tensor(mu / sigma)
    close(h.mean(), mu * normal.cdf(ratio) + sigma * normal.log_prob(ratio).exp(), rtol=0, atol=1e-5)
    assert h.mean().item() == pytest.approx(0.52365, abs=1e-5)


@pytest.mark.parametrize(
    ("f", "by_mu", "by_sigma"),
    [
        (lambda a: a**2, lambda mu, sigma: 2 * mu, lambda mu, sigma: 2 * sigma),
        (torch.cos, lambda mu, sigma: -math.sin(mu) * math.exp(-(sigma**2) / 2),
         lambda mu, sigma: -sigma * math.cos(mu) * math.exp(-(sigma**2) / 2)),
    ],
    ids=["square", "cosine"],
)  # fmt: skip
def test_gradients_flow_through_the_noise(f: Any, by_mu: Any, by_sigma: Any) -> None:
    """d/dμ E f(μ + σξ) = E f'(μ + σξ), and d/dσ = E f'(μ + σξ)ξ = σ E f''(μ + σξ)."""
    layer, xi, mu = stochastic(0.7), standard_normal()[:, None], torch.tensor(0.4, requires_grad=True)
    mean = f(layer(mu.expand(len(xi), 1), xi)).mean()
    in_mu, in_rho = torch.autograd.grad(mean, [mu, layer.rho])
    (slope,) = torch.autograd.grad(layer.sigma, layer.rho)
    assert in_mu.item() == pytest.approx(by_mu(0.4, 0.7), abs=1e-4)
    assert (in_rho / slope).item() == pytest.approx(by_sigma(0.4, 0.7), abs=1e-4)


def test_noise_after_the_last_affine_layer_makes_divergences_finite() -> None:
    """x = (z, 0) + σξ has a density, a mixture of Gaussians. Without noise, JS = log 2 against any density."""
    z, (s, t) = standard_normal(1_000), (0.5, 0.7)
    net = Layers(linear(torch.tensor([[1.0], [0.0]])), stochastic(s, t))
    centres = net(z[:, None], torch.zeros(len(z), 2)).detach()
    ticks = torch.linspace(-5, 5, 41)
    x, cell = torch.cartesian_prod(ticks, ticks), (ticks[1] - ticks[0]).square()
    normal = lambda mean, std: torch.distributions.Normal(mean, std).log_prob(x[:, None] if mean.dim() else x).sum(-1)
    log_p = normal(centres, torch.tensor([s, t])).logsumexp(1) - math.log(len(z))
    log_q = normal(torch.tensor(0.0), torch.tensor(1.0))
    variances = torch.tensor([1 + s**2, t**2])
    kl = (log_p.exp() * (log_p - log_q)).sum() * cell
    close(kl, 0.5 * (variances - 1 - variances.log()).sum(), rtol=0, atol=0.01)
    middle = torch.logaddexp(log_p, log_q) - math.log(2)
    js = 0.5 * (log_p.exp() * (log_p - middle) + log_q.exp() * (log_q - middle)).sum() * cell
    assert 0 < js.item() < 0.5 * math.log(2)
    # Without noise, the discriminator that asks whether the second coordinate is 0 is never wrong, so JS = log 2.
    right = [(centres[:, 1] == 0).double().mean(), (torch.randn(1_000, 2)[:, 1] != 0).double().mean()]
    close(math.log(2) + 0.5 * torch.stack(right).log().sum(), torch.tensor(math.log(2)))


def test_noise_raises_the_dimension_of_the_samples() -> None:
    """The Jacobian of a generator with a latent line has rank 1 almost everywhere, and 2 with noise."""
    for noise_std, rank in ((0.0, 1), (0.3, 2)):
        torch.manual_seed(0)
        G = MLPGenerator(latent_dim=1, width=32, depth=2, noise_std=noise_std)
        u = torch.randn(20, *G.latent_shape)
        # samples do not depend on one another, so the sum over the batch has the Jacobian of each
        jacobian = torch.autograd.functional.jacobian(lambda v, G=G: G(v).sum(0), u).transpose(0, 1)
        assert torch.linalg.matrix_rank(jacobian).tolist() == [rank] * 20


# ------------------------------------------------------------------------------------------------- approximation (T6)


def test_wider_generators_come_nearer_to_a_quantile_map() -> None:
    """W2(G#p, T#p) ≤ ‖G - T‖ in L²(p), and both fall with the width of a network that is fitted to T = F⁻¹ ∘ Φ."""
    z = standard_normal(1_000)[:, None]
    target = -torch.log1p(-torch.special.ndtr(z))  # quantiles of the exponential distribution
    distances, norms = [], []
    for width in (2, 4, 8, 16, 32):
        G = MLPGenerator(latent_dim=1, event_shape=(1,), width=width, depth=1)
        first, _, last = G.net
        knots = torch.linspace(-3, 3, width + 1)[:-1]
        with torch.no_grad():
            first.weight.fill_(1.0)
            first.bias.copy_(-knots)
            features = torch.cat([torch.relu(first(z)), torch.ones(len(z), 1)], 1)
            solution = torch.linalg.lstsq(features, target, driver="gelsd").solution
            last.weight.copy_(solution[:-1].T)
            last.bias.copy_(solution[-1])
            x = G(z)
        norms.append((x - target).square().mean().sqrt().item())
        distances.append((x[:, 0] - sorting_map(x[:, 0], target[:, 0])).square().mean().sqrt().item())
    assert all(w <= norm + 1e-9 for w, norm in zip(distances, norms, strict=True))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.02 * norms[0]


# -------------------------------------------------------------------------------------------------- variance (T8)


def test_variance_of_every_layer_of_a_linear_generator() -> None:
    w1, w2, w3 = torch.randn(3, 1), torch.randn(3, 3), torch.randn(2, 3)
    net = Layers(linear(w1), stochastic(0.3, 0.5, 0.7), linear(w2), stochastic(0.9, 0.2, 0.4), linear(w3))
    first, second = torch.tensor([0.3, 0.5, 0.7]).diag(), torch.tensor([0.9, 0.2, 0.4]).diag()
    u, fresh = torch.randn(40_000, 7), torch.randn(40_000, 7)
    part = lambda start, end: variance_from(lambda v: net(v[:, :1], v[:, 1:]), u, fresh, slice(start, end))
    expected = [m.square().sum() for m in (w3 @ w2 @ w1, w3 @ w2 @ first, w3 @ second)]
    found = [part(0, 1), part(1, 4), part(4, 7)]
    close(torch.stack(found), torch.stack(expected), rtol=0.04, atol=0)
    close(part(0, 7), torch.stack(expected).sum(), rtol=0.04, atol=0)
    close(part(1, 7), torch.stack(expected[1:]).sum(), rtol=0.04, atol=0)


def test_variance_splits_into_that_of_the_latent_and_that_of_the_noise() -> None:
    """Var(x) = Var(E[x | z]) + E Var(x | z), and a plain generator has no second term."""
    torch.manual_seed(0)
    G = MLPGenerator(latent_dim=1, width=16, depth=2, noise_std=0.9)
    z = torch.randn(150, 1, 1).expand(150, 150, 1)
    x = G(torch.cat([z, torch.randn(150, 150, 32)], 2).flatten(0, 1)).detach().view(150, 150, 2)
    within = x.var(1).sum(1).mean()
    between = x.mean(1).var(0).sum() - within / 150
    u, fresh = torch.randn(10_000, 33), torch.randn(10_000, 33)
    close(variance_from(G, u, fresh, slice(1, 33)), within, rtol=0.1, atol=0)
    close(variance_from(G, u, fresh, slice(0, 33)), within + between, rtol=0.1, atol=0)
    plain = MLPGenerator(latent_dim=1, width=16)
    assert variance_from(plain, u[:9, :1], fresh[:9, :1], slice(1, 1)).item() == 0


# ---------------------------------------------------------------------------------------- freshness and the stream (T9)


def test_noise_is_fresh_for_every_draw_sample_and_layer() -> None:
    torch.manual_seed(0)
    player = Generator(MLPGenerator(width=50, depth=2, latent_std=0.1, noise_std=0.3))
    method: Any = build("WGANGP")
    method.noise.seek(0)
    one, two = (player.latents(2_000, method.noise)[:, 2:] / 0.1 for _ in range(2))
    assert not bool((one == two).any())
    correlations = torch.corrcoef(torch.cat([one, two], 1).T) - torch.eye(200)
    assert correlations.abs().max() < 6 / math.sqrt(2_000)
    assert torch.corrcoef(one[:50]).fill_diagonal_(0).abs().max() < 0.6
    assert one.std().item() == pytest.approx(1, abs=0.01)


def test_the_noise_of_one_sample_moves_no_other() -> None:
    for name in ("mlp", "resnet"):
        G = made(name, 0.3).eval()
        u = torch.randn(4, *G.latent_shape)
        moved = u.clone()
        moved[1, noise_parts(G)["z"].stop :] = torch.randn(noise_units(G))
        changed = (G(moved) - G(u)).flatten(1).abs().amax(1) > 0
        assert changed.tolist() == [False, True, False, False]


# ---------------------------------------------------------------------------------------------- training and sampling


def test_persistent_targets_keep_their_noise() -> None:
    """The K inner steps see one latent with one noise, and critic steps see fresh ones."""
    torch.set_default_dtype(torch.float32)
    method, seen = build("W1FE", generator_noise=0.3), list[Tensor]()
    method.generator.network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    fit(method, data(iterations_per_block=1), max_steps=1)
    *others, first, second, third = seen
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert len(others) >= method.critic.steps
    assert not any(torch.equal(z, first) for z in others if z.shape == first.shape)


@pytest.mark.parametrize("integrator", ["heun", "rk4"])
def test_ode_gan_moves_sigma_too(integrator: str) -> None:
    torch.set_default_dtype(torch.float32)
    method = build("ODEGAN", generator_noise=0.3, integrator=integrator)
    fit(method, data(iterations_per_block=1), max_steps=2)
    layers = [layer for layer in method.generator.network.modules() if isinstance(layer, StochasticLayer)]
    assert len(layers) == 2
    assert all(bool((layer.sigma - 0.3).abs().max() > 1e-6) for layer in layers)


def test_the_average_has_its_own_sigma() -> None:
    G = MLPGenerator(width=8, noise_std=0.3)
    average, before = EMA(G, 0.9), G.net[1].rho.detach().clone()
    with torch.no_grad():
        G.net[1].rho += 1.0
    average.update(G, 1)
    share = 2 / 11
    close(average.network.net[1].rho, share * before + (1 - share) * (before + 1))


@pytest.mark.parametrize("num_classes", [0, 3])
def test_activation_checkpointing_with_noise(num_classes: int) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        G = ResNetGenerator(16, width=4, num_classes=num_classes, activation_checkpointing=again, noise_std=0.3)
        x = G(*inputs(G, torch.randn(4, *G.latent_shape)))
        found.append([x, *torch.autograd.grad(x.square().sum(), list(G.parameters())), *G.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_generator_with_noise_starts_from_no_data() -> None:
    """Its latent has the shape of samples without noise, so no message about shapes would help."""
    for net in (ResidualMLPGenerator(width=8, noise_std=0.3), MLPGenerator(width=8, noise_std=0.3)):
        with pytest.raises(UserError, match=r"^model\.generator\.network\.noise_std: expected 0, .* from data, got"):
            Generator(net).start_from(Toy2D())
    Generator(net).start_from(None)
    Generator(ResidualMLPGenerator(width=8)).start_from(Toy2D())


def test_samples_are_functions_of_the_seed_noise_included() -> None:
    """The noise is there in evaluation mode, too."""
    player = Generator(made("mlp", 0.3), Adam, ema_decay=0.9)
    one, again = (player.sample(5, rng=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, again)
    u, _ = player.inputs(5, None, torch.Generator().manual_seed(1))
    close(player.push(u), one, rtol=0, atol=0)
    u[:, noise_parts(player.network)["z"].stop :] = 0
    assert not torch.allclose(player.push(u), one)


def test_a_run_logs_sigma_and_its_checkpoint_draws(capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_default_dtype(torch.float32)
    code = main([
        "fit", "--config", str(ROOT / "configs/toy2d/wgan_gp.yaml"), "--model.generator.network.width", "8",
        "--model.generator.network.noise_std", "0.3", "--model.critic.network.width", "8", "--trainer.max_steps", "4",
        "--trainer.log_every_n_steps", "2", "--trainer.accelerator", "cpu", "--trainer.callbacks", "[]",
        "--data.batch_size", "16", "--data.iterations_per_block", "2", "--evaluation.metrics", "[]",
        "--run.wandb", "disabled", "--run.root", "runs",
    ])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    (log,) = Path("runs").glob("*/*/metrics.csv")
    rows = [row for row in csv.DictReader(log.open()) if row["train/loss_D"]]
    means = [[float(row[f"train/noise_std_generator_{i}"]) for i in (1, 2, 3)] for row in rows]
    assert len(means) == 2
    assert means[0] == pytest.approx([0.3] * 3, abs=0.02)
    assert means[0] != means[1]
    assert "train/noise_std_generator_4" not in rows[0]
    network = finished(log.parent).method.generator.network
    assert means[1] == pytest.approx(
        [m.sigma.mean().item() for m in network.modules() if isinstance(m, StochasticLayer)]
    )
    assert main(["sample", str(log.parent), "--n", "3", "--out", "three.npz"]) == 0, capsys.readouterr().err
