"""Persistent rounds: the penalty against its closed form, known landscapes, restarts, and runs that continue."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from problems import METHODS, ONE_OF_EACH_KIND, Adam, build, data, fit, slow_but_for, weights
from torch import Tensor, nn

from pt_flows.callbacks import PersistentRounds
from pt_flows.contracts import Batch, Terms
from pt_flows.data.supervised import Kink
from pt_flows.errors import UserError
from pt_flows.functional.repulsion import Kernel, repulsion, squared_distances
from pt_flows.loop.method import Method
from pt_flows.methods import AdversarialTraining
from pt_flows.nets import MLPPredictor
from pt_flows.training.player import Player
from pt_flows.training.predictor import Predictor

KERNELS: tuple[Kernel, ...] = ("gaussian", "exponential", "inverse")
MONITORS = {
    "WGANGP": "loss_D", "GradientLayers": "loss_D", "W1FE": "loss_D", "W2FE": "loss_D", "MinibatchW2FE": "loss_G",
    "JSFlow": "loss_D", "ODEGAN": "loss_G", "DAEBM": "energy_gap", "PCD": "energy_gap", "ImprovedCD": "energy_gap",
    "IWAE": "bound", "SimVAE": "loss_E", "SNGAN": "loss_D", "R3GAN": "loss_D", "CFM": "loss_G",
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------- the penalty


def test_gradient_of_the_gaussian_is_its_closed_form() -> None:
    """-(θ - θ_j) / s² exp(-d² / 2s²), zero at θ_j, longest at d = s, where it is 1 / (s √e)."""
    torch.set_default_dtype(torch.float64)
    s, center = 0.7, torch.randn(5)
    theta = torch.randn(5, requires_grad=True)
    (g,) = torch.autograd.grad(repulsion(squared_distances([theta], [[center]]), s), theta)
    away = theta.detach() - center
    torch.testing.assert_close(g, -away / s**2 * (-away.square().sum() / (2 * s**2)).exp())
    norms = []
    for d in torch.linspace(0, 3 * s, 301):
        point = (center + d * away / away.norm()).requires_grad_()
        (g,) = torch.autograd.grad(repulsion(squared_distances([point], [[center]]), s), point)
        norms.append(float(g.norm()))
    assert norms[0] == 0.0
    assert norms.index(max(norms)) == 100
    assert max(norms) == pytest.approx(1 / (s * math.sqrt(math.e)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_have_their_values_and_no_force_at_a_solution(kernel: Kernel) -> None:
    s, d = 0.5, 1.5
    value = {"gaussian": math.exp(-4.5), "exponential": math.exp(-3), "inverse": 1 / 2.5}[kernel]
    assert float(repulsion(torch.tensor([d**2, d**2]), s, kernel)) == pytest.approx(2 * value)
    theta = torch.zeros(3, requires_grad=True)
    (g,) = torch.autograd.grad(repulsion(squared_distances([theta], [[torch.zeros(3)]]), s, kernel), theta)
    assert g.tolist() == [0.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------------ a double well


SGD = partial(torch.optim.SGD, lr=0.01)


class Well(Method):
    """Descent of f(x) = x⁴ - 2x² + 0.3x by one player."""

    def __init__(self, start: float = 0.3, optimizer: Any = SGD) -> None:
        super().__init__()
        network = nn.Module()
        network.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.player = Player(network, optimizer, ema_decay=0.9)

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        x: Tensor = self.player.network.x  # type: ignore[assignment]
        loss = x**4 - 2 * x**2 + 0.3 * x
        self.player.step(loss)
        return {"loss": loss.detach()}


def ends(rounds: PersistentRounds) -> list[float]:
    return [float(kept["method"]["player.network.x"]) for kept in rounds.archive]


def run(module: Method, rounds: PersistentRounds, max_steps: int, **arguments: Any) -> L.Trainer:
    return fit(module, data(batch_size=1, iterations_per_block=max_steps), max_steps, callbacks=[rounds], **arguments)


@pytest.mark.slow
def test_a_double_well_is_left_for_the_better_one() -> None:
    method, rounds = Well(), PersistentRounds(2, weight=2.0, scale=0.5)
    run(method, rounds, 8_000)
    assert ends(rounds) == [pytest.approx(0.9601, abs=1e-4), pytest.approx(-1.0362, abs=1e-4)]
    assert rounds.losses == [pytest.approx(-0.7059, abs=1e-4), pytest.approx(-1.3054, abs=1e-4)]
    assert rounds.best == 1
    assert float(method.player.network.x.detach()) == ends(rounds)[1]  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_weak_penalty_returns_to_the_same_solution() -> None:
    rounds = PersistentRounds(3, weight=0.2, scale=0.5)
    run(Well(), rounds, 12_000)
    assert ends(rounds) == [pytest.approx(0.9601, abs=0.02)] * 3


def test_the_best_loss_falls_with_the_number_of_rounds_and_any_round_can_be_adopted() -> None:
    method, rounds = Well(), PersistentRounds(4, weight=2.0, scale=0.5)
    run(method, rounds, 400)
    best = [min(rounds.losses[:k]) for k in range(1, 5)]
    assert best == sorted(best, reverse=True)
    for k in range(4):
        rounds.adopt(method, k)
        assert float(method.player.network.x.detach()) == ends(rounds)[k]  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"round: expected one of 0 \.\.\. 3, got 4"):
        rounds.adopt(method, 4)


def test_more_rounds_can_follow() -> None:
    """Rounds are added by a longer run with more of them, as if they had been planned."""
    whole, part, more = (PersistentRounds(k, weight=2.0, scale=0.5) for k in (3, 2, 3))
    one, two = Well(), Well()
    run(one, whole, 300)
    run(two, part, 200).save_checkpoint("part.ckpt")
    again = Well()
    run(again, more, 300, ckpt_path=Path("part.ckpt"))
    assert ends(more) == ends(whole)
    assert torch.equal(weights(again), weights(one))


# -------------------------------------------------------------------------------------------- restarts, on all methods


@pytest.mark.parametrize("name", slow_but_for(METHODS, ONE_OF_EACH_KIND.__contains__))
def test_one_round_or_weight_zero_is_plain_training(name: str) -> None:
    """The first round of any number is the plain run, bit for bit, schedules included."""
    monitor = MONITORS[name.split("-")[0]]
    plain, one, three = (build(name) for _ in range(3))
    block = data(iterations_per_block=2)
    fit(plain, block, 4)
    fit(one, block, 4, callbacks=[PersistentRounds(1, monitor=monitor)])
    rounds = PersistentRounds(3, weight=0.0, monitor=monitor)
    fit(three, block, 12, callbacks=[rounds])
    assert torch.equal(weights(one), weights(plain))
    three.load_state_dict(rounds.archive[0]["method"])
    assert torch.equal(weights(three), weights(plain))


@pytest.mark.parametrize("name", slow_but_for(METHODS, ONE_OF_EACH_KIND.__contains__))
def test_rounds_resume_inside_a_round_bit_for_bit(name: str, tmp_path: Path) -> None:
    monitor = MONITORS[name.split("-")[0]]
    make = lambda: PersistentRounds(3, weight=0.3, scale=0.5, monitor=monitor, judged_iterations=3)
    whole, first, second = (build(name) for _ in range(3))
    block, rounds, again = data(iterations_per_block=1), make(), make()
    fit(whole, block, 12, callbacks=[rounds])

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    fit(first, block, 12, callbacks=[make(), Save()])
    fit(second, block, 12, callbacks=[again], ckpt_path=tmp_path / "a.ckpt")
    assert rounds.losses == again.losses
    assert torch.equal(weights(whole), weights(second))
    for one, other in zip(rounds.archive, again.archive, strict=True):
        for key, value in one["method"].items():
            assert not isinstance(value, Tensor) or torch.equal(value, other["method"][key]), key


def test_every_round_starts_alike_with_fresh_optimizers() -> None:
    seen: list[tuple[Tensor, int, list[float]]] = []

    class Watched(type(build("W1FE"))):  # type: ignore[misc]
        def iterate(self, minibatches: Sequence[Batch]) -> Terms:
            if self.age == 0:
                states = sum(len(player.optimizer.state) for player in self.players.values())
                seen.append((weights(self), states, [player.lr for player in self.players.values()]))
            return super().iterate(minibatches)

    method = build("W1FE", cls=Watched)
    fit(method, data(iterations_per_block=4), 12, callbacks=[PersistentRounds(3, monitor="loss_D", scale=0.1)])
    assert len(seen) == 3
    for start, num, rates in seen:
        assert torch.equal(start, seen[0][0])
        assert (num, rates) == (0, seen[0][2])


def test_a_partial_penalty_moves_nothing_else() -> None:
    """A generator alone is repelled; the gradient of all other parameters is zero."""
    method, rounds = build("WGANGP"), PersistentRounds(2, parameters=["generator.*.0.*"], monitor="loss_D", scale=9.0)

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 6:
                assert pl_module.critic.penalty is None
                player = pl_module.generator
                g = torch.autograd.grad(player.penalty(player.trained), player.trained, allow_unused=True)
                names = [name for name, _ in player.network.named_parameters()]
                assert [name for name, part in zip(names, g, strict=True) if part is not None] == [
                    name for name in names if ".0." in name
                ]

    runner = fit(method, data(iterations_per_block=1), 8, callbacks=[rounds, Look()], log_every_n_steps=1)
    assert method.generator.penalty is None  # the run is over
    assert runner.callback_metrics["train/repulsion_generator"] > 0
    assert "train/repulsion_critic" not in runner.callback_metrics


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, r"PersistentRounds\.rounds: expected at least 1, got 0"),
        ({"weight": -1.0}, r"PersistentRounds\.weight: expected at least 0, got -1"),
        ({"scale": 0.0}, r"PersistentRounds\.scale: expected a number above 0, got 0"),
        ({"kernel": "square"}, r"PersistentRounds\.kernel: expected .*gaussian.*got 'square'"),
        (
            {"parameters": ["encoder.*"]},
            r"parameters: expected names of trained parameters, such as player\.network\.x",
        ),
        ({"parameters": []}, r"parameters: expected patterns and trained parameters, got none"),
        ({"monitor": "lost"}, r"monitor: expected a term such as loss, got lost"),
        ({"rounds": 3}, r"trainer\.max_steps: expected a multiple of the 3 rounds, got 100"),
    ],
)
def test_bad_input_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(Well(), PersistentRounds(**{"rounds": 2, "scale": 0.5, **arguments}), 100)


def test_rounds_belong_to_one_run(tmp_path: Path) -> None:
    run(Well(), PersistentRounds(2, scale=0.5), 100).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"max_steps: expected 100, because the rounds of this run have 50 iterations"):
        run(Well(), PersistentRounds(2), 200, ckpt_path=tmp_path / "a.ckpt")
    plain = fit(Well(), data(iterations_per_block=50), 50)
    plain.save_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="expected a new run, got one that continues from iteration 50 without them"):
        run(Well(), PersistentRounds(2), 100, ckpt_path=tmp_path / "b.ckpt")


def test_a_first_round_that_does_not_move_is_refused() -> None:
    with pytest.raises(UserError, match="expected a first round that moves player, got one that stays at the start"):
        run(Well(optimizer=partial(torch.optim.SGD, lr=1e-30)), PersistentRounds(2), 100)


def test_the_default_scale_is_half_the_way_of_the_first_round() -> None:
    method, rounds = Well(optimizer=partial(Adam, lr=0.01)), PersistentRounds(2, weight=5.0)
    run(method, rounds, 600)
    assert abs(ends(rounds)[0] - ends(rounds)[1]) > 0.3


@pytest.mark.long
@pytest.mark.parametrize(("seed", "stuck"), [(0, False), (2, True), (3, True)])
def test_a_kink_that_a_start_cannot_see_is_found_by_a_later_round(seed: int, stuck: bool) -> None:
    """Three ReLU units that see one half of |x|: some round fits it, also if the first does not; all are far apart."""
    torch.manual_seed(seed)
    network = MLPPredictor((1,), width=3, depth=1)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        layers[0].weight.uniform_(0.5, 1.5)
        layers[0].bias.uniform_(-0.1, 0.1)
        layers[1].weight.normal_(0, 0.5)
        layers[1].bias.zero_()
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    method = AdversarialTraining(Predictor(network, optimizer, ema_decay=None))
    rounds = PersistentRounds(6, weight=0.5, scale=1.0)
    fit(method, Kink(iterations_per_block=500), 6 * 4_000, callbacks=[rounds])
    names = [name for name, _ in method.named_parameters()]
    solutions = torch.stack([torch.cat([kept["method"][n].flatten() for n in names]) for kept in rounds.archive])
    assert (rounds.losses[0] > 0.05) is stuck, rounds.losses
    assert min(rounds.losses) < 1e-4, rounds.losses
    assert float(torch.pdist(solutions).min()) > 1, torch.pdist(solutions)
    x, y = Kink().labelled("test")
    assert float((method.predict(x, "raw") - y).square().mean()) < 1e-3
