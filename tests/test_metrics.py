"""Metrics against closed forms and independent code."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from torch import Tensor, nn

import pt_flows.metrics.features as features_module
from pt_flows.data import CIFAR10, Shapes32, Toy2D
from pt_flows.data.toy2d import ToyName
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.images import ImageFiles
from pt_flows.evaluation.passport import own_direction
from pt_flows.functional.energies import GaussianMixture
from pt_flows.functional.pixels import as_uint8
from pt_flows.functional.transport import exact_wasserstein, gaussian_mmd, sliced_wasserstein, symmetric_sqrt
from pt_flows.methods import WGANGP
from pt_flows.metrics import (
    DINOv2Features,
    ExactWasserstein,
    FrechetDistance,
    ImageQuality,
    InceptionFeatures,
    Lite0Features,
    ModeCoverage,
    SampleDiscrepancy,
)
from pt_flows.metrics.features import FeatureNet
from pt_flows.metrics.frechet import frechet_distance, moments
from pt_flows.metrics.modes import true_width
from pt_flows.metrics.quality import (
    inception_score,
    kernel_distance,
    manifolds,
    polynomial_mmd,
)
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.samplers import sample
from pt_flows.training.players import Critic, Generator


class RandomFeatures(FeatureNet):
    """A fixed random projection of the pixels: a feature network for tests."""

    name, dim, weights_hash = "random", 24, "0" * 64

    def __init__(self) -> None:
        super().__init__()
        self.net = self.freeze(nn.Linear(3 * 32 * 32, self.dim, bias=False))
        self.net.weight.data = torch.randn(self.dim, 3 * 32 * 32, generator=torch.Generator().manual_seed(0)) / 55

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.net(images.float().flatten(1) / 255 - 0.5))


def scipy_frechet(f: np.ndarray, g: np.ndarray) -> float:
    m1, m2, c1, c2 = f.mean(0), g.mean(0), np.cov(f, rowvar=False), np.cov(g, rowvar=False)
    root: Any = scipy.linalg.sqrtm(c1 @ c2)
    return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real))


@pytest.mark.parametrize(("n", "m", "d"), [(500, 400, 16), (300, 500, 64), (40, 500, 64)])
def test_frechet_equals_scipy_in_float64(n: int, m: int, d: int) -> None:
    """This includes n < d, where covariances are singular."""
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), 1 + rng.normal(size=(m, d))
    stats = [moments(t.sum(0), t.T @ t, len(t)) for t in (torch.from_numpy(f), torch.from_numpy(g))]
    assert frechet_distance(*stats[0], *stats[1]) == pytest.approx(scipy_frechet(f, g), rel=1e-6)


def test_frechet_of_identical_sets_is_zero() -> None:
    f = torch.randn(50, 80, dtype=torch.float64)
    stats = moments(f.sum(0), f.T @ f, len(f))
    assert frechet_distance(*stats, *stats) == pytest.approx(0.0, abs=1e-6 * float(stats[1].trace()))


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 30), (20, 900)])
def test_frechet_of_fewer_samples_than_dimensions(n: int, m: int, offset: float) -> None:
    """Against the samples themselves, whose centred matrices are roots of the covariances without any rounding."""
    f, g = torch.randn(n, 320).double() + offset, 1.1 * torch.randn(m, 320).double() + offset
    roots = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (f, g)]
    expected = (f.mean(0) - g.mean(0)).square().sum() + sum(x.square().sum() for x in roots)
    expected = float(expected - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    stats = [moments(x.sum(0), x.T @ x, len(x)) for x in (f, g)]
    assert frechet_distance(*stats[0], *stats[1]) == pytest.approx(expected, rel=1e-11)
    for moment in stats:
        assert 0 <= frechet_distance(*moment, *moment) < 1e-6


def test_frechet_of_commuting_gaussians() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 1.0, 0.0])
    expected = 3 * 0.25 + ((a.sqrt() - b.sqrt()) ** 2).sum().item()
    assert frechet_distance(torch.zeros(3), a.diag(), torch.full((3,), 0.5), b.diag()) == pytest.approx(expected)


def prepared(num: int = 300, **arguments: Any) -> FrechetDistance:
    metric = FrechetDistance(RandomFeatures(), **arguments)
    metric.prepare(Shapes32(), num)
    return metric


def shapes(num: int) -> Tensor:
    return Shapes32().reference("test", num).float() / 127.5 - 1


def test_frechet_metric_equals_scipy_whatever_the_batches() -> None:
    x, data = shapes(300), Shapes32()
    net = RandomFeatures()
    expected = scipy_frechet(net(as_uint8(x)).double().numpy(), net(data.reference("train")).double().numpy())
    for batch in (7, 64, 100):
        metric = prepared()
        for part in x.split(batch):
            metric.update(part)
        assert metric.compute()["fd_random_300_train"] == pytest.approx(expected, rel=1e-6)


def test_frechet_knows_damage_and_shows_the_floor() -> None:
    metric, x = prepared(), shapes(300)
    values = []
    for noise in (0.0, 0.1, 0.3, 1.0):
        metric.reset()
        metric.update((x + noise * torch.randn_like(x)).clamp(-1, 1))
        values.append(metric.compute()["fd_random_300_train"])
    assert values == sorted(values)
    assert values[0] == pytest.approx(metric.compute()["fd_random_300_train_floor"], rel=1e-6)


def test_frechet_raises_on_another_number_of_samples_and_on_bad_pixels() -> None:
    metric = prepared()
    metric.update(shapes(200))
    with pytest.raises(RuntimeError, match="expected 300 samples, got 200"):
        metric.compute()
    with pytest.raises(DivergenceError, match="1 generated pixels are not finite"):
        metric.update(torch.full((1, 1, 1, 1), torch.nan))


def test_reference_is_cached_by_content_and_survives_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PT_FLOWS_CACHE", str(tmp_path))
    first = prepared().reference
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3  # the reference with its root, and the floor's
    monkeypatch.setattr(FrechetDistance, "real_features", lambda *a: pytest.fail("measured again"))
    assert torch.equal(prepared().reference[0], first[0])
    monkeypatch.undo()
    monkeypatch.setenv("PT_FLOWS_CACHE", str(tmp_path))
    for file in files:
        file.write_bytes(b"half a file")
    assert torch.equal(prepared().reference[0], first[0])
    assert "cannot be read" in capsys.readouterr().out
    prepared(num_reference=100)
    assert len(list(tmp_path.iterdir())) == 5  # other images, other entries


def test_names_carry_the_protocol() -> None:
    assert prepared(2_000).key == "fd_random_2k_train"
    assert prepared(512, split="test", num_reference=1_000).key == "fd_random_512_test1k"


def test_metrics_reject_data_of_the_wrong_kind() -> None:
    with pytest.raises(UserError, match=r"expected images, got data of shape .* Use ExactWasserstein"):
        FrechetDistance(RandomFeatures()).prepare(Toy2D(), 10)
    with pytest.raises(UserError, match=r"expected vectors, got data of shape .* Use FrechetDistance"):
        ExactWasserstein().prepare(Shapes32(), 10)
    with pytest.raises(UserError, match=r"evaluation.num_samples: expected at most 5000, got 10000"):
        ExactWasserstein().prepare(Toy2D(), 10_000)


def test_a_reference_that_is_too_large_names_its_key() -> None:
    metric = FrechetDistance(RandomFeatures(), num_reference=10**6)
    with pytest.raises(UserError, match=r"FrechetDistance\.num_reference: expected at most \d+, .*, got 1000000"):
        metric.prepare(Shapes32(), 8)


def test_quantisation_rounds_to_the_nearest_level() -> None:
    levels = torch.arange(256)
    assert torch.equal(as_uint8(levels / 127.5 - 1).int(), levels.int())
    assert torch.equal(as_uint8((levels[:-1] + 0.49) / 127.5 - 1).int(), levels[:-1].int())


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_on_a_line_is_sorting(p: int) -> None:
    x, y = torch.randn(60, 1, dtype=torch.float64), 2 * torch.randn(60, 1, dtype=torch.float64) + 1
    sorted_cost = (x.sort(0).values - y.sort(0).values).abs().pow(p).mean().item() ** (1 / p)
    assert exact_wasserstein(x, y, p) == pytest.approx(sorted_cost, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_of_translates_is_the_translation(p: int) -> None:
    x = torch.randn(50, 2, dtype=torch.float64)
    assert exact_wasserstein(x, x + torch.tensor([3.0, -4.0]), p) == pytest.approx(5.0, rel=1e-9)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_lost_sample_is_no_good_one(value: float) -> None:
    """No plan exists, which the solver reports as cost 0."""
    x, y = torch.randn(20, 2), torch.randn(20, 2)
    x[3, 1] = value
    assert math.isnan(exact_wasserstein(x, y, 2))
    assert math.isnan(exact_wasserstein(y, x, 1))
    generator = MLPGenerator()
    with torch.no_grad():
        next(generator.parameters()).fill_(value)
    with pytest.raises(DivergenceError, match=r"\d+ of 30 generated samples are not finite"):
        sample(WGANGP(Generator(generator), Critic(MLPCritic())), 30, weights="raw")


def test_a_part_of_a_folder_is_drawn_from_all_of_it(tmp_path: Path) -> None:
    """Its classes lie one after the other."""
    np.save(tmp_path / "images.npy", np.repeat(np.uint8([10, 200]), 50)[:, None, None, None].repeat(8, 1).repeat(8, 2))
    images = ImageFiles(tmp_path / "images.npy")
    values = images.reference("train", 50).flatten(1)[:, 0].tolist()
    assert 10 < values.count(10) < 40
    assert values == images.reference("train", 50).flatten(1)[:, 0].tolist()
    assert torch.equal(images.reference("train", 100), images.images)


def test_wasserstein_metric_of_real_samples_is_about_the_floor() -> None:
    data, metric = Toy2D("ring8"), ExactWasserstein()
    metric.prepare(data, 512)
    for part in data.law.sample(512, torch.Generator().manual_seed(5)).split(200):
        metric.update(part)
    result = metric.compute()
    assert result["w2_512"] == pytest.approx(result["w2_512_floor"], rel=0.35)
    assert set(result) == {"w1_512", "w2_512", "w1_512_floor", "w2_512_floor"}


def test_floor_of_exact_transport_is_computed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second measurement of the same data reads it; other samples have another one."""
    monkeypatch.setenv("PT_FLOWS_CACHE", str(tmp_path))
    count: list[int] = []
    transport = partial(counted_transport, count)
    monkeypatch.setattr("pt_flows.metrics.wasserstein.exact_wasserstein", transport)
    floors = []
    for target, num in (("ring8", 40), ("ring8", 40), ("ring8", 41), ("grid25", 40)):
        metric = ExactWasserstein()
        metric.prepare(Toy2D(target), num)
        floors.append((metric.floor, len(count)))
    assert [calls for _, calls in floors] == [8, 8, 16, 24]  # four draws, W1 and W2
    assert floors[0][0] == floors[1][0]
    assert len({floor["w2"] for floor, _ in floors}) == 3


def counted_transport(count: list[int], x: Tensor, y: Tensor, p: int) -> float:
    count.append(p)
    return exact_wasserstein(x, y, p)


def test_mode_coverage_counts_what_it_says() -> None:
    metric = ModeCoverage()
    metric.prepare(Toy2D("ring8"), 100)
    centres = Toy2D("ring8").law.centres  # type: ignore[attr-defined]
    metric.update(torch.cat([centres[:3].repeat(10, 1), centres[3:4] + torch.tensor([0.31, 0.0])]))
    metric.update(torch.full((9, 2), 7.0))
    found = metric.compute()
    shares_and_width = {"mode_imbalance": pytest.approx(5 / 8), "mode_width": 0.0}  # thirds instead of eighths
    assert found == {"modes": 3.0, "modes_of": 8.0, "high_quality": pytest.approx(30 / 40)} | shares_and_width
    assert metric.directions() == {name: own_direction(name) for name in found}
    wider = ModeCoverage(num_std=4.0)
    wider.prepare(Toy2D("ring8"), 1)
    wider.update(centres[3:4] + torch.tensor([0.31, 0.0]))
    found = wider.compute()
    assert found.pop("mode_width_4std") == pytest.approx(0.31 / (0.1 * 1.41231), rel=1e-3)
    assert found == {"modes_4std": 1.0, "modes_of": 8.0, "high_quality_4std": 1.0, "mode_imbalance_4std": 7 / 8}
    moons = ModeCoverage()
    moons.prepare(Toy2D("moons"), 10)
    moons.update(torch.zeros(3, 2))
    assert moons.compute() == {}


@pytest.mark.parametrize("target", ["ring8", "unequal4"])
def test_shares_and_widths_of_modes(target: ToyName) -> None:
    """True samples have the true shares and width; narrow modes and wrong shares are seen although all are covered."""
    data, rng = Toy2D(target), torch.Generator().manual_seed(0)
    law: Any = data.law
    measured = {}
    skew = torch.linspace(0, 2, len(law.centres)) / len(law.centres)
    cases = {"true": (1.0, law.weights), "narrow": (0.5, law.weights), "skewed": (1.0, tuple(skew.tolist()))}
    for name, (width, weights) in cases.items():
        metric = ModeCoverage()
        metric.prepare(data, 100)
        metric.update(GaussianMixture(law.centres, width * law.std, weights).sample(20_000, rng))
        measured[name] = metric.compute()
    assert measured["true"]["mode_imbalance"] < 0.02
    assert measured["true"]["mode_width"] == pytest.approx(1, abs=0.01)
    assert measured["narrow"]["mode_width"] == pytest.approx(0.5 * 2**0.5 / true_width(3), abs=0.01)
    true = torch.tensor(law.weights or [1 / len(law.centres)] * len(law.centres))
    assert measured["skewed"]["mode_imbalance"] == pytest.approx(0.5 * float((skew - true).abs().sum()), abs=0.02)
    none = ModeCoverage()
    none.prepare(data, 1)
    none.update(torch.full((5, 2), 99.0))
    assert none.compute() | {"modes_of": 0.0} == dict.fromkeys(none.compute(), 0.0) | {"mode_imbalance": 1.0}


def test_inception_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"expected a file, got .*nowhere.pth.*6726825d"):
        InceptionFeatures(str(tmp_path / "nowhere.pth"))
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"wrong.pth: expected the SHA-256 .*a damaged file or another network"):
        InceptionFeatures(str(wrong))

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=r"expected weights, got no download .*weights-inception.*Lite0Features"):
        InceptionFeatures()


@pytest.mark.slow
def test_inception_equals_torch_fidelity_on_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: features and the distance against torch-fidelity's own network and metric."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: pytest.fail("download")
    )
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    path = tmp_path / "w.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    theirs = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
    for module in theirs.modules():  # default weights shrink signals to nothing over 90 layers
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    monkeypatch.undo()
    torch.save(theirs.state_dict(), path)
    monkeypatch.setattr(features_module, "INCEPTION_SHA256", features_module.file_hash(path)[:8])
    ours = InceptionFeatures(str(path)).train()
    data = Shapes32()
    x, real = data.reference("test", 12), data.reference("train", 20)
    with torch.no_grad():
        expected = [torch.cat([theirs(part)[0] for part in images.split(10)]) for images in (x, real)]
    torch.testing.assert_close(ours(x[:10]), expected[0][:10], rtol=1e-4, atol=1e-5 * float(expected[0].max()))
    metric = FrechetDistance(ours, num_reference=20)
    metric.prepare(data, 12)
    metric.update(x.float() / 127.5 - 1)
    statistics = [fid_features_to_statistics(f) for f in expected]
    reference = fid_statistics_to_metric(statistics[0], statistics[1], False)["frechet_inception_distance"]
    assert metric.compute()["fd_inception_12_train20"] == pytest.approx(reference, rel=1e-3)


@pytest.mark.slow
def test_lite0_knows_images_from_noise() -> None:
    data = Shapes32()
    metric = FrechetDistance(Lite0Features(64), num_reference=500)
    metric.prepare(data, 200)
    x, values = shapes(200), []
    for noise in (0.0, 0.05, 0.2):
        metric.reset()
        metric.update((x + noise * torch.randn_like(x)).clamp(-1, 1))
        values.append(metric.compute()["fd_lite0_64_200_train500"])
    assert values[0] < 0.8 * values[1] < 0.8 * 0.8 * values[2]


@pytest.mark.long
def test_cifar10_has_its_recorded_distances(cifar_root: Path) -> None:
    """Reference values of the protocol fd_lite0_64_10k_train: the test split, the same blurred, and noise."""
    from torchvision.transforms.functional import gaussian_blur

    datamodule = CIFAR10(str(cifar_root))
    datamodule.prepare_data()
    datamodule.setup("test")
    metric = FrechetDistance(Lite0Features(64), "train")
    metric.prepare(datamodule, 10_000)
    test = datamodule.reference("test", 10_000)
    noise = torch.randint(256, test.shape, generator=torch.Generator().manual_seed(0))
    assert metric.floor == pytest.approx(44.795, rel=1e-4)
    for images, expected in ((gaussian_blur(test.float(), [5, 5], [1.0, 1.0]), 479.484), (noise.float(), 3849.22)):
        metric.reset()
        for part in (images / 127.5 - 1).split(500):
            metric.update(part)
        assert metric.compute()["fd_lite0_64_10k_train"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_feature_networks_ignore_train_mode_and_reject_floats() -> None:
    net = Lite0Features(64)
    images = Shapes32().reference("test", 4)
    alone = net(images[:1])
    net.train()
    torch.testing.assert_close(net(images)[:1], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="expected images uint8"):
        net(images.float())


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 224])
def test_features_in_parts_are_those_of_the_whole_batch(size: int) -> None:
    net = Lite0Features(size)
    images = Shapes32().reference("test", 30)
    with torch.no_grad():
        whole = net.features(images)
    for num in (30, 7, 1):
        parts = torch.cat([net(part) for part in images.split(num)])
        assert float((parts - whole).abs().max()) < 1e-5 * float(whole.abs().max())
    assert net(images[:0]).shape == (0, net.dim)


def test_a_feature_network_takes_few_pixels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, taken = RandomFeatures(), []
    whole = net.features
    monkeypatch.setattr(net, "features", lambda images: (taken.append(len(images)), whole(images))[1])
    images = Shapes32().reference("test", 20)
    torch.testing.assert_close(net(images), whole(images), rtol=1e-5, atol=1e-6)
    assert taken[:3] == [7, 7, 6]


# ------------------------------------------------------------------------------------------- quality in feature space


def test_polynomial_mmd_equals_a_plain_loop() -> None:
    """Independent float64 code over all pairs; unbiased, so near zero for one distribution."""
    g = np.random.default_rng(0)
    x, y = g.normal(size=(30, 8)), g.normal(size=(20, 8)) + 0.3
    k = lambda a, b: (float(a @ b) / 8 + 1) ** 3
    xx = np.mean([k(x[i], x[j]) for i in range(30) for j in range(30) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(20) for j in range(20) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert polynomial_mmd(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(xx + yy - 2 * xy, rel=1e-9)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_kernel_distance_of_float32_features_is_that_of_float64(mean: float) -> None:
    x, y = mean + torch.randn(300, 64), mean + 0.1 + torch.randn(300, 64)
    single, double = kernel_distance(x, y, 100), kernel_distance(x.double(), y.double(), 100)
    assert single == pytest.approx(double, rel=1e-6)


def test_kernel_distance_is_that_of_torch_fidelity() -> None:
    """On one block of all features; and within its error of zero for one distribution."""
    from torch_fidelity.metric_kid import kernel_mmd

    x, y = torch.randn(200, 16), torch.randn(200, 16) * 1.2
    expected = kernel_mmd(x.double().numpy(), y.double().numpy())
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-6)
    value, error, _ = kernel_distance(torch.randn(20_000, 8), torch.randn(20_000, 8))
    assert abs(value) < 4 * error


def test_inception_score_is_that_of_torch_fidelity() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(600, 12)
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, std = inception_score(logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-5)


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    fake, real = torch.randn(300, 6) * 0.7, torch.randn(250, 6)
    settings = {"prc_neighborhood": 3, "prc_batch_size": 100, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(real, fake, **settings)
    ours = manifolds(fake, real)[:2]
    found = {round(v, 6) for v in (theirs["precision"], theirs["recall"])}
    assert {round(v, 6) for v in ours} == found
    assert ours[0] > ours[1]  # narrow samples: precise, without variety


def test_density_and_coverage_on_a_line() -> None:
    """Real points 0 ... 9, k = 1: every ball reaches its neighbour; samples at 0.5 lie in two balls and cover two."""
    real, fake = torch.arange(10.0)[:, None], torch.full((4, 1), 0.5)
    assert manifolds(fake, real, k_precision=1, k_coverage=1) == (1.0, 0.0, 2.0, 0.2)
    assert manifolds(real, real, k_coverage=1).coverage == 1.0


def neighbours_by_differences(fake: Tensor, real: Tensor) -> tuple[float, ...]:
    """Precision, recall, density and coverage from scipy's distances in float64."""
    to = lambda a, b: scipy.spatial.distance.cdist(a.double().numpy(), b.double().numpy())
    reach = lambda x, k: np.sort(to(x, x), 1)[:, k]
    near, held = to(fake, real) <= reach(real, 3), to(fake, real) <= reach(real, 5)
    recalled = to(fake, real) <= reach(fake, 3)[:, None]
    return near.any(1).mean(), recalled.any(0).mean(), held.sum() / (5 * len(fake)), held.any(0).mean()


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_quality_does_not_depend_on_the_mean_of_features(offset: float) -> None:
    """Float32 features far from zero are measured to the last of their digits."""
    fake, real = offset + 0.011 * torch.randn(300, 64), offset + 0.01 * torch.randn(250, 64)
    assert manifolds(fake, real) == pytest.approx(neighbours_by_differences(fake, real), rel=1e-12)


def test_quality_counts_copies_as_copies() -> None:
    """A copy of k real points lies in k + 1 balls on average, and in the ball of radius zero of a duplicate."""
    real = 10 + torch.randn(400, 64)
    assert manifolds(real[torch.randperm(400)], real) == (1.0, 1.0, 6 / 5, 1.0)
    doubled = real[:20].repeat(8, 1)
    assert manifolds(doubled, doubled[:160]) == (1.0, 1.0, 8 / 5, 1.0)


def test_quality_numbers_move_as_they_should() -> None:
    """Metamorphic: order does not count, noise raises distances, duplicates lower coverage, a narrow set recall."""
    datamodule = Shapes32()
    datamodule.setup("fit")
    real = datamodule.reference("test", 300).float() / 127.5 - 1

    def measure(x: Tensor) -> dict[str, float]:
        metric = ImageQuality(RandomFeatures(), "train", 1000)
        metric.prepare(datamodule, len(x))
        metric.reset()
        for part in x.split(64):
            metric.update(part)
        numbers = metric.compute().items()
        return {key.split("_")[0]: value for key, value in numbers if not key.endswith(("_floor", "_low", "_high"))}

    plain, shuffled = measure(real), measure(real[torch.randperm(300)])
    noisy, doubled = measure((real + 0.5 * torch.randn_like(real)).clamp(-1, 1)), measure(real[:30].repeat(10, 1, 1, 1))
    for word in ("fd", "precision", "recall", "density", "coverage"):
        assert shuffled[word] == pytest.approx(plain[word], rel=1e-6)
    assert noisy["fd"] > plain["fd"]
    assert noisy["kid"] > plain["kid"]
    assert doubled["coverage"] < 0.5 * plain["coverage"]
    assert doubled["recall"] < plain["recall"]


def test_quality_agrees_with_the_distance_of_training() -> None:
    datamodule = Shapes32()
    datamodule.setup("fit")
    x = torch.rand(120, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    results = []
    for cls in (FrechetDistance, ImageQuality):
        metric = cls(RandomFeatures(), "test", 500)
        metric.prepare(datamodule, 120)
        metric.reset()
        metric.update(x)
        numbers, directions = metric.compute(), metric.directions()
        results.append(numbers[metric.key])
        assert metric.key == "fd_random_120_test500"
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    for key in ("fd_random_120_test500", "kid_random_120_test500"):
        assert numbers[f"{key}_low"] < numbers[key] < numbers[f"{key}_high"]
        assert [directions[name] for name in (key, f"{key}_low", f"{key}_high")] == ["lower", "", ""]
    with pytest.raises(UserError, match="expected at least 7 of each kind, got 5 generated"):
        ImageQuality(RandomFeatures()).prepare(datamodule, 5)


def test_features_are_summed_alike_in_any_batches() -> None:
    f = torch.randn(300, RandomFeatures.dim)
    values = []
    for batch in (7, 64, 100):
        metric = prepared()
        for part in f.split(batch):
            metric.take(part)
        values.append(metric.compute()["fd_random_300_train"])
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-9)


def test_a_known_root_saves_work_and_changes_nothing() -> None:
    x, y = torch.randn(90, 12).double(), torch.randn(80, 12).double() @ torch.randn(12, 12).double()
    (m, c), (m2, c2) = (moments(f.sum(0), f.T @ f, len(f)) for f in (x, y))
    root = symmetric_sqrt(c)
    assert torch.allclose(root @ root, c, atol=1e-10)
    assert frechet_distance(m, c, m2, c2, root) == pytest.approx(frechet_distance(m, c, m2, c2), rel=1e-12)
    assert frechet_distance(m2, c2, m, c) == pytest.approx(frechet_distance(m, c, m2, c2), rel=1e-9)


# ------------------------------------------------------------------------------------------------------------- points


def test_sliced_distance_of_a_translate_is_its_length_over_the_root_of_the_dimension() -> None:
    """The mean of (θ·v)² over directions is |v|² / d."""
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    assert sliced_wasserstein(x, x + torch.tensor([3.0, 4.0]), 4_000) == pytest.approx(5 / math.sqrt(2), rel=0.02)
    assert sliced_wasserstein(x, x[torch.randperm(400)]) == pytest.approx(0, abs=1e-9)


def test_gaussian_mmd_equals_a_plain_loop_and_is_unbiased() -> None:
    g = np.random.default_rng(0)
    x, y = g.normal(size=(12, 2)), g.normal(size=(15, 2)) + 0.5
    distance = lambda a, b: float(np.linalg.norm(a - b))
    median = float(np.sort([distance(y[i], y[j]) for i in range(15) for j in range(15) if i != j])[(15 * 14 - 1) // 2])
    k = lambda a, b: np.mean([math.exp(-((distance(a, b) / (h * median)) ** 2) / 2) for h in (0.25, 0.5, 1, 2, 4)])
    xx = np.mean([k(x[i], x[j]) for i in range(12) for j in range(12) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(15) for j in range(15) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert gaussian_mmd(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(xx + yy - 2 * xy, rel=1e-9)
    equal = [gaussian_mmd(*torch.from_numpy(g.normal(size=(2, 60, 2)))) for _ in range(100)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / 10


def test_cheap_distances_see_a_lost_mode() -> None:
    datamodule = Toy2D("ring8")
    metric = SampleDiscrepancy()
    metric.prepare(datamodule, 500)
    found = []
    for x in (datamodule.reference("train", 500), datamodule.reference("train", 2000)):
        metric.reset()
        metric.update(x if len(x) == 500 else x[x[:, 0] > 0][:500])
        found.append(metric.compute())
    for name in ("sliced_w2_500", "mmd2_500"):
        assert found[1][name] > 5 * abs(found[0][name])
        assert abs(found[0][name]) < 3 * abs(found[0][f"{name}_floor"]) + 1e-2


# -------------------------------------------------------------------------------------------------------------- DINOv2


def test_dinov2_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("timm.create_model", _no_network)
    with pytest.raises(UserError, match=r"cannot download weights \(no network\). Get the weights of timm"):
        DINOv2Features()
    with pytest.raises(UserError, match="expected a file, got nowhere"):
        DINOv2Features("nowhere.pth")
    with pytest.raises(UserError, match=r"DINOv2Features.model: expected .* got resnet18"):
        DINOv2Features(model="resnet18")


def _no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network")


@pytest.mark.slow
def test_dinov2_loads_a_file_of_timm_and_of_the_authors(tmp_path: Path) -> None:
    """Random weights of the small network: the authors' names and position embeddings for 518 pixels are converted."""
    import timm

    model = "vit_small_patch14_dinov2"
    net = timm.create_model(model, pretrained=False)
    torch.save(net.state_dict(), tmp_path / "timm.pth")
    authors = dict(net.state_dict())
    authors["mask_token"] = torch.zeros(1, 384)  # theirs has it, timm's has not
    torch.save(authors, tmp_path / "authors.pth")
    ours, theirs = (DINOv2Features(str(tmp_path / name), model) for name in ("timm.pth", "authors.pth"))
    images = Shapes32().reference("test", 4)
    f = ours(images)
    assert f.shape == (4, 384) == (4, ours.dim)
    assert torch.equal(f, theirs(images))
    assert (ours.name, ours.weights_hash) == ("dinov2_small", theirs.weights_hash)
    assert ours.logits(f) is None
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="does not fit vit_small_patch14_dinov2"):
        DINOv2Features(str(tmp_path / "broken.pth"), model)
    metric = ImageQuality(ours, num_reference=8)
    metric.prepare(Shapes32(), 8)
    metric.reset()
    metric.update(images.repeat(2, 1, 1, 1).float() / 127.5 - 1)
    assert not any(key.startswith("is_") for key in metric.compute())
