"""REP-GAN, MH-GAN and DDLS: statements of their papers against closed forms, the calibrator, and bad input."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import build, data, fit
from test_evaluate import train
from torch import Tensor, nn

from pt_flows.cli.main import main
from pt_flows.contracts import CriticNet, GeneratorNet
from pt_flows.data import Shapes32, TwoDomains
from pt_flows.errors import UserError
from pt_flows.evaluation.subject import Subject
from pt_flows.functional.calibration import calibrate
from pt_flows.functional.langevin import Chain, chain_at, independent_step, mala_step, propose
from pt_flows.methods import ODEGAN, JSFlow
from pt_flows.nets import ResidualMLPGenerator, ResNetCritic, ResNetGenerator
from pt_flows.samplers import REPGAN, Chains, Direct, sample
from pt_flows.training.players import Critic, Generator
from pt_flows.training.requirements import check_samples

NUM = 1_500


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Function(GeneratorNet):
    """A generator that is a given function of one latent."""

    latent_shape, event_shape = (1,), (1,)

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.unused = function, nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)


class LogOdds(CriticNet):
    """A critic that is a given function of one number."""

    event_shape = (1,)

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.unused = function, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).squeeze(1)


def method_of(G: Callable[[Tensor], Tensor], s: Callable[[Tensor], Tensor]) -> JSFlow:
    """A method with known networks; s is the logit of its critic."""
    return JSFlow(Generator(Function(G), ema_decay=None), Critic(LogOdds(s)))


def drawn(method: Any, num: int = NUM, **arguments: Any) -> tuple[Tensor, dict[str, float]]:
    """Samples without calibration, and their diagnostics."""
    sampler = REPGAN(**{"calibrate": False, **arguments})
    x = sample(method, num, rng=rng(), weights="raw", sampler=sampler)
    return x.double(), sampler.diagnostics()


def assert_moments(x: Tensor, mean: float, std: float) -> None:
    """Normal samples have these moments, within 5 standard errors."""
    assert abs(float(x.mean()) - mean) < 5 * std / math.sqrt(len(x))
    assert abs(float(x.std()) - std) < 5 * std / math.sqrt(2 * len(x))


def affine() -> JSFlow:
    """G(z) = 1.5 z + 0.5 with the exact odds of data N(1, 0.6²): the latent target is N(1/3, 0.4²)."""
    s = lambda x: -0.5 * ((x - 1) / 0.6).square() + 0.5 * ((x - 0.5) / 1.5).square()
    return method_of(lambda z: 1.5 * z + 0.5, s)


# ------------------------------------------------------------------------------------------------------ the transition


def test_independent_proposals_are_accepted_as_in_mh_gan() -> None:
    D, D_new = torch.rand(2, 50, generator=rng(), dtype=torch.float64)
    s = lambda p: p.log() - (-p).log1p()
    x = torch.zeros(50, 1)
    _, _, acceptance = independent_step(lambda _: -s(D_new), x, -s(D), x + 1, rng())
    torch.testing.assert_close(acceptance, ((1 / D - 1) / (1 / D_new - 1)).clamp(max=1))


def test_constant_odds_leave_a_closed_form_of_the_ratio() -> None:
    """With η² = τ: log α = (τ/8)(‖u‖² - ‖u'‖²)."""
    tau, prior = 0.7, lambda u: 0.5 * u.square().sum(1)
    chain = chain_at(prior, torch.randn(50, 3, generator=rng(), dtype=torch.float64))
    moved, log_alpha = propose(prior, chain, math.sqrt(tau), rng(1))
    wanted = tau / 8 * (chain.x.square().sum(1) - moved.x.square().sum(1))
    torch.testing.assert_close(log_alpha, wanted.clamp(max=0), rtol=0, atol=1e-12)


class Given:
    """A source of one given draw of normal noise."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def normal(self, num: int, *shape: int) -> Tensor:
        return self.noise

    def uniform(self, num: int, *shape: int) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize("eta", [None, 0.4, 1.1])
def test_detailed_balance_on_a_grid(eta: float | None) -> None:
    """π(u) q(u'|u) α(u → u') is symmetric for a random network, whatever the noise of proposals."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    energy = lambda u: 0.5 * u.square().sum(1) - 3 * net(u).squeeze(1)
    grid, tau = torch.linspace(-2, 2, 21, dtype=torch.float64), 0.5
    start, end = (points.reshape(-1, 1) for points in torch.meshgrid(grid, grid, indexing="ij"))
    chain = chain_at(energy, start)
    std = eta or math.sqrt(tau)
    noise = (end - start + 0.5 * tau * chain.gradient) / std
    moved, log_alpha = propose(energy, chain, math.sqrt(tau), Given(noise), noise_std=eta)
    torch.testing.assert_close(moved.x, end)
    flux = (-chain.energy - 0.5 * noise.square().sum(1) + log_alpha).exp().view(21, 21)
    torch.testing.assert_close(flux, flux.T)
    assert float(log_alpha.min()) < -0.1


def test_other_noise_keeps_the_target_and_default_noise_every_bit() -> None:
    energy, x = lambda u: 0.5 * (u.square() / 0.16).sum(1), 0.4 * torch.randn(NUM, 1, generator=rng(5))
    a, b = (mala_step(energy, chain_at(energy, x), 0.3, rng(), noise_std=std) for std in (None, 0.3))
    torch.testing.assert_close(a[0].x, b[0].x, rtol=1e-5, atol=1e-6)
    chain, noise = chain_at(energy, x), rng()
    for _ in range(40):
        chain, acceptance = mala_step(energy, chain, 0.3, noise, noise_std=0.2)
    assert 0.5 < float(acceptance.mean()) < 0.99
    assert_moments(chain.x, 0, 0.4)


def test_each_chain_is_tested_alone() -> None:
    """If no proposal of half of the chains has any odds, exactly these stay."""
    dead = torch.arange(40) < 20
    walled = lambda u: torch.where(dead & (u != 0).any(1), math.inf, 0.0 * u.sum(1))
    start = torch.zeros(40, 2)
    chain = Chain(start, torch.zeros(40), torch.zeros(40, 2))
    moved, acceptance = mala_step(walled, chain, 0.5, rng())
    x, _, independent = independent_step(walled, start, torch.zeros(40), torch.ones(40, 2), rng())
    for found, probability in ((moved.x, acceptance), (x, independent)):
        assert torch.equal((found == 0).all(1), dead)
        assert torch.equal(probability == 0, dead)


# ---------------------------------------------------------------------------------------------------------- the sampler


def test_constant_odds_leave_the_generators_samples_as_they_are() -> None:
    x, found = drawn(method_of(lambda z: z, torch.zeros_like), num_steps=80, step_size=0.3)
    assert_moments(x, 0, 1)
    assert found["acceptance"] == pytest.approx(0.987, abs=0.003)
    assert found["never_moved"] == 0


@pytest.mark.parametrize("arguments", [{"step_size": 0.05}, {"step_size": 0.3}, {"proposal": "independent"}])
def test_exact_odds_give_the_data(arguments: dict[str, Any]) -> None:
    x, _ = drawn(affine(), num_steps=60, **arguments)
    assert_moments(x, 1, 0.6)


def test_exact_odds_give_the_data_through_a_map_that_folds() -> None:
    """G(z) = z² makes χ² with one degree of freedom; the data are exponential."""
    s = lambda x: -0.5 * x + 0.5 * x.log()
    x, _ = drawn(method_of(lambda z: z.square(), s), num_steps=20, proposal="independent")
    for power, moment, variance in ((1, 1, 1), (2, 2, 20)):
        assert abs(float(x.pow(power).mean()) - moment) < 5 * math.sqrt(variance / NUM)


@pytest.mark.slow
def test_langevin_chains_give_the_data_through_a_map_that_folds() -> None:
    s = lambda x: -0.5 * x + 0.5 * x.log()
    x, _ = drawn(method_of(lambda z: z.square(), s), num_steps=2_000, step_size=0.2)
    assert abs(float(x.mean()) - 1) < 5 / math.sqrt(NUM)
    assert abs(float(x.square().mean()) - 2) < 5 * math.sqrt(20 / NUM)


def test_constant_shifts_of_the_logit_cancel() -> None:
    one, other = affine(), affine()
    shifted = other.critic.network.function
    other.critic.network.function = lambda x: shifted(x) + 2
    for arguments in ({}, {"proposal": "independent"}):
        a, b = (drawn(method, 300, num_steps=20, step_size=0.1, **arguments)[0] for method in (one, other))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_without_the_test_the_bias_is_that_of_euler_steps() -> None:
    """A latent variance v becomes v / (1 - τ/(4v)): 0.301 for 0.16 and τ = 0.3."""
    x, _ = drawn(affine(), num_steps=60, step_size=0.3, metropolis=False)
    assert_moments(x, 1, 1.5 * math.sqrt(0.16 / (1 - 0.3 / 0.64)))


def test_short_steps_are_accepted_and_take_long() -> None:
    """After 20 steps of τ = 0.01 chains are where the recursion of Euler steps says, still near the generator's."""
    x, found = drawn(affine(), num_steps=20)
    mean, variance, rate = 0.0, 1.0, 0.01 / 0.32
    for _ in range(20):
        mean, variance = mean + rate * (1 / 3 - mean), (1 - rate) ** 2 * variance + 0.01
    assert (1.5 * mean + 0.5, 1.5 * math.sqrt(variance)) == pytest.approx((0.735, 0.946), abs=1e-3)
    assert_moments(x, 1.5 * mean + 0.5, 1.5 * math.sqrt(variance))
    assert found["acceptance"] > 0.99
    _, longer = drawn(affine(), 500, num_steps=20, step_size=0.1)
    assert longer["acceptance"] < found["acceptance"]


@pytest.mark.parametrize("num_steps", [60, pytest.param(640, marks=pytest.mark.slow)])
def test_other_noise_of_proposals_mixes_less_well(num_steps: int) -> None:
    """For τ = 0.1, chains with η = √τ are at the target. With η = 0.1 most proposals are rejected."""
    x, found = drawn(affine(), num_steps=num_steps, step_size=0.1)
    assert_moments(x, 1, 0.6)
    assert found["acceptance"] > 0.9
    x, found = drawn(affine(), num_steps=num_steps, step_size=0.1, noise_std=0.1)
    assert float(x.std()) == pytest.approx(1.5, abs=0.12)
    assert found["acceptance"] == pytest.approx(0.27, abs=0.05)


def test_latents_of_another_scale_make_the_same_chains() -> None:
    one, other = affine(), affine()
    function = other.generator.network.function
    other.generator.network.latent_std = 0.1
    other.generator.network.function = lambda z: function(10 * z)
    for arguments in ({}, {"proposal": "independent"}):
        a, b = (drawn(method, 100, num_steps=10, step_size=0.1, **arguments)[0] for method in (one, other))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_batch_norm_in_training_mode_changes_nothing() -> None:
    """The networks are used in evaluation mode, and are in their own again afterwards."""
    pair = (lambda: ResidualMLPGenerator(width=8), lambda: build("WGANGP").critic.network)
    method = build("WGANGP", pair=pair)
    fit(method, data(), max_steps=2)
    found = []
    for is_training in (True, False):
        method.train(is_training)
        modes = [m.training for m in method.modules()]
        found.append(sample(method, 20, rng=rng(), sampler=REPGAN(3), data=data()))
        assert [m.training for m in method.modules()] == modes
    assert torch.equal(*found)


def test_chains_begin_at_the_generators_samples_and_keep_their_labels() -> None:
    G, D = ResNetGenerator(width=4, latent_dim=8, num_classes=10), ResNetCritic(width=4, num_classes=10)
    for table in (m for net in (G, D) for m in net.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(table.weight)
    method, images, y = ODEGAN(G, D, 0.01), Shapes32(batch_size=8), torch.tensor([3, 7, 7])
    images.num_classes = 10
    for labels in (y, None):
        start = sample(method, 3, labels, rng())
        for proposal in ("langevin", "independent"):
            sampler = REPGAN(2, 1e-12, proposal=proposal, num_calibration=20)
            x = sample(method, 3, labels, rng(), sampler=sampler, data=images)
            assert x.shape == start.shape
            if proposal == "langevin":
                torch.testing.assert_close(x, start, rtol=0, atol=1e-3)
    seen = []
    hook = method.critic.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    sample(method, 3, y, rng(), sampler=REPGAN(2, calibrate=False))
    hook.remove()
    assert seen == 3 * [y.tolist()]


# ------------------------------------------------------------------------------------------------------ the calibrator


def test_calibration_finds_the_log_ratio_of_densities() -> None:
    """Scores N(m ± 1, 1) scaled by c have log-odds 2 (score / c - m), within 5 standard errors."""
    torch.manual_seed(0)
    for scale, centre in ((1.0, 0.0), (1e-4, 5.0), (1e4, -3.0)):
        x = torch.randn(2, 20_000, dtype=torch.float64) + torch.tensor([[1.0], [-1.0]])
        line = calibrate(*(scale * (x + centre)))
        assert line.slope * scale == pytest.approx(2, abs=0.1)
        assert line.intercept == pytest.approx(-2 * centre, abs=0.1 * (1 + abs(centre)))
        assert line.spread == pytest.approx(2 * math.sqrt(2), abs=0.15)
        torch.testing.assert_close(line(torch.tensor(2.0)), torch.tensor(2 * line.slope + line.intercept))


def test_calibration_is_the_best_line_and_weighs_both_sides_the_same() -> None:
    torch.manual_seed(1)
    real, generated = torch.randn(300, dtype=torch.float64) + 1, 2 * torch.randn(700, dtype=torch.float64)
    line = calibrate(real, generated)
    wrong = lambda scores: line(scores).sigmoid()
    for moment in (torch.ones_like, lambda scores: scores):  # the slopes of the cross entropy vanish
        slope = ((wrong(real) - 1) * moment(real)).mean() + (wrong(generated) * moment(generated)).mean()
        assert abs(float(slope)) < 1e-5
    twice = calibrate(real.repeat(5), generated)
    assert twice.slope == pytest.approx(line.slope, rel=1e-9)
    assert calibrate(-real, -generated).slope == pytest.approx(-line.slope, rel=1e-9)


def test_separated_scores_have_a_finite_slope() -> None:
    line = calibrate(torch.linspace(1, 2, 50), torch.linspace(-2, -1, 50))
    assert 5 < line.spread < 40
    assert line.intercept == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, 40.0)])
def test_any_scale_of_a_critic_is_calibrated(scale: float, shift: float) -> None:
    """Real samples N(1, 1) of toys' first coordinate, generated ones N(0, 1): the log-odds are x - ½."""
    method = build("WGANGP")
    method.generator.network.forward = method.generator.ema.network.forward = lambda z: z
    method.critic.network.forward = lambda x: scale * x[:, 0] + shift
    method.generator.network.latent_shape = (2,)
    real = data(target="gaussian")
    real.held_out = lambda num: (torch.randn(num, 2, generator=rng(3)) + 1, torch.zeros(num, dtype=torch.int64))
    sampler = REPGAN(40, 0.5)
    x = sample(method, 2_000, rng=rng(), sampler=sampler, data=real)
    assert sampler.diagnostics()["calibrator_slope"] * scale == pytest.approx(1, abs=0.12)
    assert float(x[:, 0].mean()) == pytest.approx(1, abs=0.2)
    assert abs(float(x[:, 1].mean())) < 5 / math.sqrt(2_000)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (lambda x: 5 * (x[:, 0] > 3).float(), "almost surely, so chains freeze"),
        (lambda x: torch.sin(1e4 * x[:, 1]), "hardly tells real from generated"),
        (lambda x: -x[:, 0], "higher on generated samples than on real ones"),
    ],
)
def test_a_suspicious_calibration_is_told_once(critic: Callable[[Tensor], Tensor], message: str) -> None:
    method, real = build("WGANGP"), data()
    method.critic.network.forward = critic
    real.held_out = lambda num: (torch.randn(num, 2, generator=rng(3)) + 9, torch.zeros(num, dtype=torch.int64))
    sampler = REPGAN(1, num_calibration=500)
    with pytest.warns(UserWarning, match=message):
        sampler.prepare(method, "ema", real)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.prepare(method, "ema", real)


def test_real_samples_of_the_calibration_are_used_for_nothing_else() -> None:
    toys, images = data(), Shapes32(batch_size=8)
    x, y = toys.held_out(100)
    assert torch.equal(x, data().held_out(100)[0])
    assert not bool(y.any())
    for split in ("train", "test"):
        assert not bool((x[:, None] == toys.reference(split, 100)).any())
    x, y = images.held_out(50)
    check_samples("held out", x, 50, images.event_shape)
    shown = images.reference("test", 50).float() / 127.5 - 1
    torch.testing.assert_close(x, shown)
    assert len(y) == 50
    assert torch.equal(TwoDomains(images, toys).held_out(7)[0], toys.held_out(7)[0])


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "REPGAN.num_steps: expected at least 1, got 0"),
        ({"step_size": 0.0}, "REPGAN.step_size: expected a number above 0, got 0.0"),
        ({"noise_std": -0.1}, "REPGAN.noise_std: expected a number above 0, got -0.1"),
        ({"num_calibration": 0}, "REPGAN.num_calibration: expected at least 1"),
        ({"proposal": "random"}, "REPGAN.proposal: expected one of langevin, independent"),
        ({"proposal": "independent", "metropolis": False}, "REPGAN.metropolis: expected true"),
    ],
)
def test_arguments_out_of_their_bounds(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        REPGAN(**arguments)


@pytest.mark.parametrize("name", ["MinibatchW2FE", "PCD"])
def test_methods_without_a_critic_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"expected a method with a generator and a critic for REPGAN, got {name}"):
        sample(build(name), 2, sampler=REPGAN(), data=data())
    assert not isinstance(Subject(build(name), sampler=REPGAN()).chosen, Direct | Chains)


def test_methods_with_a_draw_of_their_own_are_refused() -> None:
    class Own(JSFlow):
        def sample(self, num: int, y: Any = None, rng: Any = None, weights: Any = "ema") -> Tensor:
            return torch.zeros(num, 2)

    method = build("JSFlow")
    method.__class__ = Own
    with pytest.raises(UserError, match=r"expected a method without a draw of its own for REPGAN, got Own\. Use Dire"):
        sample(method, 2, sampler=REPGAN(calibrate=False))


def test_generators_that_move_data_take_independent_proposals() -> None:
    method = build("WGANGP")
    method.generator.start_from(data())
    with pytest.raises(UserError, match=r"expected a generator from normal noise .* that moves data\. Set proposal to"):
        sample(method, 2, sampler=REPGAN(), data=data())
    assert sample(method, 2, rng=rng(), sampler=REPGAN(3, proposal="independent", calibrate=False)).shape == (2, 2)


@pytest.mark.parametrize(
    ("critic", "message"),
    [
        (lambda x: torch.full((len(x),), 0.25), "expected scores of WGANGP's critic that differ, got 0.25 for all"),
        (lambda x: torch.full((len(x),), math.nan), "expected scores of WGANGP's critic that are finite, got others"),
    ],
)
def test_degenerate_scores(critic: Callable[[Tensor], Tensor], message: str) -> None:
    method = build("WGANGP")
    method.critic.network.forward = critic
    with pytest.raises(UserError, match=message):
        sample(method, 2, sampler=REPGAN(num_calibration=50), data=data())


def test_calibration_without_data_or_with_too_few() -> None:
    with pytest.raises(UserError, match=r"expected the data of WGANGP, .* got none\. Give them, or set calibrate to f"):
        sample(build("WGANGP"), 2, sampler=REPGAN())
    with pytest.raises(UserError, match="expected 10 real samples that calibrate REPGAN, got 9"):
        sample(build("WGANGP"), 2, sampler=REPGAN(num_calibration=9), data=data())


def test_chains_that_diverge_are_one_sentence() -> None:
    method = method_of(lambda z: z, lambda x: x.square().square())
    with pytest.raises(UserError, match=r"REPGAN.step_size: expected chains that stay finite, got \d+ of 20 others"):
        drawn(method, 20, num_steps=20, step_size=1.0, metropolis=False)


# ----------------------------------------------------------------------------------------------------- as a user does


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:REPGAN. the critic's log-odds")
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers during training, the passport's sampler and costs, a file of samples, and a lost run folder."""
    words = ["--data.batch_size", "32", "--evaluation.num_samples", "20", "--pictures.every_n_iterations", "0"]
    words += ["--evaluation.sampler", "REPGAN", "--evaluation.sampler.num_steps", "2"]
    run = str(train("toy2d/wgan_gp", tmp_path / "runs", 2, *words, "--evaluation.sampler.num_calibration", "50"))
    assert "eval/acceptance" in Path(run, "metrics.csv").read_text()
    (record,) = Path(run, "evaluations").glob("*.json")
    assert json.loads(record.read_text())["passport"]["directions"]["acceptance"] == ""
    sampler = ["--sampler", "REPGAN", "--sampler.num_steps", "5", "--sampler.num_calibration", "60", "--device", "cpu"]
    capsys.readouterr()
    assert main(["evaluate", run, *sampler, "--n", "30", "--metrics", "[{class_path: ExactWasserstein}]"]) == 0
    out = capsys.readouterr().out
    assert "  acceptance  " in out
    assert "  calibrator_slope  " in out
    (record,) = Path(run, "evaluations").glob("*num_steps=5*.json")
    passport, numbers = json.loads(record.read_text()).values()
    assert passport["sampler"].startswith("REPGAN(num_steps=5, step_size=0.01, noise_std=None, proposal=langevin, ")
    wanted = {"sampling_generator": 7, "sampling_critic": 6, "preparing_generator": 60, "preparing_critic": 120}
    assert {key: value for key, value in passport["cost"].items() if "ing_" in key} == wanted
    assert 0 <= numbers["acceptance"] <= 1
    assert main(["sample", run, *sampler, "--n", "8", "--out", "x.npz"]) == 0
    assert "  never_moved  " in capsys.readouterr().out
    assert main(["sample", run, "--sampler", "GradientFlow", "--n", "8", "--device", "cpu"]) == 0
    assert "  latent_norm  " in capsys.readouterr().out
    checkpoint = Path(run, "checkpoints/last.ckpt").rename("alone.ckpt")
    assert main(["sample", str(checkpoint), *sampler]) == 2
    assert "expected a checkpoint in its run folder" in capsys.readouterr().err
    assert main(["sample", str(checkpoint), "--sampler", "REPGAN", "--sampler.step_size", "0"]) == 2
    assert "sampler.step_size: expected a number above 0, got 0" in capsys.readouterr().err
