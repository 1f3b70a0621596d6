"""Modified equations of games and of adversarial training: orders of error and closed forms."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, vmap

from pt_flows.functional.modified_flow import (
    AdversarialTraining,
    Game,
    Scheme,
    covariance_of,
    euler_maruyama,
    follow,
    rows,
)

pytestmark = pytest.mark.slow

SCHEMES: tuple[Scheme, ...] = ("simultaneous", "alternating")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Compute in float64 here alone."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def smooth(z: Tensor) -> Tensor:
    """One value of a smooth game of two and two coordinates."""
    t, w = z[:2], z[2:]
    coupling = t @ torch.tensor([[1.0, 0.5], [-0.3, 0.8]]) @ w
    return (coupling + 0.3 * t.cos().sum() + 0.2 * (t * w).sin().sum() - 0.25 * w.square().sum()).reshape(1)


def ratios(errors: list[float]) -> list[float]:
    return [coarse / fine for coarse, fine in zip(errors, errors[1:], strict=False)]


def errors_of_game(run: Scheme, equation: Scheme, order: int) -> list[float]:
    z, game = torch.tensor([[0.7, -0.4, 0.5, 0.9]]), Game(smooth, 2)
    rates = (0.1, 0.05, 0.025)
    trained = [game.run(z, rate, round(1 / rate), run) for rate in rates]
    flows = [follow(game.drift(rate, equation, 1 if order == 1 else 2), z, 1.0, 50) for rate in rates]
    return [(a - b).norm().item() for a, b in zip(trained, flows, strict=True)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("order", "ratio"), [(1, 2.0), (2, 4.0)])
def test_errors_of_a_game_fall_with_the_order(scheme: Scheme, order: int, ratio: float) -> None:
    assert ratios(errors_of_game(scheme, scheme, order)) == pytest.approx([ratio, ratio], rel=0.12)


def test_the_correction_of_simultaneous_updates_is_wrong_for_alternating_ones() -> None:
    assert max(ratios(errors_of_game("alternating", "simultaneous", 2))) < 2.6


def test_bilinear_game_spirals_out_as_the_correction_predicts() -> None:
    """Φ = θω from (1, 0): the squared radius grows as exp(η² steps), and stays bounded if updates alternate."""
    z, game = torch.tensor([[1.0, 0.0]]), Game(lambda z: z.prod().reshape(1), 1)
    flow = follow(game.drift(0.01, "simultaneous"), z, 20.0)
    assert flow.square().sum().item() == pytest.approx(1.2214, abs=1e-3)
    assert game.run(z, 0.01, 2000, "simultaneous").square().sum().item() == pytest.approx(1.2214, abs=1e-3)
    assert game.run(z, 0.01, 2000, "alternating").square().sum().item() == pytest.approx(1.0, abs=0.02)


def coupled() -> Game:
    """A quadratic game whose players have correlated noises in the gradients of one pair."""
    a, b = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    b = 0.8 * a + 0.6 * b
    noise = lambda z: z[0] * (a - a.mean()) + z[1] * (b - b.mean())
    return Game(lambda z: z[0] * z[1] + 0.25 * z[0] ** 2 - 0.5 * z[1] ** 2 + noise(z), 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_players_that_share_a_minibatch_have_correlated_noise(scheme: Scheme) -> None:
    """One step from one point with minibatches of four has the covariance η² Σ / 4."""
    game, z = coupled(), torch.tensor([0.3, -0.2])
    after = game.run(z.expand(200_000, 2), 0.01, 1, scheme, 4, torch.Generator().manual_seed(1))
    sigma = game.covariance(z, scheme)
    torch.testing.assert_close(after.T.cov() * 4 / 0.01**2, sigma, rtol=0.02, atol=0.02)
    assert (abs(sigma[0, 1].item()) > 0.5) is (scheme == "simultaneous")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_players_trade_curvature_for_noise_at_stationarity(scheme: Scheme) -> None:
    """E[‖g_θ‖² - ‖g_ω‖²] = η / (2B) E Tr(Σ ∇²Φ), to leading order in η.

    Without a covariance between players this is η / (2B) E Tr(Σ_θ H_θθ + Σ_ω H_ωω).
    """
    rng = torch.Generator().manual_seed(0)
    game, rate, batch = coupled(), 0.02, 4
    z = game.run(torch.zeros(4000, 2), rate, 600, scheme, batch, rng)
    left = right = 0.0
    for _ in range(20):
        z = game.run(z, rate, 20, scheme, batch, rng)
        g = vmap(game.field)(z)
        left += (g[:, 0].square() - g[:, 1].square()).mean().item() / 20
        sigma, h = game.covariance(z[0], scheme), hessian(lambda z: game.values(z).mean())(z[0])
        right += rate / (2 * batch) * (sigma * h).sum().item() / 20
    assert left == pytest.approx(right, rel=0.15)


# ------------------------------------------------------------------------------------------------- adversarial training


def bounded(theta: Tensor, x: Tensor) -> Tensor:
    return (theta @ x).tanh().square() + 0.3 * (theta.sin() * x).sum().cos()


def errors_of_attack(ascents: int, fraction: float, order: int) -> list[float]:
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    theta, errors = torch.tensor([[0.8, -0.5, 0.3]]), []
    for rate in (0.08, 0.04, 0.02):
        problem = AdversarialTraining(bounded, data, ascents, fraction * rate)
        flow = follow(problem.drift(rate, 1 if order == 1 else 2), theta, 1.6, 40)
        errors.append((problem.run(theta, rate, round(1.6 / rate)) - flow).norm().item())
    return errors


@pytest.mark.parametrize(("ascents", "fraction"), [(0, 1.0), (1, 1.0), (3, 0.5)])
def test_errors_of_adversarial_training_fall_with_the_order(ascents: int, fraction: float) -> None:
    assert ratios(errors_of_attack(ascents, fraction, 2))[-1] == pytest.approx(4.0, rel=0.15)
    assert ratios(errors_of_attack(ascents, fraction, 1))[-1] == pytest.approx(2.0, rel=0.15)


def test_one_ascent_is_an_input_gradient_penalty_to_second_order() -> None:
    """The attacked gradient differs from ∇(G + η_I / 2 P) by O(η_I²)."""
    data, theta = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0.8, -0.5, 0.3])
    gaps = []
    for rate in (0.04, 0.02, 0.01):
        problem = AdversarialTraining(bounded, data, 1, rate)
        penalised = -problem.drift(0.0)(0.0, theta[None])[0]
        gaps.append((problem.gradients(theta).mean(0) - penalised).norm().item())
    assert ratios(gaps) == pytest.approx([4.0, 4.0], rel=0.15)


def test_attacked_mean_is_an_autoregression_with_a_known_variance() -> None:
    """L = (θ - x)² / 2, K = 3, both rates 0.1, B = 4, s = 1.5."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(200, generator=rng)
    data = 1.5 * (x - x.mean()) / x.std(correction=0)
    problem = AdversarialTraining(lambda theta, x: 0.5 * (theta[0] - x).square(), data, 3, 0.1)
    theta, a = torch.zeros(10_000, 1), 1.1**3
    assert torch.allclose(problem.gradients(theta[0])[:, 0], -a * data)
    end = problem.run(theta, 0.1, 60, 4, rng)
    assert end.var().item() == pytest.approx(0.1 * a * 1.5**2 / (4 * (2 - 0.1 * a)), rel=0.06)
    drift = rows(lambda theta: -problem.gradients(theta).mean(0))
    noise = lambda theta: covariance_of(problem.gradients(theta))
    path = euler_maruyama(drift, noise, (0.1 / 4) ** 0.5, theta[:4000], 4.0, 200, rng)
    assert path.var().item() == pytest.approx(0.1 * a * 1.5**2 / 8, rel=0.08)  # 0.0374, below the 0.0401 of the run


def test_euler_maruyama_has_the_noise_of_a_minibatch() -> None:
    """dθ = -θ dt + (η / B)^{1/2} s dW has variance η s² / (2B)."""
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(50, generator=rng)
    game = Game(lambda z: 0.5 * (z[0] - data).square(), 1)
    rate, batch = 0.1, 4
    drift, covariance = game.drift(rate, "simultaneous", 1), partial(game.covariance, scheme="simultaneous")
    path = euler_maruyama(drift, covariance, (rate / batch) ** 0.5, torch.zeros(5000, 1), 6.0, 300, rng)
    assert path.var().item() == pytest.approx(rate * data.var(correction=0).item() / (2 * batch), rel=0.08)
    assert torch.allclose(drift(0.0, path[:1])[0], -grad(lambda z: game.values(z).mean())(path[0]))
