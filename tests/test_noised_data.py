"""Energies of noised data: distances between noise levels, the Gaussian base, denoising, and steps too long."""

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from problems import Adam, build, data, fit, weights, write_digits
from torch import Tensor, nn

from pt_flows.cli.main import main
from pt_flows.contracts import EnergyNet
from pt_flows.data import MNIST, Digits, Shapes32, Toy2D
from pt_flows.data.base import FlowData
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import prepare_metrics
from pt_flows.functional.noising import Gaussian, Noising, enough_levels, level_distances, squared_cumulative
from pt_flows.methods import DAEBM, PCD
from pt_flows.methods.energies.gaussian_base import GaussianBase
from pt_flows.methods.energies.moments import check_levels
from pt_flows.metrics import ExactWasserstein, FrechetDistance
from pt_flows.nets import TimeMLPEnergy
from pt_flows.samplers import sample
from pt_flows.training.players import Energy

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
MEAN = torch.tensor([0.7, -0.4])


class Flat(EnergyNet):
    """A network that is zero, so that the base is the whole model."""

    event_shape = (2,)
    takes_labels = True

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.constant.expand(len(x))


class Correlated(FlowData):
    """Samples of N(MEAN, COVARIANCE)."""

    event_shape = (2,)

    def draw(self, iteration: int, num_minibatches: int) -> tuple[Tensor, ...]:
        x = self.sample(num_minibatches * self.batch_size, torch.Generator().manual_seed(iteration))
        return x.view(num_minibatches, self.batch_size, 2), torch.zeros(num_minibatches, self.batch_size).long()

    def reference(self, split: Any, num: int | None = None) -> Tensor:
        return self.sample(num or 1000, torch.Generator().manual_seed(len(split)))

    def sample(self, num: int, rng: torch.Generator) -> Tensor:
        return MEAN + torch.randn(num, 2, generator=rng) @ torch.linalg.cholesky(COVARIANCE).T


def gaussian(noise: float = 0.0) -> Gaussian:
    """Moments of the correlated data, exact."""
    values, axes = torch.linalg.eigh(COVARIANCE.double())
    return Gaussian(MEAN.double() @ axes, values + noise**2, axes)


def truth(a: float, b: float, noise: float = 0.0) -> torch.distributions.MultivariateNormal:
    """The correlated data with noise, diffused."""
    eye = torch.eye(2)
    return torch.distributions.MultivariateNormal(a * MEAN, a**2 * (COVARIANCE + noise**2 * eye) + b**2 * eye)


def gaussian_model(noise: float = 0.5, **arguments: Any) -> DAEBM:
    """An exact model from the start: its base is the Gaussian of its data."""
    L.seed_everything(0, verbose=False)
    module = DAEBM(Energy(Flat()), base="gaussian", data_noise=noise, data_scale=0.7, step_size=0.8,
                   num_langevin_steps=10, buffer_size=50, num_visits=2, **arguments)  # fmt: skip
    for network in (module.energy.network, module.energy.ema.network):
        network.take(gaussian(noise))
    return module.eval()


# ------------------------------------------------------------------------------------------- distances between levels


def test_moments_are_those_of_the_samples() -> None:
    x = Correlated(8, 1).sample(200_000, torch.Generator().manual_seed(0))
    found = Gaussian.fitted(x.double(), noise=0.5)
    torch.testing.assert_close(found.axes @ found.centre, MEAN.double(), atol=0.01, rtol=0)
    covariance = found.axes @ found.variances.diag() @ found.axes.T
    torch.testing.assert_close(covariance, (COVARIANCE + 0.25 * torch.eye(2)).double(), atol=0.02, rtol=0)


def test_distances_of_levels_are_mean_divergences() -> None:
    """The values agree with torch's own KL divergence, in both directions."""
    noising = squared_cumulative(6, 1e-2, 3e-1)
    laws = [truth(float(a), float(b), 0.3) for a, b in zip(*noising, strict=True)]
    KL = torch.distributions.kl_divergence
    expected = [0.5 * float(KL(p, q) + KL(q, p)) for p, q in zip(laws, laws[1:], strict=False)]
    assert level_distances(gaussian(0.3), noising).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_distances_grow_with_the_dimension_and_the_squared_change_of_scale() -> None:
    noising = Noising(torch.ones(2), torch.tensor([0.0, math.sqrt(1.02**2 - 1)]))
    for d in (10, 400):
        data = Gaussian(torch.zeros(d), torch.ones(d), torch.eye(d))
        assert float(level_distances(data, noising)) == pytest.approx(d * math.log(1.02) ** 2, rel=2e-3)


def test_enough_levels_end_at_the_same_noise_and_grow_like_the_root_of_the_dimension() -> None:
    found = []
    for d in (256, 1024):
        data = Gaussian(torch.zeros(d), torch.full((d,), 0.2), torch.eye(d))
        T, low, high = enough_levels(data, 5, 2e-2, 2.5e-1, nats=5.0) or (0, 0.0, 0.0)
        fine, coarse = squared_cumulative(T, low, high), squared_cumulative(5, 2e-2, 2.5e-1)
        assert float(level_distances(data, fine).max()) <= 5
        assert float(fine.a[-1]) == pytest.approx(float(coarse.a[-1]), abs=1e-5)
        found.append(T)
    assert found[1] / found[0] == pytest.approx(2, rel=0.15)
    assert enough_levels(data, 5, 2e-2, 2.5e-1, nats=5.0, limit=6) is None


def test_levels_too_far_apart_are_named_with_the_number_that_is_needed() -> None:
    """A model that follows the advice raises no warning."""
    data = Gaussian(torch.zeros(784), torch.full((784,), 0.01), torch.eye(784))
    with pytest.warns(
        UserWarning, match=r"expected noise levels at most 5 nats apart, got 0.3 to 256 with 7 levels"
    ) as found:
        check_levels(data, squared_cumulative(7, 2e-2, 2.5e-1), (2e-2, 2.5e-1))
    words = next(str(warning.message) for warning in found if "nats" in str(warning.message))
    keys = ("num_levels", "first_increment", "last_increment")
    numbers = {key: float(words.split(f"model.{key} to ")[1].split()[0].rstrip(",.")) for key in keys}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="model.num_levels")
        increments = numbers["first_increment"], numbers["last_increment"]
        check_levels(data, squared_cumulative(int(numbers["num_levels"]), *increments), increments)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_run_measures_its_data_and_warns(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data so narrow are far from the first level; noise on them brings them near."""
    monkeypatch.setattr(Correlated, "sample", lambda self, num, rng: 1e-3 * torch.randn(num, 2, generator=rng))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(build("DAEBM", data_noise=noise), Correlated(8, 1), max_steps=1)
    texts = [str(w.message) for w in found if "model.num_levels" in str(w.message)]
    assert len(texts) == (noise == 0)
    assert noise or "with 3 levels. Chains cannot jump so far: set model.num_levels to " in texts[0]


# ---------------------------------------------------------------------------------------------------- the Gaussian base


def test_the_base_is_the_density_of_diffused_data_up_to_one_constant() -> None:
    module, x = gaussian_model(), torch.randn(40, 2)
    for t, (a, b) in enumerate(zip(*module.noising, strict=True)):
        u = module.energies(x, torch.full((40,), t))
        constant = u + truth(float(a), float(b), 0.5).log_prob(x)
        torch.testing.assert_close(constant, torch.full((40,), -math.log(2 * math.pi)), atol=1e-4, rtol=0)


def test_points_of_the_base_have_its_moments() -> None:
    module = gaussian_model()
    t = torch.full((20_000,), 3)
    x = module.energy.network.points(torch.randn(20_000, 2), t)
    law = truth(float(module.a[3]), float(module.b[3]), 0.5)
    torch.testing.assert_close(x.mean(0), law.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), law.covariance_matrix, atol=0.05, rtol=0)


@pytest.mark.slow
def test_chains_of_a_gaussian_model_reach_its_data() -> None:
    """From noise: samples have the noise of the data; denoised ones have the moments of Tweedie's mean."""
    module, rng = gaussian_model(), torch.Generator().manual_seed(1)
    noisy = sample(module, 1500, rng=rng)
    total = COVARIANCE + 0.25 * torch.eye(2)
    torch.testing.assert_close(noisy.mean(0), MEAN, atol=0.15, rtol=0)
    torch.testing.assert_close(torch.cov(noisy.T), total, atol=0.2, rtol=0)
    shrink = COVARIANCE @ torch.linalg.inv(total)
    torch.testing.assert_close(module.denoised(noisy), MEAN + (noisy - MEAN) @ shrink.T, atol=1e-4, rtol=0)
    module.denoise = True
    rng.manual_seed(1)
    torch.testing.assert_close(sample(module, 1500, rng=rng), module.denoised(noisy))


def test_metrics_know_the_noise_on_samples() -> None:
    """Samples of a perfect model have the noise of the data, unless it is removed."""
    module, metric, found = gaussian_model(noise=0.5), ExactWasserstein(), []
    for denoise in (False, True):
        module.denoise = denoise
        prepare_metrics([metric], Toy2D(), 50, module.device, module)
        found.append(metric.sample_noise)
    prepare_metrics([metric], Toy2D(), 50, module.device, build("WGANGP"))
    assert [*found, metric.sample_noise] == [0.5, 0.0, 0.0]


def test_moments_come_from_the_data_and_resume_with_the_checkpoint(tmp_path: Path) -> None:
    """Two setups agree; a resumed run equals one that was not stopped, on other data too."""

    def model() -> DAEBM:
        L.seed_everything(0, verbose=False)
        return DAEBM(
            Energy(TimeMLPEnergy(width=8), Adam),
            base="gaussian",
            data_noise=0.5,
            buffer_size=40,
            num_langevin_steps=2,
        )

    whole, half, rest, sampler = model(), model(), model(), model()
    fit(whole, Correlated(8, 1), max_steps=4)
    base = whole.energy.network
    assert isinstance(base, GaussianBase)
    covariance = base.axes @ base.variances.diag() @ base.axes.T
    torch.testing.assert_close(covariance, COVARIANCE + 0.25 * torch.eye(2), atol=0.05, rtol=0)
    torch.testing.assert_close(base.axes @ base.centre, MEAN, atol=0.05, rtol=0)
    runner = fit(half, Correlated(8, 1), max_steps=2)
    runner.save_checkpoint(tmp_path / "half.ckpt")
    fit(rest, Correlated(8, 1), max_steps=4, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(weights(rest), weights(whole))
    sampler.load_state_dict(torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"])
    generator = lambda: torch.Generator().manual_seed(3)
    assert torch.equal(sample(sampler, 5, rng=generator()), sample(half, 5, rng=generator()))


def test_chains_start_from_the_base() -> None:
    """The first energies of data and chains agree, because chains start from the base."""
    L.seed_everything(0, verbose=False)
    module = DAEBM(Energy(Flat()), base="gaussian", data_noise=0.5, buffer_size=4000, num_langevin_steps=1)
    fit(module, Correlated(1000, 1), max_steps=1)
    a, b = module.noising
    for t in (0, 6):
        x = module.buffer.points[module.buffer.labels == t]
        law = truth(float(a[t]), float(b[t]), 0.5)
        torch.testing.assert_close(torch.cov(x.T), law.covariance_matrix, atol=0.25, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"denoise": True}, "model.denoise: expected data_noise above 0"),
        ({"base": "uniform"}, "DAEBM.base: expected one of none, gaussian, got 'uniform'"),
        ({"data_noise": -1.0}, "DAEBM.data_noise: expected at least 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("DAEBM", **arguments)


def test_data_without_a_density_or_samples_give_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    make = lambda: DAEBM(Energy(Flat()), base="gaussian", buffer_size=40, num_langevin_steps=1)
    on_a_line = lambda self, num, rng: torch.randn(num, 1, generator=rng).expand(num, 2)
    monkeypatch.setattr(Correlated, "sample", on_a_line)
    with pytest.raises(UserError, match="expected data that vary in every direction"):
        fit(make(), Correlated(8, 1), max_steps=1)
    monkeypatch.setattr(Toy2D, "sample", FlowData.sample)
    with pytest.raises(UserError, match="expected data that draw single samples, got Toy2D"):
        fit(make(), data(), max_steps=1)


# ------------------------------------------------------------------------------------------------- noise on the data


def test_noise_on_the_data_is_part_of_training_and_of_floors() -> None:
    """Data have the noise in `iterate`; floors are of noised samples, references are not."""
    module, x = gaussian_model(noise=0.5), torch.zeros(4000, 2)
    noised = module.with_data_noise(x, torch.Generator().manual_seed(0))
    assert float(noised.std()) == pytest.approx(0.5, rel=0.05)
    assert build("DAEBM").with_data_noise(x, torch.Generator()) is x
    clean, noisy = ExactWasserstein(), ExactWasserstein()
    noisy.sample_noise = 1.0
    for metric in (clean, noisy):
        metric.prepare(Toy2D(), 200)
    assert torch.equal(clean.real, noisy.real)
    assert noisy.floor["w2"] > 2 * clean.floor["w2"]
    images = FrechetDistance()
    images.sample_noise = 0.3
    pixels = images.floor_samples(Shapes32(), "test", 20)
    difference = (pixels.float() - Shapes32().reference("test", 20).float()) / 127.5
    assert pixels.dtype == torch.uint8
    assert 0.15 < float(difference.std()) < 0.31


@pytest.mark.slow
def test_commands_take_noised_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parent.parent
    arguments = ["fit", "--config", str(root / "configs/toy2d/da_ebm.yaml"), "--trainer.max_steps", "4"]
    arguments += ["--model.energy.network.width", "16", "--model.num_langevin_steps", "3"]
    arguments += ["--evaluation.num_samples", "20"]
    arguments += ["--model.num_visits", "1", "--model.base", "gaussian", "--model.data_noise", "0.5"]
    arguments += ["--run.root", str(tmp_path), "--run.wandb", "disabled", "--trainer.accelerator", "cpu"]
    assert main(arguments) == 0
    (ckpt,) = map(str, tmp_path.glob("*/*/checkpoints/last.ckpt"))
    (metrics,) = tmp_path.glob("*/*/metrics.csv")
    assert "train/step_rms" in metrics.read_text()
    assert main(["sample", ckpt, "--long-run", "10", "--n", "50", "--out", str(tmp_path / "long.png")]) == 0
    first = (tmp_path / "long.csv").read_text().splitlines()[1].split(",")
    assert float(first[0]) == 0
    for denoise in ("true", "false"):
        out = str(tmp_path / f"{denoise}.npz")
        assert main(["sample", ckpt, "--n", "20", "--denoise", denoise, "--out", out]) == 0
    capsys.readouterr()
    assert main(["ood", ckpt, "--n", "50"]) == 0
    assert main(["density", ckpt, "--n", "50"]) == 0
    assert "true log-density" not in capsys.readouterr().out  # it is one of clean samples

    noisy, clean = (np.load(tmp_path / f"{word}.npz")["samples"] for word in ("false", "true"))
    assert noisy.shape == clean.shape
    assert not np.allclose(noisy, clean)


# ------------------------------------------------------------------------------------------- steps that are too long


class Slope(EnergyNet):
    """U = c x summed over pixels: a gradient of c everywhere."""

    event_shape = (3, 32, 32)

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x: Tensor) -> Tensor:
        return self.c * x.flatten(1).sum(1)


@pytest.mark.parametrize(("c", "warned"), [(30.0, True), (5.0, False)])
def test_steps_that_are_too_long_are_named_once(c: float, warned: bool) -> None:
    """s²/2 c is 0.3 per pixel for c = 30, and 0.05 for c = 5."""
    energy = Energy(Slope(c), partial(torch.optim.SGD, lr=0.0))
    module = PCD(energy, num_langevin_steps=1, step_size=math.sqrt(0.02), buffer_size=8)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(module, data(images=True), max_steps=4, log_every_n_steps=1)
    texts = [str(w.message) for w in found if "model.step_size" in str(w.message)]
    assert len(texts) == int(warned)
    assert not warned or "at most 0.1 per pixel, got 0.3 at iteration 1 (train/step_rms" in texts[0]


def test_refused_steps_are_no_fault() -> None:
    """With Metropolis' test on, a step that is too long shows in the acceptance."""
    make = lambda metropolis: PCD(Energy(Slope(30.0)), metropolis=metropolis)
    assert [make(metropolis).tests_steps for metropolis in (True, False)] == [True, False]
    module = build("DAEBM", metropolis_from=3)
    assert not module.tests_steps
    module.iteration = 3
    assert module.tests_steps


# -------------------------------------------------------------------------------------------------- images to compare


def test_mnist_at_16_pixels_is_that_of_digits(tmp_path: Path) -> None:
    """A model of `Digits` can be compared with Fashion-MNIST of the same size."""
    write_digits(tmp_path)
    small, digits = MNIST(str(tmp_path), image_size=16), Digits("mnist", str(tmp_path))
    assert small.event_shape == (1, 16, 16)
    for one, other in zip(small.load("test"), digits.load("test"), strict=True):
        assert torch.equal(one, other)
