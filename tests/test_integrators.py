"""Integrators against closed forms, torchdiffeq, and the games of the ODE-GAN paper's argument."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from problems import solve
from torch import Tensor
from torch.testing import assert_close as close
from torchdiffeq import odeint

from pt_flows.functional.integrators import (
    BOGACKI_SHAMPINE,
    EULER,
    HEUN,
    RK4,
    TABLEAUS,
    Integrator,
    Tableau,
    combine,
    rk_stages,
    rk_step,
    step_error,
)
from pt_flows.functional.objectives import discriminator_loss, generator_loss

ALL = [pytest.param(tableau, id=name) for name, tableau in TABLEAUS.items()]


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)


def slope(errors: list[float]) -> float:
    """Order seen when the step is halved, from the finest pair."""
    coarse, fine = errors[-2:]
    return math.log2(coarse / fine)


# ------------------------------------------------------------------------------------------------------- the tableaus


@pytest.mark.parametrize("tableau", ALL)
def test_weights_satisfy_the_order_conditions(tableau: Tableau) -> None:
    """Σ b = 1, Σ b c = 1/2, Σ b c² = 1/3, Σ b a c = 1/6 as far as the order goes; the companion's too."""
    for weights, order in ((tableau.b, tableau.order), (tableau.companion, tableau.companion_order)):
        b = torch.zeros(len(tableau.a))
        b[: len(weights)] = torch.tensor(weights)
        a = torch.zeros(len(b), len(b))
        for i, row in enumerate(tableau.a):
            a[i, : len(row)] = torch.tensor(row)
        c = torch.tensor(tableau.c)
        conditions = [(b.sum(), 1), (b @ c, 1 / 2), (b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)]
        for value, wanted in conditions[: {1: 1, 2: 2, 3: 4, 4: 4}[order]]:
            assert value.item() == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("tableau", ALL)
def test_constant_and_linear_fields_are_exact(tableau: Tableau) -> None:
    """A constant field is followed exactly; y' = A y gives Σ_{k <= p} (hA)^k / k!."""
    y, v, h = torch.randn(5), torch.randn(5), 0.3
    close(rk_step(lambda t, y: v, 0.0, y, h, tableau), y + h * v)
    A = torch.randn(5, 5)
    powers = [torch.matrix_power(h * A, k) / math.factorial(k) for k in range(tableau.order + 1)]
    close(rk_step(lambda t, y: A @ y, 0.0, y, h, tableau), torch.stack(powers).sum(0) @ y)


@pytest.mark.parametrize("tableau", ALL)
@pytest.mark.parametrize("shape", [(7,), (6, 2), (2, 3, 4, 4)])
def test_order_on_a_nonlinear_system(tableau: Tableau, shape: tuple[int, ...]) -> None:
    """y' = -y² cos t has y = y0 / (1 + y0 sin t), for states of any shape."""
    y0 = torch.rand(shape) + 0.5
    exact = y0 / (1 + y0 * math.sin(2.0))
    field = lambda t, y: -y.square() * math.cos(t)
    errors = [(solve(field, y0, 0.0, 2.0, n, tableau) - exact).abs().max().item() for n in (80, 160)]
    assert slope(errors) == pytest.approx(tableau.order, abs=0.15)


@pytest.mark.parametrize(("tableau", "name"), [(EULER, "euler"), (HEUN, "heun2"), (RK4, None)])
def test_steps_equal_torchdiffeq(tableau: Tableau, name: str | None) -> None:
    """torchdiffeq's "rk4" is the 3/8 rule, so RK4 is compared with the flow instead."""
    y0, times = torch.randn(4, 2), torch.linspace(0, 1, 21)
    field = lambda t, y: torch.sin(y) - t * y.flip(-1)
    ours = solve(field, y0, 0.0, 1.0, 20, tableau)
    if name is None:
        theirs = odeint(field, y0, times, method="dopri8", rtol=1e-12, atol=1e-12)
        close(ours, theirs[-1], rtol=0, atol=1e-6)
    else:
        close(ours, odeint(field, y0, times, method=name)[-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("tableau", ALL)
def test_error_estimate_has_the_lower_order_plus_one(tableau: Tableau) -> None:
    y, field = torch.rand(3) + 0.5, lambda t, y: -y.square() * math.cos(t)

    def error(h: float) -> float:
        return step_error(rk_stages(field, 0.1, y, h, tableau, len(tableau.a)), h, tableau).norm().item()

    lower = min(tableau.order, tableau.companion_order)
    assert slope([error(0.02), error(0.01)]) == pytest.approx(lower + 1, abs=0.15)


def test_combination_skips_stages_of_weight_zero() -> None:
    k = [torch.randn(3), torch.full((3,), torch.nan), torch.randn(3)]
    close(combine((0.2, 0.0, -1.5), k), 0.2 * k[0] - 1.5 * k[2])


# ----------------------------------------------------------------------------------------------------- bilinear game


def bilinear(t: float, y: Tensor) -> Tensor:
    """l_D = -θφ, l_G = θφ."""
    return torch.stack([y[1], -y[0]])


GROWTH: list[tuple[Integrator, Callable[[float], float]]] = [
    ("euler", lambda h: 1 + h**2),
    ("heun", lambda h: 1 + h**4 / 4),
    ("rk4", lambda h: 1 - h**6 / 72 + h**8 / 576),
]


@pytest.mark.parametrize(("name", "factor"), GROWTH)
@pytest.mark.parametrize("h", [0.05, 0.5, 2.0])
def test_bilinear_game_grows_by_the_exact_factor(name: Integrator, factor: Callable[[float], float], h: float) -> None:
    y = torch.tensor([1.0, 0.5])
    for _ in range(5):
        new = rk_step(bilinear, 0.0, y, h, TABLEAUS[name])
        assert (new.square().sum() / y.square().sum()).item() == pytest.approx(factor(h), rel=1e-13)
        y = new


def test_rk4_contracts_below_and_grows_above_its_limit() -> None:
    for h, grows in ((2.82, False), (2.84, True)):
        new = rk_step(bilinear, 0.0, torch.tensor([1.0, 0.5]), h, RK4)
        assert (new.norm() > math.hypot(1, 0.5)) == grows


@pytest.mark.parametrize("tableau", ALL[:3])
def test_orders_on_the_bilinear_game(tableau: Tableau) -> None:
    y0 = torch.tensor([1.0, 0.5])
    turn = torch.tensor([[math.cos(2), math.sin(2)], [-math.sin(2), math.cos(2)]])
    errors = [(solve(bilinear, y0, 0.0, 2.0, n, tableau) - turn @ y0).norm().item() for n in (80, 160)]
    assert slope(errors) == pytest.approx(tableau.order, abs=0.15)


@pytest.mark.parametrize("h", [0.1, 0.3])
@pytest.mark.parametrize(
    ("tableau", "limit"), [(EULER, lambda h: h / 2), (HEUN, lambda h: h**3 / (8 * (1 - h**2 / 2)))]
)
def test_penalty_makes_the_bilinear_game_converge_beyond_its_limit(
    tableau: Tableau, limit: Callable[[float], float], h: float
) -> None:
    """One per cent below λ's limit the game spirals out, one per cent above it converges; r = 2θ."""
    for share, converges in ((0.99, False), (1.01, True)):
        lam = share * limit(h)
        step = torch.stack([penalised_step(e, h, lam, tableau) for e in torch.eye(2)], 1)
        radius = torch.linalg.eigvals(step).abs().max().item()
        assert (radius < 1) == converges


def penalised_step(y: Tensor, h: float, lam: float, tableau: Tableau) -> Tensor:
    new = rk_step(bilinear, 0.0, y, h, tableau)
    new[0] -= h * lam * 2 * y[0]
    return new


def test_one_player_at_a_time_is_euler_whatever_the_tableau() -> None:
    """The released notebook's integration, on the bilinear game."""
    y, h = torch.tensor([1.0, 0.5]), 0.3
    theta = rk_step(lambda t, a: y[1:], 0.0, y[:1], h, RK4)
    phi = rk_step(lambda t, b: -y[:1], 0.0, y[1:], h, RK4)
    close(torch.cat([theta, phi]), rk_step(bilinear, 0.0, y, h, EULER), rtol=0, atol=1e-15)


def test_heun_is_not_two_half_steps_of_euler() -> None:
    """The released notebook's second-order method is."""
    field, y, h = lambda t, y: torch.sin(y), torch.randn(4), 0.3
    halves = solve(field, y, 0.0, h, 2, EULER)
    k1 = field(0, y)
    close(y + h / 2 * (k1 + field(0, y + h / 2 * k1)), halves)
    assert (rk_step(field, 0.0, y, h, HEUN) - halves).abs().max() > 1e-3


@pytest.mark.parametrize(("tableau", "stable"), [(EULER, False), (RK4, True)])
def test_damped_rotation_just_above_eulers_limit(tableau: Tableau, stable: bool) -> None:
    """v = (-e x + y, -x - e y) with e = 0.1: Euler is stable only below 2e / (1 + e²) = 0.198."""
    e, h = 0.1, 0.2
    field = lambda t, y: torch.stack([-e * y[0] + y[1], -y[0] - e * y[1]])
    step = torch.stack([rk_step(field, 0.0, column, h, tableau) for column in torch.eye(2)], 1)
    radius = torch.linalg.eigvals(step).abs().max().item()
    assert (radius < 1) == stable
    if stable:
        assert radius == pytest.approx(0.981, abs=1e-3)


# ---------------------------------------------------------------------------------------------------------- Dirac-GAN


def dirac(t: float, y: Tensor) -> Tensor:
    """One logit a = θx, data at 0, G(z) = φ, non-saturating losses."""
    theta, phi = y
    return torch.stack([-torch.sigmoid(theta * phi) * phi, torch.sigmoid(-theta * phi) * theta])


def test_dirac_field_is_that_of_the_losses() -> None:
    y = torch.tensor([0.7, -0.4], requires_grad=True)
    a_fake, a_real = (y[0] * y[1])[None], (y[0] * 0)[None]
    g_D = torch.autograd.grad(discriminator_loss(a_real, a_fake), y, retain_graph=True)[0][0]
    g_G = torch.autograd.grad(generator_loss(a_fake), y)[0][1]
    close(torch.stack([-g_D, -g_G]), dirac(0.0, y.detach()))


@pytest.mark.parametrize("tableau", ALL)
def test_orders_on_the_dirac_gan(tableau: Tableau) -> None:
    y0 = torch.tensor([0.8, 0.3])
    truth = solve(dirac, y0, 0.0, 4.0, 4000)
    errors = [(solve(dirac, y0, 0.0, 4.0, n, tableau) - truth).norm().item() for n in (40, 80)]
    assert slope(errors) == pytest.approx(tableau.order, abs=0.15)


def test_rk4_stays_on_its_dirac_orbit_where_euler_spirals_out() -> None:
    """With the saturating loss v = σ(θφ) (-φ, θ), whose orbits are circles."""
    field = lambda t, y: torch.sigmoid(y[0] * y[1]) * torch.stack([-y[1], y[0]])
    start = torch.tensor([1.0, 0.0])
    radius = {name: solve(field, start, 0.0, 200.0, 1000, TABLEAUS[name]).norm().item() for name in ("euler", "rk4")}
    assert radius["rk4"] == pytest.approx(1, abs=1e-3)
    assert radius["euler"] > 3


def test_rk4_follows_the_slow_inward_spiral_of_the_non_saturating_loss() -> None:
    """There d(θ² + φ²)/dt = 2 θφ (1 - 2σ(θφ)) <= 0; Euler's error is larger and outward."""
    start = torch.tensor([1.0, 0.0])
    radius = lambda num_steps, tableau: solve(dirac, start, 0.0, 100.0, num_steps, tableau).norm().item()
    truth = radius(10_000, RK4)
    assert truth < 0.75
    assert radius(500, RK4) == pytest.approx(truth, abs=1e-4)
    assert radius(500, EULER) > truth + 0.05


@pytest.mark.parametrize("objective", ["non_saturating", "saturating"])
def test_dirac_field_rotates_at_the_equilibrium(objective: str) -> None:
    """Jacobian [[0, -1/2], [1/2, 0]] at (0, 0) for both losses."""

    def field(y: Tensor) -> Tensor:
        a_fake, a_real = (y[0] * y[1])[None], (y[0] * 0)[None]
        g_D = torch.autograd.grad(discriminator_loss(a_real, a_fake, objective), y, create_graph=True)[0][0]  # pyright: ignore
        g_G = torch.autograd.grad(generator_loss(a_fake, objective), y, create_graph=True)[0][1]  # pyright: ignore
        return torch.stack([-g_D, -g_G])

    jacobian = torch.autograd.functional.jacobian(field, torch.zeros(2))
    close(jacobian, torch.tensor([[0.0, -0.5], [0.5, 0.0]]))


def test_objectives_in_closed_form() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5])
    log_D = lambda a: torch.log(torch.sigmoid(a)).mean()
    close(discriminator_loss(real, fake), -log_D(real) - log_D(-fake))
    close(generator_loss(fake), -log_D(fake))
    close(generator_loss(fake, "saturating"), log_D(-fake))
    close(discriminator_loss(real, fake, "wasserstein"), fake.mean() - real.mean())
    close(generator_loss(fake, "wasserstein"), -fake.mean())


@pytest.mark.slow
def test_refinement_converges_monotonically() -> None:
    """More steps, less error, for every tableau."""
    for tableau in (EULER, HEUN, BOGACKI_SHAMPINE, RK4):
        y0 = torch.tensor([0.8, 0.3])
        truth = solve(dirac, y0, 0.0, 4.0, 4000)
        errors = [(solve(dirac, y0, 0.0, 4.0, n, tableau) - truth).norm() for n in (5, 10, 20, 40)]
        assert all(b < a for a, b in pairwise(errors))
