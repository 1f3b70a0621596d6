"""Metrics that maps pull back to their latents, and shortest curves under them, against closed forms."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from problems import ROOT, write_digits
from torch import Tensor, nn
from torch.testing import assert_close as close

from pt_flows.cli.main import main
from pt_flows.data import MNIST, Toy2D
from pt_flows.errors import UserError
from pt_flows.evaluation import geodesic, geodesic_pictures
from pt_flows.evaluation.load import finished
from pt_flows.functional.geodesics import Network, SineSeries, gauss_legendre, geodesics
from pt_flows.functional.geometry import Metric, jacobian, kinks, measured, smoothed, straight_lines
from pt_flows.methods import ODEGAN
from pt_flows.nets import MLPGenerator, ResNetCritic, ResNetGenerator


def sphere(z: Tensor) -> Tensor:
    polar, azimuth = z.unbind(1)
    return torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], 1)


def disc(z: Tensor) -> Tensor:
    return torch.stack([z[:, 0] * z[:, 1].cos(), z[:, 0] * z[:, 1].sin()], 1)


def smooth_net(num_in: int = 3, num_out: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(num_in, 8), nn.Tanh(), nn.Linear(8, num_out)).double()


def pair(first: list[float], last: list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor([first]), torch.tensor([last])


def started(family: Any, z0: Tensor, z1: Tensor) -> list[Tensor]:
    """Parameters of random bends."""
    return family.start(z0, z1, torch.randn(len(z0), 3, z0.shape[1], dtype=z0.dtype), torch.Generator().manual_seed(1))


FAMILIES = [SineSeries(), Network(width=20)]


# ------------------------------------------------------------------------------------------------------------- metrics


def test_metric_of_a_linear_map() -> None:
    """G = MᵀM everywhere, MF = sqrt(det MᵀM), geodesics are straight and have the length ‖M (z1 - z0)‖."""
    M = torch.randn(4, 2, dtype=torch.float64)
    metric, z = Metric(lambda z: z @ M.T), torch.randn(6, 2, dtype=torch.float64)
    close(metric(z), (M.T @ M).expand(6, 2, 2))
    close(metric.log_magnification(z), 0.5 * torch.logdet(M.T @ M).expand(6))
    found = geodesics(metric, z[:3], z[3:])
    close(found.curves.length, ((z[3:] - z[:3]) @ M.T).norm(dim=1), rtol=1e-6, atol=0)
    assert bool(found.converged.all())
    middle = found.curves.points[:, 100]
    close(middle, (z[:3] + z[3:]) / 2, rtol=0, atol=1e-6)


def test_magnification_of_the_sphere_and_of_polar_coordinates() -> None:
    z = torch.tensor([[0.7, 0.3], [1.2, -2.0]], dtype=torch.float64)
    found = Metric(sphere).log_magnification(z).exp()
    close(found, z[:, 0].sin())
    assert float(found[0]) == pytest.approx(0.64422, abs=5e-6)
    close(Metric(disc).log_magnification(z).exp(), z[:, 0])


def test_magnification_is_zero_where_dimensions_are_lost_and_does_not_underflow() -> None:
    z = torch.randn(3, 2)
    assert bool((Metric(lambda z: z[:, :1]).log_magnification(z) == -torch.inf).all())
    tiny = Metric(lambda z: 1e-30 * z).log_magnification(z)  # the determinant of G underflows in float32
    close(tiny, torch.full((3,), 2 * math.log(1e-30)))


def test_speed_from_one_product_is_that_of_the_whole_jacobian() -> None:
    net, z, dz = smooth_net(), *torch.randn(2, 7, 3, dtype=torch.float64)
    J = torch.stack([torch.autograd.functional.jacobian(net, row) for row in z])
    close(jacobian(net, z), J)
    close(Metric(net).squared_speed(z, dz), torch.einsum("bni,bi->bn", J, dz).square().sum(1))
    close(Metric(net, 0.3).squared_speed(z, dz), torch.einsum("bi,bij,bj->b", dz, Metric(net, 0.3)(z), dz))


def test_metrics_of_images_flatten_them() -> None:
    net, z = nn.Sequential(smooth_net(3, 12), nn.Unflatten(1, (3, 2, 2))), torch.randn(4, 3, dtype=torch.float64)
    close(Metric(net)(z), Metric(net[0])(z))


# ----------------------------------------------------------------------------------------------------------- smoothing


def test_smoothing_maps_eigenvalues_and_keeps_eigenvectors() -> None:
    G = torch.tensor([[[1.5, 1.8708], [1.8708, 3.0]]], dtype=torch.float64)
    s, V = torch.linalg.eigh(G)
    close(s[0], torch.tensor([0.2344, 4.2656], dtype=torch.float64), atol=1e-4, rtol=0)
    found = smoothed(G, 1.0)
    close(V.mT @ found @ V, torch.diag_embed(s**3 / (s**2 + 1)))
    close(torch.linalg.eigvalsh(found)[0], torch.tensor([0.01221, 4.0433], dtype=torch.float64), atol=2e-4, rtol=0)
    close(smoothed(G, 0.0), G)
    close(smoothed(G, 0.0, 2), G)
    close(smoothed(G, 0.0, 1), s[:, 1] * V[:, :, 1:] @ V[:, :, 1:].mT)


@pytest.mark.parametrize(("smoothing", "rank"), [(0.5, None), (0.5, 2), (0.0, 2)])
def test_derivatives_of_smoothing_are_exact(smoothing: float, rank: int | None) -> None:
    A = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda A: smoothed(A.mT @ A, smoothing, rank), A)


def test_derivatives_of_smoothing_are_exact_where_eigenvalues_are_equal() -> None:
    """For h(s) = s³ / (s² + λ) at G = I, the derivative in a direction D is h'(1) D."""
    G = torch.eye(3, dtype=torch.float64)[None].requires_grad_(True)
    D = torch.randn(1, 3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((smoothed(G, 1.0) * D).sum(), G)
    close(gradient, D)  # h'(1) = (1 + 3) / 4


def test_lengths_decrease_with_smoothing_and_rank() -> None:
    net, (z0, z1) = smooth_net(), torch.randn(2, 5, 3, dtype=torch.float64)
    lengths = [straight_lines(Metric(net, lam), z0, z1).length for lam in (0.0, 0.01, 0.1, 1.0, 10.0)]
    assert all(bool((b < a).all()) for a, b in zip(lengths, lengths[1:], strict=False))
    ranks = [straight_lines(Metric(net, 0.0, r), z0, z1).length for r in (3, 2, 1)]
    assert all(bool((b < a).all()) for a, b in zip(ranks, ranks[1:], strict=False))


# -------------------------------------------------------------------------------------------------------------- curves


@pytest.mark.parametrize("family", FAMILIES)
def test_ends_hold_for_any_parameters(family: Any) -> None:
    z0, z1 = torch.randn(2, 6, 4)
    omega = started(family, z0, z1)
    z, _ = family.at(omega, z0, z1, torch.tensor([0.0, 0.4, 1.0]))
    close(z[:, 0], z0, rtol=0, atol=1e-6)
    close(z[:, 2], z1, rtol=0, atol=1e-6 * float(z.abs().max()))
    assert float((z[:, 1] - (0.6 * z0 + 0.4 * z1)).abs().max()) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_of_curves_are_those_of_their_points(family: Any) -> None:
    z0, z1 = torch.randn(2, 3, 2, dtype=torch.float64)
    omega = started(family, z0, z1)
    t, h = torch.linspace(0.1, 0.9, 5, dtype=torch.float64), 1e-6
    (ahead, _), (behind, _) = (family.at(omega, z0, z1, t + s) for s in (h, -h))
    close(family.at(omega, z0, z1, t)[1], (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_quadrature_is_exact_for_polynomials() -> None:
    t, w = gauss_legendre(5)
    for power in range(10):
        assert float((w * t**power).sum()) == pytest.approx(1 / (power + 1), abs=1e-12)
    assert float((w * t**10).sum()) != pytest.approx(1 / 11, abs=1e-12)


def test_length_does_not_depend_on_the_speed_of_a_curve() -> None:
    """The same great circle in another time has the same length and more energy."""
    s = torch.linspace(0, 1, 2001, dtype=torch.float64)
    curve = lambda u, du: measured(
        Metric(sphere),
        torch.stack([0.4 + u, 0.3 + u**2], 1)[None],
        torch.stack([du, 2 * u * du], 1)[None],
    )
    plain, warped = curve(s, torch.ones_like(s)), curve(s**2, 2 * s)
    close(plain.length, warped.length, rtol=1e-6, atol=0)
    assert float(warped.energy) > 1.2 * float(plain.energy)


def test_energy_is_at_least_the_squared_length_and_length_at_least_the_chord() -> None:
    net, (z0, z1) = smooth_net(2), torch.randn(2, 8, 2, dtype=torch.float64)
    metric = Metric(net)
    lines, found = straight_lines(metric, z0, z1), geodesics(metric, z0, z1).curves
    for curves in (lines, found):
        assert bool((curves.energy >= curves.length.square()).all())
        assert bool((curves.length >= (net(z1) - net(z0)).norm(dim=1) - 1e-6).all())
    assert bool((found.energy <= lines.energy).all())
    assert bool((found.length <= lines.length + 1e-9).all())
    assert float((lines.energy / lines.length.square()).max()) > 1.01
    assert float((found.energy / found.length.square()).max()) < 1.001  # constant speed


# ----------------------------------------------------------------------------------------------------------- geodesics


@pytest.mark.parametrize("family", [SineSeries(), pytest.param(Network(), marks=pytest.mark.slow)])
def test_geodesic_of_the_sphere_is_the_great_circle(family: Any) -> None:
    z0, z1 = pair([0.6, 0.0], [0.9, 2.0])
    assert float(straight_lines(Metric(sphere), z0, z1).length) == pytest.approx(1.39118, abs=1e-4)
    found = geodesics(Metric(sphere), z0, z1, family)
    assert float(found.curves.length) == pytest.approx(1.23558, abs=1e-3)
    assert bool(found.converged)
    assert float(found.curves.speed.std() / found.curves.speed.mean()) < 0.03


@pytest.mark.parametrize(
    ("f", "first", "last", "straight", "shortest"),
    [(disc, [1.0, 0.0], [1.0, 2.0], 2.0, 1.68294), (sphere, [0.6, 0.0], [0.6, 2.0], 1.12929, 0.99024)],
)
def test_series_bends_where_ends_share_a_coordinate_and_the_published_curve_cannot(
    f: Callable[[Tensor], Tensor], first: list[float], last: list[float], straight: float, shortest: float
) -> None:
    found = [geodesics(Metric(f), *pair(first, last), family).curves for family in FAMILIES]
    assert float(found[0].length) == pytest.approx(shortest, abs=1e-3)
    assert float(found[1].length) == pytest.approx(straight, abs=1e-3)
    close(found[1].points[0, :, 0], torch.full((201,), first[0]), rtol=0, atol=1e-6)


def test_pairs_do_not_influence_one_another() -> None:
    z0, z1 = torch.rand(6, 2) + 0.3, torch.rand(6, 2) + torch.tensor([0.3, 1.0])
    together = geodesics(Metric(sphere), z0, z1).curves
    alone = [geodesics(Metric(sphere), z0[i : i + 1], z1[i : i + 1]).curves for i in (0, 4)]
    for i, one in zip((0, 4), alone, strict=True):
        close(together.points[i], one.points[0], rtol=0, atol=1e-4)
    cosine = (sphere(z0) * sphere(z1)).sum(1)
    close(together.length, cosine.acos(), rtol=0, atol=1e-3)


def test_more_starts_find_the_way_around_an_obstacle() -> None:
    """A straight line over a symmetric hill is stationary, and a bent start finds the shorter way around it."""
    hill = lambda z: torch.cat([z, 2 * (-2 * z.square().sum(1, keepdim=True)).exp()], 1)
    z0, z1 = pair([-1.5, 0.0], [1.5, 0.0])
    one = geodesics(Metric(hill), z0, z1).curves
    several = geodesics(Metric(hill), z0, z1, num_starts=2).curves
    assert float(one.points[..., 1].abs().max()) < 1e-3
    assert float(several.length) < 0.95 * float(one.length)


def test_steps_are_watched_and_few_do_not_converge() -> None:
    z0, z1 = pair([0.6, 0.0], [0.9, 2.0])
    seen: list[int] = []
    watch = lambda steps: (seen.append(step) or step for step in steps)
    found = geodesics(Metric(sphere), z0, z1, num_steps=2, progress=watch)
    assert seen == [0, 1]
    assert found.num_steps == 2
    assert not found.converged
    assert float(found.curves.length) <= float(straight_lines(Metric(sphere), z0, z1).length)


def test_smoothed_geodesics_prefer_the_data() -> None:
    """A plane that a map crosses with low gain and follows with high gain: smoothing makes the low gain free."""
    f = lambda z: torch.stack([z[:, 0] + 0.3 * z[:, 1].square(), 0.3 * z[:, 1]], 1)
    z0, z1 = pair([0.0, 0.0], [0.5, 1.0])
    plain, free = (geodesics(Metric(f, lam), z0, z1, num_steps=50).curves.length for lam in (0.0, 1.0))
    assert float(free) < 0.8 * float(plain)


def test_networks_with_kinks_are_named() -> None:
    z = torch.zeros(2, 3)
    layers = [nn.Linear(3, 3), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.Tanh()]
    assert kinks(nn.Sequential(*layers), z) == ["leaky_relu", "relu"]
    assert kinks(lambda z: torch.relu(z), z) == ["relu"]
    assert kinks(nn.Sequential(nn.Linear(3, 3), nn.Softplus(), nn.GELU(), nn.SiLU()), z) == []


def test_the_metric_of_relu_layers_has_no_derivative_and_that_of_tanh_layers_has() -> None:
    net = lambda activation: nn.Sequential(nn.Linear(2, 8), activation, nn.Linear(8, 2))
    for activation, varies in ((nn.ReLU(), False), (nn.Tanh(), True)):
        z = torch.randn(5, 2, requires_grad=True)
        (slope,) = torch.autograd.grad(Metric(net(activation))(z).sum(), z, allow_unused=True)
        assert bool(slope is not None and (slope != 0).any()) is varies


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Metric(sphere, 0.0, 3)(torch.ones(1, 2)),
            "rank: expected 1 to 2, the dimension of the latents, got 3",
        ),
        (lambda: Metric(sphere, -1.0), "smoothing: expected at least 0, got -1.0"),
        (lambda: geodesics(Metric(sphere), torch.ones(1, 2), torch.ones(1, 3)), "got shapes .1, 2. and .1, 3."),
    ],
)
def test_wrong_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


# --------------------------------------------------------------------------------------------------------- the command


CHECKPOINTS = ROOT / "tests/checkpoints/0.2"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search for a few steps, and draw coarse pictures."""
    monkeypatch.setattr(geodesic, "geodesics", partial(geodesics, num_steps=5, num=21))
    monkeypatch.setattr(geodesic, "straight_lines", partial(straight_lines, num=21))
    monkeypatch.setattr(geodesic_pictures, "CELLS", 15)


def command(name: str, *words: str) -> int:
    return main(["geodesic", str(CHECKPOINTS / f"{name}.ckpt"), "--device", "cpu", *words])


def test_command_writes_a_table_and_pictures(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The generator has ReLU layers, which the command warns of."""
    assert command("wgan_gp", "--pairs", "3", "--out", "g.csv") == 0
    out = capsys.readouterr().out
    assert "warning: the network has relu" in out
    assert "tanh, softplus or silu" in out
    assert "3 pairs of latents, draws from the prior" in out
    rows = list(csv.DictReader(Path("g.csv").read_text().splitlines()))
    assert len(rows) == 3
    for row in rows:
        assert 0 < float(row["geodesic"]) <= float(row["straight"])
        assert float(row["ratio"]) == pytest.approx(float(row["geodesic"]) / float(row["straight"]), rel=1e-4)
    assert len({row["straight"] for row in rows}) == 3
    assert {path.name for path in Path().glob("*.png")} == {"g_plane.png", "g_samples.png", "g_speed.png"}


def test_command_takes_a_pair_and_smooth_networks_get_no_warning(
    quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (dim,) = load("iwae").generator.network.latent_shape
    ends = ["--start", str([0.0] * dim), "--end", str([1.0] * dim), "--out", "g.md"]
    assert command("iwae", *ends, "--curve", "network", "--smoothing", "0.1", "--rank", "1") == 0
    assert "warning" not in capsys.readouterr().out
    header, _, row = Path("g.md").read_text().splitlines()
    assert header.startswith("| pair | straight | geodesic | ratio | chord |")
    assert row.startswith("| 1 | ")


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("pcd", [], "pcd.ckpt: expected a method with latents, such as WGANGP or IWAE, got PCD"),
        ("wgan_gp", ["--start", "[0, 1, 2]", "--end", "[0, 1]"], "--start: expected 2 numbers, the dimension"),
        ("wgan_gp", ["--start", "[0, 1]"], "--end: expected 2 numbers, the dimension of the latents, got none"),
        ("wgan_gp", ["--start", "[0, 1]", "--end", "[0, 1]"], "--end: expected another latent than --start, got the"),
        ("wgan_gp", ["--rank", "3"], "--rank: expected 1 to 2, the dimension of the latents, got 3"),
        ("wgan_gp", ["--label", "1"], "--label: expected none, as there are no classes, got 1"),
        ("wgan_gp", ["--smoothing", "-1"], "--smoothing: expected at least 0, got -1"),
        ("wgan_gp", ["--out", "g.png"], "--out: expected a file .md or .csv, got g.png"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    name: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(name, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_command_maps_one_class_of_a_conditional_generator(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    shapes: dict[str, Any] = {"image_size": 16, "num_channels": 1, "width": 4, "num_classes": 2}
    G = ResNetGenerator(latent_dim=2, **shapes)
    for table in (m for m in G.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(table.weight)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(ODEGAN(G, ResNetCritic(**shapes), 0.01))
    trainer.save_checkpoint("classes.ckpt")
    lengths = []
    for label in ("0", "1"):
        words = ["classes.ckpt", "--pairs", "1", "--label", label, "--device", "cpu", "--out", f"{label}.csv"]
        assert main(["geodesic", *words]) == 0
        (row,) = csv.DictReader(Path(f"{label}.csv").read_text().splitlines())
        lengths.append(float(row["straight"]))
    assert lengths[0] != pytest.approx(lengths[1], rel=1e-3)
    assert main(["geodesic", "classes.ckpt", "--label", "2", "--device", "cpu"]) == 2
    assert "--label: expected a class below 2, got 2" in capsys.readouterr().err


def load(name: str) -> Any:
    return finished(CHECKPOINTS / f"{name}.ckpt").method


class Images(Toy2D):
    """Images of one grey level each, whose class is bright or dark."""

    def __init__(self) -> None:
        super().__init__(batch_size=100)
        self.event_shape, self.num_classes = (1, 4, 4), 2

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, Tensor]:
        level = torch.linspace(-1, 1, num_minibatches * 100).view(num_minibatches, 100)
        return level[..., None, None, None].expand(*level.shape, 1, 4, 4), (level > 0).long()

    def held_out(self, num: int) -> tuple[Tensor, Tensor]:
        level = torch.linspace(-1, 1, min(num, 8))
        return level[:, None, None, None].expand(-1, 1, 4, 4), (level > 0).long()


def test_classes_on_a_way_and_images_along_it() -> None:
    f = lambda z: z.sum(1)[:, None, None, None].expand(-1, 1, 4, 4)
    z0, z1 = torch.tensor([[-0.5, -0.3, 0.0], [0.2, 0.1, 0.1]]), torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.1, 0.2]])
    lines = straight_lines(Metric(f), z0, z1)
    labels = geodesic.labels_of(Images(), torch.device("cpu"))
    ways = geodesic.Ways(f, lines, lines, torch.tensor([True, False]), labels, torch.ones(2))
    assert ways.columns["classes straight"] == [2, 1]
    assert ways.columns["converged"] == ["yes", "no"]
    titles = [axis.get_title() for axis in geodesic_pictures.speeds(lines, lines, torch.tensor([True, False])).axes]
    assert titles[:2] == ["pair 1", "pair 2, not settled"]
    paths = geodesic_pictures.draw_pictures(Metric(f), lines, lines, torch.tensor([True, False]), Path("t.md"), None)
    assert [path.name for path in paths] == ["t_speed.png", "t_strips.png"]
    assert geodesic.labels_of(Toy2D(), torch.device("cpu")) is None


def test_training_images_are_classified_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are bytes in the data and floats in a method: each is its own nearest one."""
    write_digits(tmp_path)
    digits = MNIST(str(tmp_path), image_size=28, batch_size=10)
    monkeypatch.setattr(geodesic, "NEIGHBOURS", 40)
    labels = geodesic.labels_of(digits, torch.device("cpu"))
    x, y = digits.labelled("train")
    assert labels is not None
    assert torch.equal(labels(x), y)


def test_pairs_are_encoded_where_the_method_encodes() -> None:
    method = SimpleNamespace(
        generator=SimpleNamespace(starting_points=lambda num, rng: torch.randn(num, 1, generator=rng)),
        device=torch.device("cpu"),
        encode=lambda x, weights: 100 + x.flatten(1)[:, :1],
    )
    found = torch.cat(geodesic.ends(method, Images(), 4, None, None, 0, "ema"))
    assert sorted(found.flatten().tolist()) == pytest.approx((100 + torch.linspace(-1, 1, 8)).tolist())
    with pytest.raises(UserError, match="--pairs: expected at most 4, as there are 8 samples, got 5"):
        geodesic.ends(method, Images(), 5, None, None, 0, "ema")
    assert float(torch.cat(geodesic.ends(method, None, 4, None, None, 0, "ema")).max()) < 50


def test_one_class_of_a_conditional_network_is_mapped() -> None:
    net = MLPGenerator(width=4)
    net.num_classes, seen = 3, []
    net.forward = lambda z, y: seen.append(y) or z
    geodesic.flat_map(net, 2)(torch.zeros(5, 2))
    assert seen[0].tolist() == [2] * 5
    with pytest.raises(UserError, match="--label: expected a class below 3, got 3"):
        geodesic.flat_map(net, 3)


def test_distances_on_a_grid_are_those_of_geodesics() -> None:
    """Shortest paths on a grid of angles have the lengths of great circles within two per cent."""
    sides = torch.linspace(0.4, 1.6, 61), torch.linspace(0.0, 1.2, 61)
    z = torch.cartesian_prod(*sides)
    found = geodesic_pictures.distances(Metric(sphere)(z), z, z[30 * 61 + 5])
    exact = (sphere(z) @ sphere(z)[30 * 61 + 5]).clamp(max=1).acos()
    far = exact > 0.2
    assert float((found[far] / exact[far] - 1).abs().max()) < 0.02


@pytest.mark.slow
def test_a_trained_decoder_is_measured_in_its_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pairs are encoded samples, ways are shorter than straight lines, and never shorter than chords."""
    words = ["--trainer.max_steps", "300", "--run.root", str(tmp_path), "--run.wandb", "disabled"]
    assert main(["fit", "--config", str(ROOT / "configs/toy2d/iwae.yaml"), *words, "--evaluation.metrics", "[]"]) == 0
    (folder,) = tmp_path.glob("*/*")
    assert main(["geodesic", str(folder), "--pairs", "20", "--out", "g.csv"]) == 0
    assert "20 pairs of latents, encoded samples" in capsys.readouterr().out
    rows = list(csv.DictReader(Path("g.csv").read_text().splitlines()))
    assert all(float(row["chord"]) * 0.999 <= float(row["geodesic"]) <= float(row["straight"]) for row in rows)
    assert sum(float(row["ratio"]) for row in rows) / 20 < 0.999
    assert sum(row["converged"] == "yes" for row in rows) >= 18
