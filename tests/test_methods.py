"""Requirements on methods, learning rates and resuming, and each paper's identities."""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from problems import METHODS, ROOT, Adam, build, data, fit, weights
from torch import nn

from pt_flows import sample
from pt_flows.contracts import Batch, CriticNet, GeneratorNet, Terms
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.load import finished
from pt_flows.functional.potentials import Reduction, euler_target, regression_loss, velocity
from pt_flows.loop.clock import synchronises_batch_norm
from pt_flows.loop.method import Method
from pt_flows.loop.preflight import check_synchronised_norms, check_trainer
from pt_flows.methods import PCD, W1FE, W2FE, WGANGP, JSFlow, MinibatchW2FE
from pt_flows.methods.flows.particle_flow import ParticleFlow
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPEnergy, MLPGenerator, ResidualMLPGenerator
from pt_flows.training.players import Critic, Energy, Generator
from pt_flows.training.schedules import Progress, Schedule

KINDS = [pytest.param(False, id="toys"), pytest.param(True, id="images")]


@pytest.mark.parametrize("name", METHODS)
def test_learning_rates_come_from_the_configuration(name: str, tmp_path: Path) -> None:
    """A run continued with other rates uses them, and schedules continue from the iteration."""
    fit(build(name), data(iterations_per_block=1), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    faster: dict[str, Any] = {"optimizer": partial(Adam, lr=0.5)}
    if name.startswith("ODEGAN"):
        faster = {"step_size": Schedule(0.5, "linear")}
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    module = build(name, **faster)
    fit(module, data(iterations_per_block=1), max_steps=4, ckpt_path=tmp_path / "a.ckpt", callbacks=[Watch()])
    full = 1.0 if name.startswith("ODEGAN") else 0.5
    schedules = [player.lr_schedule for player in module.players.values()]
    assert seen == [[full * schedule(Progress(t, 4)) for schedule in schedules] for t in (2, 3)]
    assert seen[0][0] > 0.1


class Stairs(Schedule):
    """A schedule of another kind: a tenth after every two iterations."""

    def __call__(self, progress: Progress) -> float:
        return 0.1 ** (progress.iteration // 2)


def test_other_schedules_continue_and_are_not_taken_for_ours(tmp_path: Path) -> None:
    make = lambda: build("WGANGP", lr_schedule=Stairs())
    fit(make(), data(iterations_per_block=1), max_steps=3).save_checkpoint(tmp_path / "a.ckpt")
    resumed = make()
    fit(resumed, data(iterations_per_block=1), max_steps=5, ckpt_path=tmp_path / "a.ckpt")
    assert [player.lr for player in resumed.players.values()] == [pytest.approx(1e-5)] * 2
    with pytest.warns(UserWarning, match=r"does not describe its generator\.lr_schedule, critic\.lr_schedule"):
        WGANGP.load_from_checkpoint("a.ckpt")


def test_schedules_of_torch_are_refused() -> None:
    class Halved(WGANGP):
        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 2) for optimizer in optimizers]

    with pytest.raises(UserError, match=r"configure_optimizers: expected optimizers alone, got a StepLR\. Use lr_"):
        fit(Halved(Generator(MLPGenerator(width=8)), Critic(MLPCritic(width=8))), data(), max_steps=1)


def test_a_loaded_module_continues_its_count() -> None:
    """Even without ckpt_path, fit stops at max_steps iterations and does not wait for more."""
    first, again = build("WGANGP"), build("WGANGP")
    fit(first, data(iterations_per_block=1), max_steps=3)
    again.load_state_dict(first.state_dict())
    runner = fit(again, data(iterations_per_block=1), max_steps=5)
    assert again.iteration == runner.global_step == 5


# ------------------------------------------------------------------------------------------------ W1-FE against WGAN


@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_first_persistent_gradient_is_the_wgan_gradient(images: bool, reduction: Reduction) -> None:
    """∇ℓ = 2ε ∇[-(1/m) Σ f(G(z_i))], or 2ε/d for "mean" (statements T1a and T1b)."""
    torch.set_default_dtype(torch.float64)
    G: nn.Module = (
        DCGANGenerator(width=4, latent_dim=8) if images else ResidualMLPGenerator(init_std=0.3, batch_norm=False)
    )
    f: nn.Module = DCGANCritic(width=4) if images else MLPCritic(width=16)
    z = torch.randn(6, *(G.latent_shape))  # type: ignore[arg-type]
    step, parameters = 0.37, list(G.parameters())
    y = G(z)
    persistent = torch.autograd.grad(regression_loss(y, euler_target(y, velocity(f, y), step), reduction), parameters)
    wgan = torch.autograd.grad(-f(G(z)).mean(), parameters)
    factor = 2 * step / (1 if reduction == "sum" else y[0].numel())
    scale = max(float(g.abs().max()) for g in wgan)
    for a, b in zip(persistent, wgan, strict=True):
        assert (a - factor * b).abs().max() < 1e-12 * max(1.0, scale)


def test_first_mean_gradient_in_the_plane_is_exactly_wgans() -> None:
    """With d = 2 and ε = 1 the factor is one."""
    torch.set_default_dtype(torch.float64)
    G, f, z = MLPGenerator(width=8), MLPCritic(width=8), torch.randn(5, 2)
    y = G(z)
    ours = torch.autograd.grad(regression_loss(y, euler_target(y, velocity(f, y), 1.0), "mean"), list(G.parameters()))
    theirs = torch.autograd.grad(-f(G(z)).mean(), list(G.parameters()))
    assert all((a - b).abs().max() < 1e-14 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("step_size", "penalty"), [(0.1, "two_sided"), (1.0, "two_sided"), (1.0, "one_sided")])
def test_whole_runs_agree_at_persistence_one(step_size: float, penalty: str) -> None:
    """Adam cancels a constant factor, so K = 1 and WGAN-GP or WGAN-LP give the same weights (statement T1c)."""
    torch.set_default_dtype(torch.float64)
    tiny_eps = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9), eps=1e-14)
    results = []
    for cls, arguments in [
        (W1FE, {"persistence": 1, "penalty": penalty, "step_size": step_size}),
        (WGANGP, {} if penalty == "two_sided" else {"penalty": penalty}),
    ]:
        L.seed_everything(0, verbose=False)
        G, f = MLPGenerator(width=16), MLPCritic(width=16)
        module = cls(Generator(G, tiny_eps), Critic(f, tiny_eps, steps=2), **arguments)
        fit(module, data(), max_steps=20, precision="64-true")
        results.append(weights(module))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-7)


def test_persistence_reaches_its_targets_where_repetition_runs_away() -> None:
    """With a fixed critic the persistent loop stops at G(z) = ζ; repeating the WGAN step never does (statement T3)."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    f, z = lambda y: y @ torch.tensor([0.6, 0.8]), torch.randn(4, 2)
    residuals = {}
    for name in ("persistent", "naive"):
        torch.manual_seed(1)
        G = MLPGenerator(width=64, depth=1)
        optimizer = torch.optim.SGD(G.parameters(), lr=0.02)
        y = G(z)
        zeta = euler_target(y, velocity(f, y), 1.0)
        for _ in range(400):
            optimizer.zero_grad()
            loss = regression_loss(G(z), zeta) if name == "persistent" else -2 * f(G(z)).mean()
            loss.backward()
            optimizer.step()
        residuals[name] = regression_loss(G(z), zeta).item()
    assert residuals["persistent"] < 1e-3
    assert residuals["naive"] > 100


def test_the_generator_of_wgan_gp_takes_several_steps_against_each_critic() -> None:
    module = build("WGANGP", generator_steps=3)
    trainer = fit(module, data(iterations_per_block=1), max_steps=2)
    steps = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in trainer.optimizers]
    assert steps == [{6}, {2 * module.critic.steps}]


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"steps": 0}, r"Critic\.steps: expected at least 1, got 0"),
        ({"persistence": 0}, r"W1FE\.persistence: expected at least 1, got 0"),
        ({"step_size": 0.0}, r"W1FE\.step_size: expected a number above 0, got 0\.0"),
        ({"step_size": float("nan")}, r"W1FE\.step_size: expected a number above 0, got nan"),
        ({"penalty_weight": -1.0}, r"W1FE\.penalty_weight: expected at least 0, got -1\.0"),
        ({"ema_decay": 1.0}, r"Generator\.ema_decay: expected a number in \[0, 1\), got 1\.0"),
    ],
)
def test_bad_numbers_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("W1FE", **overrides)


@pytest.mark.parametrize("name", ["W1FE", "WGANGP"])
def test_an_unknown_penalty_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}\.penalty: expected one of one_sided, two_sided, got 'three'"):
        build(name, penalty="three")


def test_networks_that_do_not_fit_each_other_are_refused() -> None:
    message = r"model.critic.network: expected samples of shape \(2,\), as model.generator has, got \(3, 32, 32\)"
    with pytest.raises(UserError, match=message):
        WGANGP(Generator(MLPGenerator()), Critic(DCGANCritic(width=4)))


def test_networks_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(UserError, match=r"samples of shape \(3, 32, 32\), as Shapes32 has, got \(2,\)"):
        fit(build("WGANGP"), data(images=True), max_steps=1)


def test_data_that_are_not_blocks_are_refused() -> None:
    module = build("WGANGP")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 2), torch.zeros(8)), batch_size=4
    )
    runner = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(UserError, match=r"data: expected blocks x .*, got \(4, 2\) and \(4,\)"):
        runner.fit(module, loader)


def test_half_precision_is_refused() -> None:
    runner = L.Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False)
    check_trainer(runner)
    runner.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(UserError, match=r"trainer\.precision: expected bf16-mixed or 32-true, got 16-mixed"):
        check_trainer(runner)


@pytest.mark.parametrize("name", ["W1FE", "W2FE", "MinibatchW2FE-entropic", "R3GAN"])
def test_bfloat16_trains_with_a_float32_penalty(name: str) -> None:
    module = build(name)
    fit(module, data(), max_steps=2, precision="bf16-mixed")
    assert bool(weights(module).isfinite().all())


@pytest.mark.parametrize("images", KINDS)
def test_three_ranks_equal_one(images: bool) -> None:
    torch.set_default_dtype(torch.float64)
    results = []
    for scale in ({}, {"strategy": "ddp_fork", "devices": 3}):
        module, batches = build("WGANGP", images), data(images)
        batches.batch_size = 6
        fit(module, batches, max_steps=2, precision="64-true", **scale)
        results.append(weights(module))
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


def test_sharded_parameters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sharded(SingleDeviceStrategy):
        pass

    module = build("WGANGP")
    monkeypatch.setattr("pt_flows.loop.preflight.SingleDeviceStrategy", DDPStrategy)
    with pytest.raises(UserError, match=r"trainer\.strategy: expected ddp, got Sharded\. "):
        fit(module, data(), max_steps=1, strategy=Sharded("cpu"))


@pytest.mark.parametrize("name", ["W1FE", "ODEGAN"])
def test_synchronised_batch_norm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on GPUs, and only where batch norm is differentiated once."""
    module = build(name)
    module.generator.replace_network(DCGANGenerator(width=4))
    runner = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", sync_batchnorm=True, logger=False)
    monkeypatch.setattr(type(runner.strategy), "root_device", torch.device("cpu"))
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm: expected GPUs, got CPUs\."):
        check_synchronised_norms(runner, module)
    assert synchronises_batch_norm(runner)
    assert not synchronises_batch_norm(L.Trainer(accelerator="cpu", logger=False))
    monkeypatch.setattr(type(runner.strategy), "root_device", torch.device("cuda", 0))
    if name == "W1FE":
        check_synchronised_norms(runner, module)
        return
    with pytest.raises(UserError, match="expected no batch norm in generator, which ODEGAN differentiates twice"):
        check_synchronised_norms(runner, module)


@pytest.mark.parametrize("name", ["W1FE", "ODEGAN", "DAEBM"])
@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)], ids=["1 to 2", "2 to 1"])
def test_a_run_continues_with_another_number_of_processes(name: str, ranks: tuple[int, int], tmp_path: Path) -> None:
    """The global batch, its noise and the chains stay the same, to rounding."""
    torch.set_default_dtype(torch.float64)
    whole = build(name)
    fit(whole, data(iterations_per_block=1), max_steps=6, precision="64-true")
    scale = lambda n: {"strategy": "ddp_fork", "devices": 2} if n == 2 else {}

    class Half(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if pl_module.iteration == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    first, second = build(name), build(name)
    fit(first, data(iterations_per_block=1), max_steps=6, precision="64-true", callbacks=[Half()], **scale(ranks[0]))
    fit(second, data(iterations_per_block=1), 6, tmp_path / "half.ckpt", precision="64-true", **scale(ranks[1]))
    assert second.iteration == 6
    torch.testing.assert_close(weights(second), weights(whole), rtol=0, atol=1e-10)


def test_two_ranks_reject_a_batch_that_does_not_divide() -> None:
    datamodule = data(batch_size=15)
    with pytest.raises(Exception, match=r"data\.batch_size: expected a multiple of the 2 processes, got 15"):
        fit(build("WGANGP"), datamodule, max_steps=1, strategy="ddp_fork", devices=2)


def test_two_ranks_reject_different_configurations() -> None:
    class Differ(L.Callback):
        def setup(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_rank == 1:
                trainer.datamodule.batch_size = 32  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(Exception, match=r"process 1: expected the configuration of process 0, got batch_size 32 inst"):
        fit(build("WGANGP"), data(), max_steps=1, strategy="ddp_fork", devices=2, callbacks=[Differ()])


def test_decay_without_an_end_is_refused() -> None:
    for key in ("lr_schedule", "step_size"):
        with pytest.raises(UserError, match=rf"{key}: expected a run with a planned end for a cosine decay, got none"):
            fit(build("W1FE", **{key: Schedule(decay="cosine")}), data(), max_steps=-1)


class Breaks(ParticleFlow):
    """A method whose loss is not a number from iteration 3 on."""

    def critic_loss(self, x: torch.Tensor, y: torch.Tensor) -> Terms:
        return {"loss_D": self.critic(x).mean()}

    def iterate(self, minibatches: list[Batch]) -> Terms:  # type: ignore[override]
        bad = torch.tensor(float("nan") if self.iteration >= 2 else 0.0)
        return {"fine": torch.zeros(()), "energy": bad}


def test_divergence_names_term_and_iteration() -> None:
    module = Breaks(Generator(MLPGenerator()), Critic(MLPCritic()))
    with pytest.raises(DivergenceError, match="energy is nan at iteration 3"):
        fit(module, data(iterations_per_block=5), max_steps=10, log_every_n_steps=10)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    module = build("WGANGP")
    runner = fit(module, data(), max_steps=1)
    with torch.no_grad():
        next(module.critic.parameters()).fill_(float("inf"))
    with pytest.raises(DivergenceError, match=r"critic\..* not finite after iteration 1"):
        runner.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


def test_no_number_is_read_back_between_log_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of this package turns a tensor into a number in the step: on a GPU each would wait for the device."""
    module, reads, blocks = build("W1FE"), [], []

    def watch(name: str) -> None:
        original = getattr(torch.Tensor, name)

        def watched(self: torch.Tensor, *arguments: Any) -> Any:
            caller = sys._getframe(1).f_code
            if "pt_flows" in caller.co_filename:
                reads.append(f"{name} in {caller.co_qualname}")
            return original(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, watched)

    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "numpy", "cpu"):
        watch(name)

    class Count(L.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            reads.clear()

        def on_train_batch_end(self, *args: Any) -> None:
            blocks.append(list(reads))

    fit(module, data(iterations_per_block=5), max_steps=20, log_every_n_steps=10, callbacks=[Count()])
    assert blocks[0] == blocks[2] == []
    assert any("Journal.flush" in read for read in blocks[1])  # the watch works: a log point does read


# ---------------------------------------------------------------------------------------------------- from plain Python

WORDS = (ROOT / "docs/python.md").read_text().split("```python\n")


def test_the_example_of_the_docs_runs_without_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = WORDS[1].split("```")[0]
    assert "max_steps=500" in code
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        exec(code.replace("max_steps=500", "max_steps=4, enable_progress_bar=False"), {})
    shown = [str(w.message) for w in seen if not issubclass(w.category, DeprecationWarning | FutureWarning)]
    assert not shown
    assert "W2 to the data: " in capsys.readouterr().out


def test_a_network_in_evaluation_mode_is_still_named() -> None:
    module = build("WGANGP")
    module.generator.network.eval()
    with pytest.warns(UserWarning, match=r"in eval mode"):
        fit(module, data(), max_steps=1)


class PlainCritic(CriticNet):
    """A user's critic, whose arguments can be written down."""

    def __init__(self, width: int, layers: Sequence[int] = (1,)) -> None:
        super().__init__()
        self.event_shape = (2,)
        self.net = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze(1)


class WrappingGenerator(GeneratorNet):
    """A user's generator, whose argument cannot."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.latent_shape = self.event_shape = (2,)
        self.layer = layer

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z)


def drawn(module: Any) -> torch.Tensor:
    return sample(module, 5, rng=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in METHODS if "-" not in name])
def test_a_module_built_in_python_loads_from_its_checkpoint_alone(name: str, tmp_path: Path) -> None:
    module = build(name)
    fit(module, data(), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    for again in (type(module).load_from_checkpoint("a.ckpt"), Method.load_from_checkpoint("a.ckpt")):
        assert type(again) is type(module)
        assert again.iteration == 2
        assert torch.equal(drawn(again), drawn(module))
    fit(again, data(), max_steps=3).save_checkpoint(tmp_path / "b.ckpt")
    saved = [torch.load(tmp_path / f"{x}.ckpt", weights_only=True)["hyper_parameters"] for x in "ab"]
    assert {key: saved[1][key] for key in saved[0]}.keys() == saved[0].keys()  # loaded and saved: still described
    assert torch.equal(drawn(finished(tmp_path / "b.ckpt").method), drawn(again))


def test_own_networks_load_where_they_can_be_described(tmp_path: Path) -> None:
    unnamed = lambda p: torch.optim.SGD(p, 0.1)
    wrapping = lambda: Generator(WrappingGenerator(nn.Linear(2, 2)))
    module = W1FE(wrapping(), Critic(PlainCritic(8), unnamed))
    fit(module, data(), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        UserError, match=r"a.ckpt: expected a description of all arguments of W1FE, got less \(.*generator.*\)\. Call"
    ):
        W1FE.load_from_checkpoint("a.ckpt")
    with pytest.raises(UserError, match=r"generator\.network, critic\.optimizer"):
        finished(tmp_path / "a.ckpt")
    for cls, given in ((W2FE, {}), (MinibatchW2FE, {"generator": Generator(MLPGenerator())})):
        with pytest.raises(UserError, match=rf"a.ckpt: expected a {cls.__name__}, got pt_flows.W1FE\. Call"):
            cls.load_from_checkpoint("a.ckpt", **given)
    with pytest.warns(UserWarning, match=r"does not describe its critic\.optimizer, so the defaults are used"):
        again = Method.load_from_checkpoint("a.ckpt", generator=wrapping())
    assert type(again) is W1FE
    assert type(again.critic.network) is PlainCritic
    assert torch.equal(drawn(again), drawn(module))


# -------------------------------------------------------------------------------------- each requirement has a sentence


def broken(**methods: Any) -> Any:
    """Define a method as a user would, with one mistake."""
    critic = methods.pop("critic", MLPCritic(width=8))
    return type("Mine", (WGANGP,), methods)(Generator(MLPGenerator(width=8)), Critic(critic, steps=1))


def idle_network() -> Any:
    critic = MLPCritic(width=8)
    critic.idle = nn.Linear(1, 1)
    return critic


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"critic_loss": lambda s, x, y: {"loss": s.critic(x).mean()}}, r"critic_loss: .* under 'loss_D', got \['loss'\]"),
    ({"critic_loss": lambda s, x, y: s.critic(x).mean()}, r"critic_loss: .* under 'loss_D', got Tensor"),
    ({"critic_loss": lambda s, x, y: {"loss_D": 1.0}}, "expected a loss, a scalar tensor, got float"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x)}}, r"expected a scalar loss, got shape \(16,\)"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x).mean().detach()}}, "a loss that depends on"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x).mean(), "b": 0.5}}, "b: expected a tensor, got float"),
    ({"critic": idle_network()}, "got one without idle.weight, idle.bias"),
    ({"iterate": lambda s, m: None}, "Mine.iterate: expected a dict of scalar tensors, .* got NoneType"),
    ({"iterate": lambda s, m: {"a": 1.0}}, "Mine.iterate: a: expected a tensor, got float"),
    ({"iterate": lambda s, m: {"a": torch.zeros(1)}}, r"a: expected a scalar, got shape \(1,\)"),
    ({"iterate": lambda s, m: {"a": s.critic(m[0][0]).mean()}}, r"Return a.detach\(\)"),
    ({"configure_optimizers": lambda s: torch.optim.Adam(s.parameters())}, "configure_optimizers: expected the optim"),
    ({"sample": lambda s, num, **k: torch.zeros(num, 3)}, r"2 samples, a tensor of shape \(2, 2\), got \(2, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("methods", "message"), BROKEN)
def test_each_requirement_on_a_method_has_a_sentence(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(broken(**methods), data(), max_steps=1)


def test_an_iteration_without_minibatches_is_refused() -> None:
    module = broken()
    module.minibatches_per_iteration = 0
    with pytest.raises(UserError, match=r"Mine\.minibatches_per_iteration: expected at least 1, got 0"):
        fit(module, data(), max_steps=1)


def test_each_requirement_on_parts_has_a_sentence() -> None:
    G, D, given = Generator(MLPGenerator()), Critic(MLPCritic()), MLPGenerator()
    with pytest.raises(UserError, match=r"model.generator.network: .* without its latent_shape, event_shape"):
        Generator(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match=r"model.critic.network: .* a CriticNet, got the class MLPCritic"):
        Critic(MLPCritic)
    with pytest.raises(UserError, match=r"got a Linear without its event_shape, takes_labels"):
        Energy(nn.Linear(2, 1))
    with pytest.raises(UserError, match=r"generator.optimizer: expected a function .* got Adam"):
        Generator(given, torch.optim.Adam(given.parameters()))
    bare: list[tuple[Any, str, tuple[Any, ...]]] = [
        (W1FE, "Critic", (G, MLPCritic())), (WGANGP, "Generator", (MLPGenerator(), D)), (PCD, "Energy", (MLPEnergy(),)),
        (MinibatchW2FE, "Generator", (MLPGenerator(),)),
    ]  # fmt: skip
    for cls, kind, players in bare:
        message = rf"model\.{kind.lower()}: expected a player of kind {kind}, got MLP{kind}\. Write {kind}\(network\)"
        with pytest.raises(UserError, match=message):
            cls(*players)
    flow = type("Mine", (JSFlow,), {"potential": lambda s, y: s.critic(y).mean()})
    with pytest.raises(UserError, match=r"Mine.potential: expected one value per sample, shape \(16,\), got \(\)"):
        fit(flow(G, D), data(), max_steps=1)
    energy = type("Mine", (PCD,), {"sampling": lambda s, num, rng, weights: iter([(1.0, torch.zeros(num, 3))])})
    with pytest.raises(UserError, match=r"Mine.sampling: expected 4 samples, .* got \(4, 3\)"):
        sample(energy(Energy(MLPEnergy()), buffer_size=10), 4)
