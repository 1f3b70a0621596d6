"""Optimal control of learning rates, by closed forms: of all parameters together, and of every coordinate."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_rates import SGD, Adam, Steps, descend, noise, parameter, train

from pt_flows import CMSGD, CSGD, ControlledRate, FluctuationDissipation, RateControl
from pt_flows.functional.control import controlled_momentum, controlled_rate
from pt_flows.training.moments import WARM_UP


def test_the_optimal_rate_beats_every_constant_rate_on_a_noisy_quadratic() -> None:
    """a = 2, S = 4, η = 0.2, from a height of 25: the exact recursion of the mean height."""
    a, S, eta, start = 2.0, 4.0, 0.2, 25.0
    one = torch.ones((), dtype=torch.float64)

    def heights(rate: Callable[[float], float], num: int) -> list[float]:
        found = [start]
        for _ in range(num):
            u, m = rate(found[-1]), found[-1]
            found.append((1 - eta * u * a) ** 2 * m + 0.5 * a * (eta * u) ** 2 * S)
        return found

    best = lambda m: float(controlled_rate(a * one, m * one, S * one, eta))
    controlled = heights(best, 400)
    plateau = 0.5 * a * eta**2 * S / (1 - (1 - eta * a) ** 2)
    assert plateau == pytest.approx(0.25)
    assert heights(lambda m: 1.0, 400)[-1] == pytest.approx(plateau)
    for num in (50, 100, 400):
        constant = min(heights(lambda m, u=u: u, num)[-1] for u in torch.linspace(0.01, 1, 100).tolist())
        assert controlled[num] < constant
    assert [controlled[num] for num in (20, 50, 100, 400)] == pytest.approx([0.059, 0.021, 0.010, 0.0026], rel=0.35)


def test_the_optimal_rate_is_that_of_the_open_loop() -> None:
    """u* = 1 until m = η S / 2 at t*, then 1 / (1 + a (t - t*)), on the differential equation of m."""
    a, S, eta, dt, m, t, t_star = 2.0, 4.0, 0.2, 2e-3, 25.0, 0.0, 0.0
    one = torch.ones((), dtype=torch.float64)
    for _ in range(5_000):
        u = float(controlled_rate(a * one, m * one, S * one, eta))
        m += dt * (-2 * a * u * m + 0.5 * a * eta * S * u**2)
        t += dt
        t_star = t if u == 1 else t_star
        assert u == pytest.approx(1 / (1 + a * (t - t_star)), rel=0.01)
    assert u < 0.07


def test_optimal_rate_and_momentum_are_one_on_concave_and_flat_ground_and_without_noise() -> None:
    a = torch.tensor([-1.0, 0.0, 2.0, 2.0])
    m, S = torch.tensor([-0.5, 0.0, 0.1, 0.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert controlled_rate(a, m, S, 0.1).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert controlled_momentum(a, m, S, 0.1)[:2].tolist() == [1.0, 1.0]
    assert controlled_momentum(a, m, S, 0.1)[2] == pytest.approx(1 - 2 * 0.2**0.5)
    many = torch.randn(3, 1000)
    for optimum in (controlled_rate, controlled_momentum):
        values = optimum(*many, 0.1)
        assert bool(((values >= 0) & (values <= 1)).all())
    assert bool((controlled_rate(*many, 0.1) > 0).all())


def quadratic(optimizer: Any, a: float, std: float, num: int, start: float = 5.0, copies: int = 20) -> Any:
    """Train copies of a noisy quadratic in float64; return the optimizer and the mean square of late parameters."""
    torch.manual_seed(0)
    x = parameter(*[start] * copies)
    player, late = optimizer([x]), []
    for _ in range(num):
        descend(player, a * x.data + std * noise(copies))
        late.append(float(x.data.square().mean()))
    return player, x, sum(late[-100:]) / 100


def test_controlled_sgd_keeps_its_rate_without_noise_and_on_concave_ground() -> None:
    for a, start in ((0.2, 5.0), (-0.05, 1e-3)):
        player, x, _ = quadratic(CSGD, a, 0.0, 150, start)
        torch.testing.assert_close(player.state[x]["u"], torch.ones_like(x.data), rtol=0, atol=1e-6)


def test_controlled_sgd_lowers_its_rate_in_noise() -> None:
    player, x, controlled = quadratic(partial(CSGD, lr=0.2), 2.0, 2.0, 800)
    plain = quadratic(partial(torch.optim.SGD, lr=0.2), 2.0, 2.0, 800)[2]
    u = player.state[x]["u"]
    assert bool(((u > 0) & (u <= 1)).all())
    assert plain == pytest.approx(0.25, rel=0.15)
    assert controlled < plain / 4


def test_controlled_momentum_lowers_its_momentum_in_noise() -> None:
    player, x, controlled = quadratic(partial(CMSGD, lr=0.02), 2.0, 2.0, 800)
    heavy = quadratic(partial(torch.optim.SGD, lr=0.02, momentum=0.9), 2.0, 2.0, 800)[2]
    assert bool(((player.state[x]["mu"] >= 0) & (player.state[x]["mu"] <= 1)).all())
    assert controlled < heavy / 3


def test_controlled_optimizers_begin_as_sgd_and_continue_exactly() -> None:
    for cls, twin in (
        (CSGD, partial(torch.optim.SGD, lr=0.1)),
        (CMSGD, partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
    ):
        torch.testing.assert_close(quadratic(cls, 1.0, 1.0, WARM_UP)[1], quadratic(twin, 1.0, 1.0, WARM_UP)[1])
        torch.manual_seed(0)
        a, b = parameter(1.0, 2.0), parameter(1.0, 2.0)
        first, second = cls([a]), cls([b])
        gradients = [noise(2) for _ in range(100)]
        for gradient in gradients[:50]:
            descend(first, gradient + a.data)
        b.data.copy_(a.data)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for gradient in gradients[50:]:
            descend(first, gradient + a.data)
            descend(second, gradient + b.data)
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", [SGD, partial(torch.optim.SGD, momentum=0.5), Adam])
def test_one_controlled_rate_for_all_parameters_lowers_the_error(optimizer: Any) -> None:
    late = {}
    for name, control in (("controlled", ControlledRate()), ("plain", Steps())):
        torch.manual_seed(0)
        x = parameter(*[5.0] * 20)
        player, errors = optimizer([x], lr=0.2), []
        turn = lambda x=x, p=player, e=errors: (
            descend(p, 2 * x.data + 2 * noise(20)),
            e.append(x.data.square().mean()),
        )
        factors = train(control, {"x": player}, turn, 800)  # pyright: ignore[reportArgumentType]
        assert all(0 < factor <= 1 for factor in factors)
        late[name] = float(sum(errors[-100:])) / 100
    assert late["controlled"] < late["plain"] / 4


@pytest.mark.parametrize("control", [FluctuationDissipation(4, 1e9, drop=1.0), ControlledRate(2)])
def test_a_step_that_is_not_finite_is_forgotten(control: RateControl) -> None:
    """A method that rolls back continues from its last good state."""
    torch.manual_seed(0)
    x = parameter(1.0, 2.0)
    player = torch.optim.SGD([x], lr=0.1)
    for gradient in [torch.full((2,), torch.nan).double()] + [x.data] * 40:
        train(control, {"x": player}, lambda g=gradient: descend(player, g.clone()), 1)
        x.data.nan_to_num_(1.0)
    assert 0 < control.factor("x") <= 1
    told = {"train/fdr_stationary_x": 1.0} if isinstance(control, FluctuationDissipation) else {}
    assert told.items() <= control.report().items()


def test_the_smallest_controlled_rate_may_serve_all_players() -> None:
    torch.manual_seed(0)
    for per_player in (True, False):
        x, y = parameter(*[5.0] * 20), parameter(*[100.0] * 20)
        players = {"noisy": torch.optim.SGD([x], lr=0.2), "calm": torch.optim.SGD([y], lr=1e-3)}
        turn = lambda x=x, y=y, p=players: (descend(p["noisy"], 2 * x.data + noise(20)), descend(p["calm"], y.data))
        control = ControlledRate(per_player=per_player)
        train(control, players, turn, 400)  # pyright: ignore[reportArgumentType]
        assert control.factor("noisy") < 0.5
        assert control.factor("calm") == (pytest.approx(1.0) if per_player else control.factor("noisy"))
