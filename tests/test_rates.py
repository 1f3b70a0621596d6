"""Learning rates that follow the steps: fluctuation-dissipation relations, by closed forms, and mistakes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pt_flows import CMSGD, CSGD, ControlledRate, FluctuationDissipation, RateControl, UserError
from pt_flows.training.optimizers import steps_with_its_rate
from pt_flows.training.rates import Step, check_controllable, momentum, vector

SGD, Adam = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.1)
Players = dict[str, torch.optim.Optimizer]


class Steps(RateControl):
    """Keeps every step."""

    def __init__(self) -> None:
        super().__init__(per_player=False)
        self.seen: list[tuple[str, Step]] = []

    def observe(self, player: str, step: Step) -> None:
        self.seen.append((player, step))

    def advance(self) -> None: ...

    def factor(self, player: str) -> float:
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def train(control: RateControl, players: Players, turn: Callable[[], None], num: int) -> list[float]:
    """Take turns under a control as a method does, and return the factor of the first player after each."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in players.items()}
    control.watch(players)
    factors = []
    for _ in range(num):
        for name, optimizer in players.items():
            optimizer.param_groups[0]["lr"] = rates[name] * control.factor(name)
        turn()
        control.advance()
        factors.append(control.factor(next(iter(players))))
    control.release()
    return factors


def descend(optimizer: torch.optim.Optimizer, *gradients: Tensor) -> None:
    """Take one step along gradients."""
    for p, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
        p.grad = gradient
    optimizer.step()


class Game:
    """Copies of the game Φ = ω (x - θ - z) - ω²/2 + θ²/2, min over θ, max over ω, with minibatches of four x and z.

    Args:
        lr: η.
        alternating: Whether θ moves after ω, and not at the same time.
        num: Number of independent copies, the coordinates of θ and ω.
    """

    def __init__(self, lr: float, alternating: bool, num: int = 1, optimizer: Any = SGD) -> None:
        self.theta, self.omega = parameter(*[0.0] * num), parameter(*[0.0] * num)
        self.players = {"theta": optimizer([self.theta], lr=lr), "omega": optimizer([self.omega], lr=lr)}
        self.alternating = alternating

    def turn(self) -> None:
        theta, omega = self.theta.data, self.omega.data
        x, z, e = noise(4, len(theta)).mean(0), noise(4, len(theta)).mean(0), noise(4, len(theta)).mean(0)
        g_omega, g_theta = x - theta - z - omega, lambda: theta + e - omega
        now = g_theta()
        descend(self.players["omega"], -g_omega)
        descend(self.players["theta"], g_theta() if self.alternating else now)


# ------------------------------------------------------------------------------------------- the relation of every step

OPTIMIZERS = [
    SGD,
    partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    partial(torch.optim.SGD, maximize=True),
    Adam,
    partial(torch.optim.AdamW, weight_decay=0.5),
    torch.optim.RMSprop,
    CSGD,
    CMSGD,
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("alternating", [True, False])
def test_the_identity_holds_in_every_step_of_a_game(optimizer: Any, alternating: bool) -> None:
    """x·d - (η/2)‖d‖² = (‖x‖² - ‖x'‖²) / (2 η)."""
    torch.manual_seed(0)
    game, steps = Game(0.1, alternating, 5, optimizer), Steps()
    points = [{name: vector(o) for name, o in game.players.items()}]
    turn = lambda: (game.turn(), points.append({name: vector(o) for name, o in game.players.items()}))
    train(steps, game.players, turn, 40)  # pyright: ignore[reportArgumentType]
    assert [name for name, _ in steps.seen] == ["omega", "theta"] * 40
    for i, (name, (x, change, lr)) in enumerate(steps.seen):
        before, after, d = points[i // 2][name], points[i // 2 + 1][name], -change / lr
        assert torch.equal(x, before)
        wanted = float(before.square().sum() - after.square().sum()) / (2 * lr)
        assert float(x @ d - lr / 2 * (d @ d)) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_a_critic_that_descends_its_loss_needs_no_other_sign() -> None:
    """Climbing Φ and descending -Φ are the same steps, with the same O_L and O_R."""
    told = []
    for maximize in (True, False):
        torch.manual_seed(0)
        omega, control = parameter(2.0), FluctuationDissipation(window=20, drop=1.0)
        player = torch.optim.SGD([omega], lr=0.1, maximize=maximize)
        sign = 1 if maximize else -1
        train(control, {"omega": player}, lambda w=omega, p=player, s=sign: descend(p, s * (noise(1) - w.data)), 20)
        told.append(control.report())
    assert told[0] == told[1]
    assert told[0]["train/fdr_left_omega"] > 0
    assert told[0]["train/fdr_right_omega"] > 0


def test_sums_with_momentum_are_those_of_its_author() -> None:
    """Yaida's O_L = x·g and O_R = (η/2) (1 + μ) / (1 - dampening) ‖v‖², up to a step at either end."""
    torch.manual_seed(0)
    x, mu, damp, lr, num = parameter(*[0.0] * 400), 0.9, 0.5, 0.05, 400
    player = torch.optim.SGD([x], lr=lr, momentum=mu, dampening=damp)
    control, sums = FluctuationDissipation(window=2 * num, drop=1.0), torch.zeros(2, dtype=torch.float64)
    for t in range(2 * num):
        g = x.data + 1 + noise(400)
        v = player.state[x]["momentum_buffer"].clone() if t else 0 * g
        if t >= num:
            sums += torch.stack([g @ x.data, 0.5 * lr * (1 + mu) / (1 - damp) * v @ v])
        if t == 0:
            control.watch({"x": player})
        descend(player, g)
        control.advance()
    assert control.report()["train/fdr_ratio_x"] == pytest.approx(float(sums[0] / sums[1]), rel=5e-3)
    assert momentum(Adam([x])) == 0.9
    assert momentum(CSGD([x])) == 0.0


def test_groups_with_other_rates_are_parts_of_one_direction() -> None:
    a, b = parameter(1.0), parameter(2.0)
    player, steps = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.3}]), Steps()
    steps.watch({"player": player})
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    player.step()
    ((_, step),) = steps.seen
    torch.testing.assert_close(-step.change / step.lr, torch.tensor([1.0, 3.0], dtype=torch.float64))


# --------------------------------------------------------------------------------------------------------- stationarity


def regression(optimizer: Any, copies: int = 40) -> tuple[Players, Callable[[], None]]:
    """Copies of noisy linear regression in ten dimensions, minibatches of ten, from zero."""
    torch.manual_seed(0)
    w, truth = nn.Parameter(torch.zeros(copies, 10, 1).double()), noise(copies, 10, 1)
    player = optimizer([w])

    def turn() -> None:
        x = noise(copies, 10, 10)
        descend(player, x.mT @ (x @ (w.data - truth) - noise(copies, 10, 1)) / 10)

    return {"w": player}, turn


def test_a_run_far_from_stationarity_has_a_ratio_far_from_one() -> None:
    control = FluctuationDissipation(window=200, drop=1.0)
    train(control, *regression(partial(torch.optim.SGD, lr=0.05)), 100)
    assert control.report()["train/fdr_ratio_w"] < -5  # the norm grows from zero


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "mu"), [(0.05, 0.0), (0.02, 0.9)])
def test_a_stationary_run_has_a_ratio_of_one(lr: float, mu: float) -> None:
    """The later half has 60,000 steps, counted over copies."""
    control = FluctuationDissipation(window=3000, drop=1.0)
    train(control, *regression(partial(torch.optim.SGD, lr=lr, momentum=mu)), 3000)
    told = control.report()
    assert told["train/fdr_ratio_w"] == pytest.approx(1, abs=0.01)
    assert told["train/fdr_stationary_w"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("alternating", [True, False])
@pytest.mark.parametrize(("lr", "gap"), [(0.02, 0.025), (0.1, 0.14), (0.3, 0.56)])
def test_both_players_of_a_game_obey_the_discrete_relation(alternating: bool, lr: float, gap: float) -> None:
    """E θ·g = (η/2) E‖g‖², at every η. The continuous right side (η/2) Tr Cov(g) fails for θ as η grows.

    So does that of E[‖g_θ‖² - ‖g_ω‖²] = (η/2) Tr(Cov(g_θ) H_θθ + Cov(g_ω) H_ωω), whose left side is -4 E θω here.
    """
    torch.manual_seed(0)
    game, steps = Game(lr, alternating, num=2000), Steps()
    train(Steps(), game.players, game.turn, int(12 / lr))
    train(steps, game.players, game.turn, 400 if lr < 0.1 else 100)
    points = {}
    for name, variance in (("theta", 0.25), ("omega", 0.5)):
        mine = [step for player, step in steps.seen if player == name]
        left = torch.stack([-(x @ change) / lr for x, change, _ in mine]).mean() / 2000
        right = torch.stack([change @ change / (2 * lr) for _, change, _ in mine]).mean() / 2000
        assert left == pytest.approx(float(right), rel=0.02)
        if name == "theta":
            assert float(left) / (lr / 2 * variance) - 1 == pytest.approx(gap, rel=0.15, abs=0.015)
        points[name] = torch.stack([x for x, _, _ in mine])
    if lr < 0.1:
        traded = float((-4 * points["theta"] * points["omega"]).mean())
        assert traded == pytest.approx(lr / 2 * (0.25 - 0.5), rel=0.1)


def test_rates_drop_once_a_game_is_stationary() -> None:
    errors = []
    for drop in (0.1, 1.0):
        torch.manual_seed(1)
        game, late = Game(0.1, alternating=True, num=64), []
        turn = lambda game=game, late=late: (game.turn(), late.append(float(game.theta.data.square().mean())))
        control = FluctuationDissipation(window=100, tolerance=0.03, drop=drop)
        factors = train(control, game.players, turn, 800)  # pyright: ignore[reportArgumentType]
        errors.append(sum(late[-200:]) / 200)
        if drop < 1:
            first = next(t for t, factor in enumerate(factors, 1) if factor < 1)
            assert first % 100 == 0
            assert factors[first - 1] == pytest.approx(0.1)
    assert errors[0] < errors[1] / 5


def test_no_rate_drops_without_noise() -> None:
    torch.manual_seed(0)
    w, scales = parameter(3.0, -2.0, 1.0), torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    player, control, ratios = torch.optim.SGD([w], lr=0.1), FluctuationDissipation(window=100, tolerance=0.5), []
    turn = lambda: (descend(player, scales * w.data), ratios.append(control.report().get("train/fdr_ratio_w", 1e9)))
    factors = train(control, {"w": player}, turn, 2000)  # pyright: ignore[reportArgumentType]
    assert set(factors) == {1.0}
    assert min(ratios) > 20


@pytest.mark.parametrize("drift", [0.0, 0.1])
def test_an_unbounded_direction_is_never_stationary(drift: float) -> None:
    torch.manual_seed(0)
    w, control = parameter(*[0.0] * 50), FluctuationDissipation(window=100, tolerance=0.1)
    player = torch.optim.SGD([w], lr=0.1)
    factors = train(control, {"w": player}, lambda: descend(player, noise(50) + drift), 3000)
    told = control.report()
    assert set(factors) == {1.0}
    assert told["train/fdr_stationary_w"] == 0
    assert told["train/fdr_ratio_w"] < 0.5


def test_players_that_do_not_move_are_not_stationary_and_hold_nobody_back() -> None:
    moves, rests = parameter(0.0), parameter(1.0)
    players = {"moves": torch.optim.SGD([moves], lr=0.1), "rests": torch.optim.SGD([rests], lr=0.1)}
    control = FluctuationDissipation(window=10, tolerance=2.0)
    turn = lambda: (
        descend(players["moves"], noise(1) + moves.data),
        descend(players["rests"], torch.zeros(1).double()),
    )
    factors = train(control, players, turn, 10)  # pyright: ignore[reportArgumentType]
    assert factors[-1] == control.factor("rests") == pytest.approx(0.1)
    assert control.report()["train/fdr_stationary_rests"] == 0
    assert "train/fdr_ratio_rests" not in control.report()


def test_each_player_may_have_its_own_rate() -> None:
    torch.manual_seed(0)
    calm, drifts = parameter(*[0.0] * 200), parameter(*[0.0] * 200)
    players = {"calm": torch.optim.SGD([calm], lr=0.5), "drifts": torch.optim.SGD([drifts], lr=0.5)}
    turn = lambda: (descend(players["calm"], noise(200) + calm.data), descend(players["drifts"], noise(200) + 1))
    for per_player, wanted in ((True, 0.1), (False, 1.0)):
        control = FluctuationDissipation(window=200, tolerance=0.05, per_player=per_player)
        train(control, players, turn, 200)  # pyright: ignore[reportArgumentType]
        assert (control.factor("calm"), control.factor("drifts")) == (pytest.approx(wanted), 1.0)


def test_a_bilinear_game_runs_away_or_stays_by_its_order_of_moves() -> None:
    """Φ = θ ω, η = 0.01: the radius² of simultaneous moves is exp(η² steps), that of alternating ones bounded."""
    for alternating, wanted in ((False, 1.2214), (True, 0.996)):
        theta, omega = parameter(1.0), parameter(0.0)
        descents = [torch.optim.SGD([p], lr=0.01) for p in (theta, omega)]
        for _ in range(2000):
            g = omega.data.clone()
            descend(descents[1], -theta.data)
            descend(descents[0], omega.data if alternating else g)
        assert float(theta.data.square() + omega.data.square()) == pytest.approx(wanted, abs=2e-3)


# ------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta"])
def test_optimizers_whose_rate_can_be_controlled(name: str) -> None:
    player = getattr(torch.optim, name)([parameter(1.0, -2.0)], lr=1e-5)
    assert steps_with_its_rate(player)
    assert player.param_groups[0]["lr"] == 1e-5


class Restless(torch.optim.Optimizer):
    """A user's optimizer that has no rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for p in self.param_groups[0]["params"]:
            p.data -= p.grad.sign()


@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.ASGD, torch.optim.LBFGS, Restless])
def test_other_optimizers_are_refused(optimizer: Any) -> None:
    player = optimizer([parameter(1.0, -2.0)])
    message = (
        rf"rates: expected optimizers whose steps are proportional to .*, got {optimizer.__name__} of critic\. Use"
    )
    with pytest.raises(UserError, match=message):
        check_controllable({"generator": SGD([parameter(1.0)]), "critic": player})
    with pytest.raises(UserError, match="expected a player with an optimizer, got none"):
        check_controllable({})


def test_bounds_of_arguments() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (FluctuationDissipation, {"window": 1}, r"window: expected at least 2, got 1"),
        (FluctuationDissipation, {"tolerance": 0.0}, r"tolerance: expected a number above 0"),
        (FluctuationDissipation, {"drop": 1.5}, r"drop: expected a number in \(0, 1\], got 1\.5"),
        (ControlledRate, {"every_n_iterations": 0}, r"every_n_iterations: expected at least 1, got 0"),
        (partial(CSGD, [parameter(1.0)]), {"lr": 0.0}, r"CSGD\.lr: expected a number above 0, got 0\.0"),
        (partial(CMSGD, [parameter(1.0)]), {"lr": float("nan")}, r"CMSGD\.lr: expected a number above 0, got nan"),
    ]
    for cls, arguments, message in wrong:
        with pytest.raises(UserError, match=message):
            cls(**arguments)
