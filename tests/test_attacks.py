"""Attacks against closed forms, adversarial linear regression, and the flow that adversarial training follows."""

import math
from typing import Any

import pytest
import torch
from problems import ONE_OF_EACH_KIND, build, data, fit, slow_but_for, weights
from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.functional.attacks import (
    PGD,
    Ascent,
    FastGradient,
    Norm,
    exact_linear,
    input_gradient_penalty,
    soft_threshold,
)
from pt_flows.functional.prediction import prediction_losses

C0 = math.sqrt(2 / math.pi)
D64 = torch.float64


def linear_data(num: int, dim: int, sparsity: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    theta = torch.zeros(dim, dtype=D64)
    theta[:sparsity] = sparsity**-0.5
    x = torch.randn(num, dim, generator=rng, dtype=D64)
    return x, x @ theta + noise * torch.randn(num, generator=rng, dtype=D64), theta


def population_risk(theta: Tensor, truth: Tensor, epsilon: float, noise: float = 0.5) -> float:
    v = float((theta - truth).square().sum()) + noise**2
    norm = float(theta.norm())
    return v + 2 * C0 * epsilon * norm * math.sqrt(v) + epsilon**2 * norm**2


def ridge(alpha: float, epsilon: float, noise: float = 0.5) -> float:
    """The λ of the ridge-like fixed point θ* = θ₀ / (1 + λ), at θ = α θ₀ with ‖θ₀‖ = 1 and Σ = I."""
    v = (1 - alpha) ** 2 + noise**2
    return (C0 * epsilon * math.sqrt(v) / alpha + epsilon**2) / (1 + C0 * epsilon * alpha / math.sqrt(v))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_exact_attack_of_a_linear_model_is_the_worst(norm: Norm) -> None:
    x, y, _ = linear_data(50, 6, 3, 0)
    theta = torch.randn(6, dtype=D64)
    delta, worst = exact_linear(theta, x @ theta - y, 0.7, norm)
    loss = lambda u: (u @ theta - y).square()
    torch.testing.assert_close(loss(x + delta), worst)
    for attack in (FastGradient(0.7, norm), PGD(0.7, norm)):
        torch.testing.assert_close(loss(attack(loss, x)), worst)
    for _ in range(200):
        other = torch.randn(50, 6, dtype=D64)
        other = 0.7 * other / other.norm(dim=1, keepdim=True) if norm == "l2" else 0.7 * other.sign()
        assert bool((loss(x + other) <= worst + 1e-9).all())


def test_population_risk_is_the_mean_of_the_worst_losses() -> None:
    x, y, truth = linear_data(400_000, 10, 10, 1)
    theta = 0.7295 * truth
    risk = float(exact_linear(theta, x @ theta - y, 0.5, "l2")[1].mean())
    assert population_risk(theta, truth, 0.5) == pytest.approx(0.7871, abs=1e-4)
    assert risk == pytest.approx(0.7871, rel=0.01)
    assert population_risk(truth, truth, 0.5) == pytest.approx(0.8989, abs=1e-4)


@pytest.mark.parametrize(("epsilon", "alpha", "lam"), [(0.5, 0.7294, 0.371), (1.0, 0.1745, None)])
def test_the_best_parameters_are_a_ridge_like_fixed_point(epsilon: float, alpha: float, lam: float | None) -> None:
    """The least risk on a grid, which is below that of θ = 0, is at α = 1 / (1 + λ(α))."""
    truth = torch.ones(1, dtype=D64)
    risks = [population_risk(a / 10_000 * truth, truth, epsilon) for a in range(10_001)]
    best = risks.index(min(risks)) / 10_000
    assert best == pytest.approx(alpha, abs=2e-4)
    assert 1 / (1 + ridge(best, epsilon)) == pytest.approx(best, abs=2e-4)
    if lam is not None:
        assert ridge(best, epsilon) == pytest.approx(lam, abs=1e-3)


def test_the_best_parameters_vanish_beyond_a_threshold() -> None:
    truth, threshold = torch.ones(1, dtype=D64), 1 / (C0 * math.sqrt(1.25))
    assert threshold == pytest.approx(1.121, abs=1e-3)
    risk = lambda alpha, epsilon: population_risk(alpha * truth, truth, epsilon)
    assert risk(1e-3, threshold - 0.01) < risk(0.0, threshold) == 1.25
    assert min(risk(a / 1000, threshold + 0.01) for a in range(1, 1000)) > 1.25


def trained(x: Tensor, y: Tensor, epsilon: float, l1: float = 0.0, num_steps: int = 4000, xi: float = 0.01) -> Tensor:
    """θ by gradient descent at attacked data, with the proximal step."""
    theta = torch.full((x.shape[1],), 0.01, dtype=D64)
    lr = 0.5 / (2 * float(torch.linalg.matrix_norm(x, 2)) ** 2 / len(x) + 2 * epsilon**2 + 1)
    attack: Any = FastGradient(epsilon, "l2", xi)
    for _ in range(num_steps):
        u = attack(lambda u, theta=theta: (u @ theta - y).square(), x) if epsilon else x
        theta = soft_threshold(theta - lr * 2 * u.T @ (u @ theta - y) / len(x), lr * l1)
    return theta


@pytest.mark.slow
def test_adversarial_training_is_consistent_in_low_dimension() -> None:
    excess = []
    for num in (200, 2000):
        runs = [linear_data(num, 10, 10, seed) for seed in range(3)]
        risks = [population_risk(trained(x, y, 0.5, num_steps=800), truth, 0.5) for x, y, truth in runs]
        excess.append(sum(risks) / 3 - 0.7871)
    assert 0 < 5 * excess[1] < excess[0]


@pytest.mark.slow
def test_an_l1_penalty_restores_consistency_in_high_dimension() -> None:
    x, y, truth = linear_data(100, 400, 5, 0)
    assert population_risk(trained(x, y, 0.3), truth, 0.3) > 1.25  # that of θ = 0
    sparse = trained(x, y, 0.3, l1=0.2)
    assert population_risk(sparse, truth, 0.3) < 0.8
    assert int((sparse != 0).sum()) < 100


def test_the_smoothed_attack_is_short_and_continuous_at_zero() -> None:
    x, y, _ = linear_data(20, 4, 4, 0)
    move = lambda attack, theta: attack(lambda u: (u @ theta - y).square(), x) - x
    theta = torch.randn(4, dtype=D64)
    lengths = [move(FastGradient(0.5, "l2", xi), theta).norm(dim=1) for xi in (1.0, 1e-2, 1e-6)]
    assert all(bool((length < 0.5).all()) for length in lengths)
    torch.testing.assert_close(lengths[-1], torch.full((20,), 0.5, dtype=D64), rtol=1e-4, atol=0)
    near, smooth, exact = 1e-6 * theta, FastGradient(0.5, "l2", 0.1), FastGradient(0.5, "l2")
    bound = 0.5 * 2 * float(y.abs().max() * near.norm()) / 0.1
    assert float((move(smooth, near) - move(smooth, -near)).norm(dim=1).max()) <= 2 * bound * 1.01
    torch.testing.assert_close((move(exact, near) - move(exact, -near)).norm(dim=1), torch.ones(20, dtype=D64))
    assert not move(exact, 0 * theta).any()


def test_the_proximal_step_is_optimal_and_gives_the_lasso() -> None:
    u = torch.tensor([-0.5, -0.2, 0.0, 0.3, 0.31])
    assert (soft_threshold(u, 0.3) == 0).tolist() == (u.abs() <= 0.3).tolist()
    x, y, _ = linear_data(60, 12, 3, 2)
    theta = trained(x, y, 0.0, l1=0.2, num_steps=3000)
    beta = torch.zeros(12, dtype=D64)  # coordinate descent on the same objective: mean squared error + 0.2 ‖θ‖₁
    for _ in range(500):
        for j in range(12):
            rest = y - x @ beta + x[:, j] * beta[j]
            scale = x[:, j].square().mean()
            beta[j] = soft_threshold((x[:, j] * rest).mean(), 0.1) / scale
    torch.testing.assert_close(theta, beta, rtol=0, atol=1e-8)
    torch.testing.assert_close(trained(x, y, 0.0, num_steps=5000), torch.linalg.lstsq(x, y).solution, rtol=0, atol=1e-8)


def test_unbounded_ascent_has_its_closed_form_and_stationary_variance() -> None:
    """L = (θ - x)² / 2: the outer gradient is (1 + η_I)^K (θ - x), and θ is an AR(1) process."""
    x, theta = torch.randn(7, 1, dtype=D64), torch.tensor(0.3, dtype=D64)
    u = Ascent(3, 0.1)(lambda v: 0.5 * (theta - v).square().sum(1), x)
    torch.testing.assert_close(theta - u, 1.1**3 * (theta - x))
    assert torch.equal(Ascent(0, 0.1)(lambda v: v.sum(1), x), x)
    rng, a, eta, B, s = torch.Generator().manual_seed(0), 1.1**3, 0.1, 4, 1.5
    state, seen = torch.zeros(4000, 1, dtype=D64), []
    for step in range(150):
        batch = s * torch.randn(4000, B, generator=rng, dtype=D64)
        u = Ascent(3, 0.1)(lambda v, state=state: 0.5 * (state - v).square().sum(1), batch)
        state = state - eta * (state - u).mean(1, keepdim=True)
        seen += [state.square().mean()] if step >= 50 else []
    exact = eta * a * s**2 / (B * (2 - eta * a))
    assert exact == pytest.approx(0.0401, abs=1e-4)
    assert float(torch.stack(seen).mean()) == pytest.approx(exact, rel=0.03)


def test_one_step_of_ascent_is_a_penalty_on_input_gradients() -> None:
    """The gradient at attacked data is that of G + η P / 2, up to the square of η."""
    torch.manual_seed(0)
    x, y = torch.randn(20, 3, dtype=D64), torch.randint(0, 2, (20,))
    w = [torch.randn(3, 8, dtype=D64, requires_grad=True), torch.randn(8, 2, dtype=D64, requires_grad=True)]
    losses = lambda u: prediction_losses((u @ w[0]).tanh() @ w[1], y)

    def error(eta: float) -> float:
        found = torch.autograd.grad(losses(Ascent(1, eta)(losses, x)).mean(), w)
        wanted = torch.autograd.grad(losses(x).mean() + eta / 2 * input_gradient_penalty(losses, x), w)
        return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True)))

    assert error(0.02) / error(0.01) == pytest.approx(4, rel=0.05)


def test_training_on_attacked_data_flattens_a_logistic_model() -> None:
    """At convergence, at the price of a higher clean loss. At equal clean losses this linear model shows no gain."""
    torch.manual_seed(0)
    x = torch.randn(300, 5, dtype=D64)
    y = (x[:, 0] + 0.5 * torch.randn(300, dtype=D64) > 0).long()
    slopes, rises = [], []
    for attack in (Ascent(0, 0.2), Ascent(3, 0.2)):
        w = torch.zeros(5, 2, dtype=D64, requires_grad=True)
        losses = lambda u, w=w: prediction_losses(u @ w, y)
        for _ in range(300):
            (g,) = torch.autograd.grad(losses(attack(losses, x)).mean(), w)
            w.data -= 0.2 * g
        slopes.append(input_gradient_penalty(losses, x).item())
        rises.append((losses(FastGradient(0.3)(losses, x)) - losses(x)).mean().item())
    assert slopes[1] < 0.5 * slopes[0]
    assert rises[1] < 0.7 * rises[0]


def test_attacks_stay_in_their_ball_and_have_names() -> None:
    x = torch.randn(9, 2, 3)
    loss = lambda u: (u.sin() * 3).flatten(1).sum(1)
    assert float((PGD(0.3)(loss, x) - x).abs().max()) <= 0.3 + 1e-6
    assert float((PGD(0.3, "l2")(loss, x) - x).flatten(1).norm(dim=1).max()) <= 0.3 + 1e-6
    named = [PGD(0.2), PGD(0.2, "l2", 5, 0.1), FastGradient(0.5), FastGradient(0.5, smoothing=0.1), Ascent(2, 0.1)]
    assert len({attack.name for attack in named}) == 5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PGD(-0.1), r"PGD.epsilon: expected at least 0, got -0.1"),
        (lambda: FastGradient(0.1, "l3"), r"FastGradient.norm: expected one of l2, linf, got 'l3'"),  # type: ignore[arg-type]
        (lambda: Ascent(-1), r"Ascent.num_steps: expected at least 0, got -1"),
    ],
)
def test_bad_attacks_are_one_sentence(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


HARDENED = ["W1FE", "DAEBM", "WGANGP", "SNGAN", "R3GAN", "GradientLayers", "W2FE", "JSFlow", "PCD", "ImprovedCD"]


@pytest.mark.parametrize("name", slow_but_for(HARDENED, ONE_OF_EACH_KIND.__contains__))
def test_one_option_hardens_critics_and_energies(name: str) -> None:
    """Data and samples are moved against the network before its loss."""
    results = []
    for epsilon in (None, 0.0, 0.5):
        module = build(name)
        player = module.critic if hasattr(module, "critic") else module.energy
        player.attack = None if epsilon is None else FastGradient(epsilon)
        fit(module, data(), max_steps=2)
        results.append(weights(module))
    torch.testing.assert_close(results[1], results[0])
    assert not torch.allclose(results[2], results[0])


def test_attacked_samples_are_taken_for_the_other_kind() -> None:
    from pt_flows.training.steps import attacked

    score = lambda u: u.sum(1)
    x, y = attacked(FastGradient(1.0, "linf"), score, torch.zeros(2, 3), torch.zeros(2, 3))
    assert (x.unique().tolist(), y.unique().tolist()) == ([-1.0], [1.0])
