"""Schedules and players, by closed forms and by hand; methods and players of users."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from problems import data, fit
from torch import Tensor, nn

import pt_flows.training.player as player_module
from pt_flows import W1FE, Critic, Generator, Method, Player, Schedule, UserError, sample
from pt_flows.contracts import Batch, CriticNet, OptimizerFactory, Terms
from pt_flows.nets import MLPCritic, MLPEnergy, MLPGenerator
from pt_flows.training.player import adam
from pt_flows.training.players import Energy
from pt_flows.training.schedules import Progress, scheduled

SGD = partial(torch.optim.SGD, lr=0.1)
TOTAL = 10


# ----------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(3.0), lambda t: 3.0),
        (Schedule(3.0, "linear"), lambda t: 3.0 * max(0, 1 - t / TOTAL)),
        (Schedule(3.0, "cosine"), lambda t: 1.5 * (1 + math.cos(math.pi * min(t / TOTAL, 1)))),
        (Schedule(warmup=4), lambda t: min(1, (t + 1) / 4)),
        (Schedule(2.0, boundaries=(2, 5), factors=(1, 0.5, 4)), lambda t: 2.0 if t <= 2 else 1.0 if t <= 5 else 8.0),
        (Schedule(2.0, "linear", 4, (5,), (1, 0.5)),
         lambda t: 2 * min(1, (t + 1) / 4) * max(0, 1 - t / TOTAL) * (1 if t <= 5 else 0.5)),
    ],
)  # fmt: skip
def test_schedules_in_closed_form(schedule: Schedule, expected: Callable[[int], float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = [schedule(Progress(t, TOTAL)) for t in range(TOTAL + 3)]
    assert values == pytest.approx([expected(t) for t in range(TOTAL + 3)], abs=1e-15)


def test_schedules_without_an_end_and_plain_numbers() -> None:
    assert [Schedule(3.0)(Progress(t, -1)) for t in (0, 10**6)] == [3.0, 3.0]
    assert not Schedule(warmup=5, boundaries=(2,), factors=(1, 2)).needs_an_end
    assert Schedule(decay="linear").needs_an_end
    assert scheduled(0.25) == Schedule(0.25)
    assert scheduled(Schedule(2, "linear")) == Schedule(2, "linear")
    assert len({Schedule(boundaries=[1], factors=[1, 2]), Schedule(boundaries=(1,), factors=(1.0, 2.0))}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": 0.0}, "value: expected a number above 0, got 0.0"),
        ({"decay": "exponential"}, "decay: expected one of constant, linear, cosine, got 'exponential'"),
        ({"warmup": -1}, "warmup: expected at least 0, got -1"),
        ({"boundaries": [5]}, r"boundaries: expected ascending .*, got \[5\] and factors \[1.0\]"),
        ({"boundaries": [5, 3], "factors": [1.0, 1.0, 1.0]}, r"boundaries: expected ascending .*, got \[5, 3\]"),
        ({"factors": [0.0]}, "factors: expected every item to be a number above 0"),
    ],
)
def test_bad_schedules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"Schedule\.{message}"):
        Schedule(**arguments)


# ------------------------------------------------------------------------------------------------------------- players


def bound(optimizer: Any = SGD, **arguments: Any) -> Critic:
    """A critic with its optimizer, in float64."""
    torch.manual_seed(0)
    critic = Critic(MLPCritic(width=4, depth=1).double(), optimizer, **arguments)
    critic.bind("critic")
    return critic


def loss_of(network: nn.Module, i: int = 0) -> Tensor:
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(6, 2)
    return (network(x + i) - i).square().mean()


def vector(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


@pytest.mark.parametrize("optimizer", [partial(SGD, momentum=0.9), partial(torch.optim.Adam, lr=0.01)])
def test_a_step_is_that_of_torch_on_the_mean_gradient(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = bound(optimizer)
    twin = copy.deepcopy(critic.network)
    theirs = optimizer(twin.parameters())
    monkeypatch.setattr(player_module, "mean_over_ranks", lambda gradients: [g / 2 for g in gradients])  # other is 0
    for i in range(3):
        critic.step(loss_of(critic, i))
        theirs.zero_grad()
        (loss_of(twin, i) / 2).backward()
        theirs.step()
    torch.testing.assert_close(vector(critic.network), vector(twin), rtol=0, atol=1e-15)


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_a_long_gradient_is_scaled_down(clip_norm: float) -> None:
    critic = bound(clip_norm=clip_norm)
    gradients = torch.autograd.grad(loss_of(critic), list(critic.network.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    before = vector(critic.network)
    critic.step(loss_of(critic))
    moved = (vector(critic.network) - before).norm() / 0.1
    assert moved == pytest.approx(min(norm.item(), clip_norm), rel=1e-2)
    assert critic.gradient_norm == pytest.approx(norm)
    assert bound(clip_norm=None).gradient_norm is None


def test_a_penalty_is_added_to_every_loss() -> None:
    critic, twin = bound(), bound()
    critic.penalty = lambda parameters: sum(0.3 * p.square().sum() for p in parameters)  # pyright: ignore
    critic.step(loss_of(critic))
    twin.step(loss_of(twin) + 0.3 * nn.utils.parameters_to_vector(twin.network.parameters()).square().sum())
    torch.testing.assert_close(vector(critic.network), vector(twin.network), rtol=0, atol=1e-15)


def test_an_included_network_moves_and_stays_where_it_is() -> None:
    other = nn.Linear(2, 1).double()
    critic = Critic(MLPCritic(width=4, depth=1).double(), SGD)
    critic.include(other)
    critic.bind("critic")
    before = vector(other)
    critic.step(loss_of(critic) + loss_of(lambda x: other(x).squeeze(1)))  # pyright: ignore[reportArgumentType]
    assert not torch.equal(vector(other), before)
    assert not any(name.startswith("other") for name, _ in critic.named_modules())
    assert len(critic.state_dict()) == len(critic.network.state_dict())
    with pytest.raises(UserError, match=r"critic\.step: expected a loss of all .*, got one without weight, bias"):
        critic.step(loss_of(critic))


def test_the_configuration_wins_over_the_options_of_a_checkpoint() -> None:
    critic, saved = bound(partial(torch.optim.Adam, lr=0.1)), bound(partial(torch.optim.Adam, lr=5.0, betas=(0.1, 0.2)))
    saved.step(loss_of(saved))
    critic.bound.load_state_dict(saved.bound.state_dict())
    assert critic.lr == 5.0
    critic.restore_settings()
    assert critic.lr == 0.1
    assert critic.bound.param_groups[0]["betas"] == (0.9, 0.999)
    assert critic.bound.state_dict()["state"][0]["step"] == 1


def test_rates_follow_the_schedule() -> None:
    critic = bound(lr_schedule=Schedule(decay="linear"))
    rates = []
    for t in range(4):
        critic.begin(Progress(t, 4))
        rates.append(critic.lr)
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_a_player_without_trainable_parameters_has_no_optimizer() -> None:
    critic = Critic(MLPCritic(width=4).requires_grad_(False))
    assert critic.bind("judge") is None
    critic.begin(Progress(0, 10))
    critic.restore_settings()
    with pytest.raises(UserError, match=r"judge: expected an optimizer, got none"):
        critic.step(torch.zeros(()))


def test_without_an_average_its_weights_are_refused_in_a_sentence() -> None:
    module = W1FE(Generator(MLPGenerator(), ema_decay=None), Critic(MLPCritic()))
    message = r"weights: expected raw, got ema, but generator keeps no average\. Choose raw, or train with an ema_decay"
    with pytest.raises(UserError, match=message):
        sample(module, 2)
    assert sample(module, 2, weights="raw").shape == (2, 2)
    assert not module.generator.keeps("ema")
    assert module.generator.keeps("raw")


@pytest.mark.parametrize("training", [True, False])
def test_fixed_networks_return_to_their_mode(training: bool) -> None:
    critic = bound(ema_decay=0.9)
    critic.train(training)
    critic.network.net[1].train(not training)  # pyright: ignore
    modes = [layer.training for layer in critic.network.modules()]
    with critic.fixed() as network:
        assert network is critic.network
        assert not any(layer.training for layer in network.modules())
    assert [layer.training for layer in critic.network.modules()] == modes
    with pytest.raises(ZeroDivisionError), critic.fixed():
        raise ZeroDivisionError
    assert [layer.training for layer in critic.network.modules()] == modes
    with critic.fixed("ema") as network:
        assert network is not critic.network


# ---------------------------------------------------------------------------------------- methods and players of users


class Counting(Method):
    """A method without players: the mean of the data, by counting."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        ((x, _),) = minibatches
        self.mean += (x.mean(0) - self.mean) / (self.iteration + 1)
        return {}


def test_a_method_without_an_optimizer_trains_and_resumes(tmp_path: Path) -> None:
    whole, half, resumed = Counting(), Counting(), Counting()
    assert fit(whole, data(iterations_per_block=2), max_steps=6).global_step == whole.iteration == 6
    fit(half, data(iterations_per_block=2), max_steps=4).save_checkpoint(tmp_path / "a.ckpt")
    runner = fit(resumed, data(iterations_per_block=2), max_steps=6, ckpt_path=tmp_path / "a.ckpt")
    assert runner.global_step == resumed.iteration == 6
    assert torch.equal(resumed.mean, whole.mean)
    assert not whole.mean.equal(half.mean)


@final
class Encoder(Player[CriticNet]):
    """A player as a user writes it, with its own section of a configuration."""

    def __init__(
        self,
        network: CriticNet,
        optimizer: OptimizerFactory = adam,
        lr_schedule: Schedule = Schedule(),  # noqa: B008
        ema_decay: float | None = None,
        clip_norm: float | None = None,
        depth: int = 3,
    ) -> None:
        super().__init__(network, optimizer, lr_schedule, ema_decay, clip_norm)
        self.depth = depth


class Encoding(Method):
    """A method as a user writes it, with the user's own player."""

    def __init__(self, encoder: Encoder, weight: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.weight = encoder, weight

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        ((x, _),) = minibatches
        loss = self.weight * (self.encoder(x) - x.sum(1)).square().mean()
        self.encoder.step(loss)
        return {"loss": loss.detach()}


def test_a_player_of_the_user_is_a_section_of_the_command_line() -> None:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Method, "model")
    words = ["--model", "test_players.Encoding", "--model.encoder.network", "pt_flows.nets.MLPCritic"]
    words += ["--model.encoder.network.width", "4", "--model.encoder.lr_schedule.decay", "cosine"]
    words += ["--model.encoder.optimizer", "torch.optim.SGD", "--model.encoder.optimizer.lr", "0.25"]
    config = parser.parse_args([*words, "--model.encoder.depth", "7", "--model.weight", "2"])
    method: Any = parser.instantiate_classes(config).model
    encoder: Any = method.encoder
    assert type(method).__name__ == "Encoding"
    assert type(encoder).__name__ == "Encoder"
    assert (encoder.depth, encoder.lr_schedule, method.weight) == (7, Schedule(decay="cosine"), 2.0)
    encoder.bind("encoder")
    assert (type(encoder.bound), encoder.lr) == (torch.optim.SGD, 0.25)
    fit(method, data(), max_steps=2)


def test_a_player_of_the_user_is_in_checkpoints(tmp_path: Path) -> None:
    method = Encoding(Encoder(MLPCritic(width=4), SGD, Schedule(warmup=2), depth=5), weight=2)
    fit(method, data(), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    again = Encoding.load_from_checkpoint("a.ckpt")
    assert (again.encoder.depth, again.weight, again.encoder.lr_schedule) == (5, 2, Schedule(warmup=2))
    assert torch.equal(vector(again.encoder.network), vector(method.encoder.network))
    assert type(again.encoder.bind("encoder")) is torch.optim.SGD


def test_energies_begin_with_betas_of_their_own() -> None:
    """Energies have no momentum, because they diverge with it; generators and critics have 0.5."""
    kinds: list[Player[Any]] = [Generator(MLPGenerator()), Critic(MLPCritic()), Energy(MLPEnergy())]
    optimizers = [player.bind("player") for player in kinds]
    assert [o.param_groups[0]["betas"] for o in optimizers if o is not None] == [(0.5, 0.9), (0.5, 0.9), (0.0, 0.9)]
