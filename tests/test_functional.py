"""Penalties, potentials and schedules against closed forms."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close as close

from pt_flows.functional.energies import GaussianMixture, ring_of_eight
from pt_flows.functional.penalties import gradient_norm, interpolate, one_sided_penalty, two_sided_penalty
from pt_flows.functional.potentials import euler_target, regression_loss, velocity, wasserstein1_dual
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.training.schedules import Progress, Schedule

SHAPES = [(2,), (3, 4, 5)]


def linear_critic(slope: torch.Tensor):
    return lambda x: x.flatten(1) @ slope.flatten() + 0.7


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_penalties_of_a_linear_critic(shape: tuple[int, ...], scale: float) -> None:
    w = torch.randn(shape, dtype=torch.float64)
    w *= scale / w.norm()
    norm = gradient_norm(linear_critic(w), torch.randn(7, *shape, dtype=torch.float64))
    close(norm, torch.full((7,), scale, dtype=torch.float64))
    assert two_sided_penalty(norm).item() == pytest.approx((scale - 1) ** 2, abs=1e-10)
    assert one_sided_penalty(norm).item() == pytest.approx(max(scale - 1, 0) ** 2, abs=1e-10)


def test_gradient_norm_is_over_all_coordinates_and_per_sample() -> None:
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    norm = gradient_norm(lambda u: (u**2).flatten(1).sum(1), x)
    close(norm, 2 * x.flatten(1).norm(dim=1))


def test_interpolation_uses_one_coefficient_per_sample() -> None:
    x, y, a = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4), torch.tensor([0.0, 0.25, 1.0])
    u = interpolate(x, y, a)
    assert torch.equal(u.flatten(1).amin(1), a)
    assert torch.equal(u.flatten(1).amax(1), a)
    assert torch.equal(interpolate(x, x, a), x)


def test_a_dead_critic_has_finite_gradients() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.constant_(net[0].bias, -100.0)
    two_sided_penalty(gradient_norm(lambda u: net(u).squeeze(1), torch.randn(4, 2))).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


def test_penalty_gradient_equals_finite_differences() -> None:
    net = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 1)).double()
    u = torch.randn(6, 2, dtype=torch.float64)
    loss = lambda: two_sided_penalty(gradient_norm(lambda v: net(v).squeeze(1), u))
    loss().backward()
    weight = net[0].weight
    for index in [(0, 0), (3, 1)]:
        with torch.no_grad():
            weight[index] += 1e-6
            above = loss()
            weight[index] -= 2e-6
            below = loss()
            weight[index] += 1e-6
        assert weight.grad is not None
        assert weight.grad[index].item() == pytest.approx(((above - below) / 2e-6).item(), rel=1e-6)


def test_linear_critic_under_the_penalty_has_the_slope_of_the_notes() -> None:
    """a* = 1 + Δ / 2λ and dual value Δ + Δ² / 4λ; with λ = 10, Δ = 1.3 these are 1.065 and 1.34225."""
    lam, delta = 10.0, 1.3
    u = torch.tensor([0.6, 0.8], dtype=torch.float64)
    y = torch.randn(64, 2, dtype=torch.float64)
    x = y + delta * u

    def value(a: float) -> float:
        f = linear_critic(a * u)
        return (wasserstein1_dual(f, x, y) - lam * two_sided_penalty(gradient_norm(f, x))).item()

    best = 1 + delta / (2 * lam)
    assert value(best) == pytest.approx(delta + delta**2 / (4 * lam), abs=1e-9)
    assert value(best) > max(value(best - 0.01), value(best + 0.01))


@pytest.mark.parametrize("dim", [1, 3])
def test_translates_approach_at_unit_speed_then_oscillate(dim: int) -> None:
    """W1(μ_n) = ‖δ‖ - nε, then r, ε - r, r, ...: a linear potential is optimal between translates."""
    step, direction = 0.3, torch.zeros(dim, dtype=torch.float64)
    direction[0] = 1.0
    x = torch.randn(50, dim, dtype=torch.float64)
    y, distances = x - direction, []
    for _ in range(6):
        gap = float((x - y).mean(0) @ direction)
        v = velocity(linear_critic(direction * (1 if gap > 0 else -1)), y)
        y = euler_target(y, v, step)
        distances.append(exact_wasserstein(y, x, p=1))
    assert distances == pytest.approx([0.7, 0.4, 0.1, 0.2, 0.1, 0.2], abs=1e-9)


def test_one_dimensional_velocity_lowers_w1_by_exactly_the_step() -> None:
    """N(1, 2²) to N(6, 0.5²): the velocity is sign(F_fake - F_real), the first decrements are ε."""
    grid = torch.linspace(0.5 / 2000, 1 - 0.5 / 2000, 2000, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0).icdf(grid)
    y, x, step = 1 + 2 * normal, 6 + 0.5 * normal, 0.05
    w1 = lambda: (y.sort().values - x).abs().mean().item()
    for _ in range(5):
        before = w1()
        below_fake = torch.searchsorted(y.sort().values, y, right=True)
        below_real = torch.searchsorted(x, y, right=True)
        y = euler_target(y, torch.sign((below_fake - below_real).double()), step)
        assert before - w1() == pytest.approx(step, abs=2e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_first_loss_is_the_squared_step(reduction: str) -> None:
    """ε² mean ‖∇f‖², divided by d for "mean"."""
    w, y, step = torch.tensor([0.6, 0.8]), torch.randn(9, 2), 0.5
    zeta = euler_target(y, velocity(linear_critic(w), y), step)
    expected = step**2 / (1 if reduction == "sum" else 2)
    assert regression_loss(y, zeta, reduction).item() == pytest.approx(expected, rel=1e-5)  # pyright: ignore[reportArgumentType]


def test_velocity_carries_no_graph_and_touches_no_parameter() -> None:
    net = nn.Linear(2, 1)
    v = velocity(lambda y: net(y).squeeze(1), torch.randn(3, 2, requires_grad=True))
    assert not v.requires_grad
    assert all(p.grad is None for p in net.parameters())


def test_decays_start_at_one_and_end_at_zero() -> None:
    for schedule in (Schedule(decay="linear"), Schedule(decay="cosine")):
        factors = [schedule(Progress(t, 10)) for t in range(11)]
        assert factors[0] == 1.0
        assert factors[-1] == pytest.approx(0.0, abs=1e-15)
        assert factors == sorted(factors, reverse=True)


def test_mixture_density_at_one_component() -> None:
    law = GaussianMixture(torch.zeros(1, 2), 0.5)
    x = torch.randn(20, 2)
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum(1)
    close(law.log_prob(x), exact, rtol=1e-5, atol=1e-5)
    close(ring_of_eight(2.0, 0.1).centres.norm(dim=1), torch.full((8,), 2.0))
