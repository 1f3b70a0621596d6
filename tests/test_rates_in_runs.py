"""Controls of learning rates in runs: every method, other modules, resuming, two processes, the command line."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from problems import METHODS, build, data, fit, weights
from test_cli import TOY, run_folder
from test_cli import fit as fit_by_command
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pt_flows import ControlledRate, FluctuationDissipation, RateControl, Schedule, UserError
from pt_flows.callbacks import PersistentRounds, Rates
from pt_flows.cli.main import main
from pt_flows.testing.methods import StopHalfway

Always = partial(FluctuationDissipation, window=2, tolerance=1e9, drop=0.5)
"""Drops rates after every second iteration."""


def controlled(
    name: str, control: RateControl, num: int, block: int = 1, *others: L.Callback, **trainer: Any
) -> tuple[Any, L.Trainer]:
    """A method after a run of some iterations under a control, and its trainer."""
    module, callbacks = build(name), [Rates(control), *others]
    L.seed_everything(0, verbose=False)
    return module, fit(
        module, data(iterations_per_block=block), num, callbacks=callbacks, **{"log_every_n_steps": 1, **trainer}
    )


def told(runner: L.Trainer) -> dict[str, float]:
    """Numbers of the control in the last row of the log."""
    row = {key: float(value) for key, value in runner.callback_metrics.items()}
    return {key: value for key, value in row.items() if "fdr" in key or "rate_factor" in key}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_monitored_and_controlled(name: str) -> None:
    """A monitor changes no weight. A control lowers the rate of every player, and tells what it saw."""
    plain = build(name)
    L.seed_everything(0, verbose=False)
    fit(plain, data(iterations_per_block=1), 4)
    monitored, _ = controlled(name, Always(drop=1.0), 4)
    assert torch.equal(weights(plain), weights(monitored))
    module, runner = controlled(name, Always(), 4)
    row = told(runner)
    for player in (key for key, p in module.players.items() if p.optimizer is not None):
        assert row[f"train/rate_factor_{player}"] == 0.25
        assert row[f"train/fdr_stationary_{player}"] in (0, 1)
    moved = [key for key in module.players if f"train/fdr_right_{key}" in row]
    assert moved
    assert all(row[f"train/fdr_right_{key}"] > 0 for key in moved)
    assert not torch.equal(weights(plain), weights(module))
    assert module.rates is None


@pytest.mark.parametrize("name", ["WGANGP", "ODEGAN", "PCD"])
def test_rates_do_not_depend_on_the_size_of_blocks(name: str) -> None:
    runs = [
        controlled(name, control, 6, block)[0] for block in (1, 3) for control in (Always(), ControlledRate(2, False))
    ]
    assert torch.equal(weights(runs[0]), weights(runs[2]))
    assert torch.equal(weights(runs[1]), weights(runs[3]))


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_a_dropped_rate_is_the_step_size_of_ode_gan(integrator: str) -> None:
    """In all stages of a step: the run is that of a schedule with the same drops."""
    module = build("ODEGAN", integrator=integrator, step_size=0.05)
    L.seed_everything(0, verbose=False)
    fit(module, data(iterations_per_block=1), 6, callbacks=[Rates(Always())])
    pieces = Schedule(0.05, boundaries=(1, 3), factors=(1.0, 0.5, 0.25))
    twin = build("ODEGAN", integrator=integrator, step_size=pieces)
    L.seed_everything(0, verbose=False)
    fit(twin, data(iterations_per_block=1), 6)
    assert torch.equal(weights(module), weights(twin))


CONTROLS = [
    partial(FluctuationDissipation, window=4, tolerance=1e9, drop=0.5),
    partial(FluctuationDissipation, window=4, tolerance=50.0, drop=0.5),
    partial(ControlledRate, every_n_iterations=4, per_player=False),
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", ["WGANGP", "ODEGAN", "SimVAE"])
def test_a_run_resumes_exactly_inside_a_window(name: str, control: Any, tmp_path: Path) -> None:
    """Weights and the next row of the log, although rows and windows are not in step."""
    whole, runner = controlled(name, control(), 27, 1, StopHalfway(tmp_path / "a.ckpt", 99))
    controlled(name, control(), 27, 1, StopHalfway(tmp_path / "a.ckpt", 22))
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    resumed, again = controlled(name, control(), 27, 1, ckpt_path=tmp_path / "a.ckpt")
    assert torch.equal(weights(whole), weights(resumed))
    assert told(again).items() <= told(runner).items()  # which has the last numbers of players that rest
    assert f"train/rate_factor_{list(whole.players)[-1]}" in told(again)


def test_a_control_begins_on_a_checkpoint_without_one_and_may_be_left_out(tmp_path: Path) -> None:
    fit(build("WGANGP"), data(iterations_per_block=1), 2).save_checkpoint(tmp_path / "a.ckpt")
    module, runner = controlled("WGANGP", Always(), 4, ckpt_path=tmp_path / "a.ckpt")
    assert told(runner)["train/rate_factor_generator"] == 0.5
    runner.save_checkpoint(tmp_path / "b.ckpt")
    with pytest.warns(UserWarning, match=r"has the state of FluctuationDissipation, so ControlledRate begins afresh"):
        controlled("WGANGP", ControlledRate(), 6, ckpt_path=tmp_path / "b.ckpt")
    again = type(module).load_from_checkpoint("b.ckpt")
    assert torch.equal(weights(again), weights(module))
    fit(again, data(iterations_per_block=1), 6, ckpt_path=tmp_path / "b.ckpt")
    assert again.generator.lr == pytest.approx(1e-3 * (1 - 5 / 6))


@pytest.mark.parametrize("control", [Always, partial(ControlledRate, 1)])
def test_two_processes_drop_together(control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)  # conftest restores it
    one, runner = controlled("WGANGP", control(), 6, precision="64-true")
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    two, _ = controlled("WGANGP", control(), 6, precision="64-true", devices=2, strategy=strategy)
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-9, atol=1e-10)
    assert "train/rate_factor_critic" in told(runner)


# -------------------------------------------------------------------------------------------------------- other modules


class Regression(L.LightningModule):
    """A LightningModule that knows nothing of this package."""

    def __init__(self, scheduler: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.scheduler = nn.Linear(3, 1), scheduler

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = self.minibatch()
        return (self.net(x) - y).square().mean()

    def minibatch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lightning's own loop does not resume the order of batches."""
        torch.manual_seed(self.global_step)
        x = torch.randn(8, 3)
        return x, x.sum(1, keepdim=True) + torch.randn(8, 1)

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
        if self.scheduler is None:
            return sgd
        return [sgd], [{"scheduler": self.scheduler(sgd), "interval": "step"}]


class Duel(Regression):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = self.minibatch()
        for optimizer, net in zip(self.optimizers(), (self.net, self.other), strict=True):  # pyright: ignore
            optimizer.zero_grad()
            self.manual_backward((net(x) - y).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(net.parameters(), lr=0.1) for net in (self.net, self.other)]


def fit_plain(module: L.LightningModule, control: RateControl, num: int, **arguments: Any) -> L.Trainer:
    runner = L.Trainer(
        max_steps=num, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Rates(control)], log_every_n_steps=1,
    )  # fmt: skip
    runner.fit(module, DataLoader(TensorDataset(torch.zeros(100))), **arguments)
    return runner


SCHEDULERS = [
    (None, lambda t: 1.0),
    (partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda t: 1 / (1 + t)), lambda t: 1 / (1 + t)),
    (partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.1), lambda t: 0.1 ** (t // 3)),
]


@pytest.mark.parametrize(("scheduler", "expected"), SCHEDULERS)
def test_the_rate_of_another_module_is_scaled_beside_its_scheduler(scheduler: Any, expected: Any) -> None:
    """After ten steps the rate has dropped five times."""
    runner = fit_plain(Regression(scheduler), Always(), 10)
    assert runner.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * expected(10) * 0.5**5)
    row = told(runner)
    assert row["train/rate_factor_optimizer_1"] == 0.5**5
    assert row["train/fdr_right_optimizer_1"] > 0


@pytest.mark.parametrize("cls", [Regression, Duel])
def test_another_module_resumes_exactly_inside_a_window(cls: Any, tmp_path: Path) -> None:
    step = 2 if cls is Duel else 1  # its steps count twice
    for control in (partial(FluctuationDissipation, window=6, tolerance=1e9, drop=0.5), partial(ControlledRate, 3)):
        whole, resumed = cls(), cls()
        row = told(fit_plain(whole, control(), 40 * step))
        fit_plain(cls(), control(), 22 * step).save_checkpoint(tmp_path / "a.ckpt")
        again = told(fit_plain(resumed, control(), 40 * step, ckpt_path=tmp_path / "a.ckpt", weights_only=True))
        assert torch.equal(weights(whole), weights(resumed))
        assert row == again


@pytest.mark.slow
def test_ratios_of_another_module_come_to_one() -> None:
    """Its steps are seen after the closure: gradients with weight decay, momentum."""
    control = FluctuationDissipation(window=100, drop=1.0)
    row = told(fit_plain(Regression(), control, 400))
    assert row["train/fdr_ratio_optimizer_1"] == pytest.approx(1, abs=0.05)


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"rates\.per_player: expected false, because ODEGAN moves all .* got true"):
        controlled("ODEGAN", ControlledRate(), 2)
    with pytest.raises(UserError, match=r"rates: expected optimizers whose steps .*, got Rprop of generator"):
        fit(build("WGANGP", optimizer=torch.optim.Rprop), data(), 2, callbacks=[Rates(Always())])


def test_one_flag_controls_the_rates_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["--rates", "FluctuationDissipation", "--rates.window", "4", "--rates.tolerance", "1e9"]
    optimizer = ["--model.critic.optimizer", "CSGD", "--model.critic.optimizer.lr", "0.1"]
    optimizer += ["--model.critic.lr_schedule.decay", "constant", "--trainer.log_every_n_steps", "2"]
    assert fit_by_command(*rates, *optimizer, steps=8) == 0
    with (run_folder() / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/rate_factor_critic"]]
    assert [float(row["train/rate_factor_critic"]) for row in rows] == pytest.approx([1, 0.1, 0.1, 0.01])
    assert [float(row["train/lr_critic"]) for row in rows] == pytest.approx([0.1, 0.1, 0.01, 0.01])  # that was used
    assert main(["fit", "--config", str(TOY), *rates, "--rates.window", "1"]) == 2
    assert "rates.window: expected at least 2, got 1" in capsys.readouterr().err
    assert not (list(Path("runs").glob("*/*"))[1:])


def test_rounds_that_begin_anew_take_no_control() -> None:
    callbacks = [Rates(FluctuationDissipation()), PersistentRounds(rounds=2)]
    with pytest.raises(UserError, match=r"rates: expected none with PersistentRounds"):
        fit(build("WGANGP"), data(), max_steps=2, callbacks=callbacks)
