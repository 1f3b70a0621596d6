"""The contract of a method, over every method, and each paper's identities."""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from problems import METHODS, ROOT, Adam, build, data, fit, weights
from torch import nn

from pt_flows.contracts import Batch, CriticNet, GeneratorNet
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.load import load_method
from pt_flows.functional.potentials import Reduction, euler_target, regression_loss, velocity
from pt_flows.loop.base import AlternatingModule, GenerativeModule, Terms
from pt_flows.methods import PCD, W1FE, W2FE, WGANGP, JSFlow, MinibatchW2FE
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPEnergy, MLPGenerator, ResidualMLPGenerator

KINDS = [pytest.param(False, id="toys"), pytest.param(True, id="images")]


@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("name", METHODS)
class TestContract:
    """What every method promises."""

    def test_trains_counts_and_samples(self, name: str, images: bool) -> None:
        module = build(name, images)
        before = {k: v.clone() for k, v in module.named_parameters()}
        ends = [[k for k in before if k.startswith(net)][-1:] for net in ("critic.", "energy.")]
        loose = {k for end in ends for k in end}  # no Wasserstein or contrastive loss depends on a constant
        loose |= {k.replace("energy.", "ema.network.") for k in loose}
        runner = fit(module, data(images), max_steps=3)
        assert runner.global_step == module.iteration == 3
        for key, value in module.named_parameters():
            assert bool(value.isfinite().all())
            if key not in loose:
                assert not torch.equal(value, before[key]), f"{key} did not move"
        x = module.sample(7, rng=torch.Generator().manual_seed(1))
        assert x.shape == (7, *module.event_shape)
        assert torch.equal(x, module.sample(7, rng=torch.Generator().manual_seed(1)))
        assert not torch.equal(x, module.sample(7, rng=torch.Generator().manual_seed(1), weights="raw"))
        assert module.averaged_network.training

    def test_same_seed_same_weights(self, name: str, images: bool) -> None:
        results = []
        for seed in (0, 0, 1):
            module = build(name, images, seed)
            fit(module, data(images), max_steps=2)
            results.append(weights(module))
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    def test_checkpoint_round_trip(self, name: str, images: bool, tmp_path: Path) -> None:
        module = build(name, images)
        fit(module, data(images), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
        saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
        again = build(name, images, seed=5)
        again.load_state_dict(saved["state_dict"])
        assert again.iteration == 2
        assert torch.equal(weights(again), weights(module))

    def test_resume_equals_going_on(self, name: str, images: bool, tmp_path: Path) -> None:
        whole = build(name, images)
        fit(whole, data(images, iterations_per_block=2), max_steps=6)
        half = build(name, images)

        class StopAtFour(L.Callback):
            def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
                if pl_module.iteration == 4:
                    trainer.save_checkpoint(tmp_path / "half.ckpt")
                    trainer.should_stop = True

        fit(half, data(images, iterations_per_block=2), max_steps=6, callbacks=[StopAtFour()])
        assert half.iteration == 4
        resumed = build(name, images, seed=3)
        L.seed_everything(0, verbose=False)
        fit(resumed, data(images, iterations_per_block=2), max_steps=6, ckpt_path=tmp_path / "half.ckpt")
        assert torch.equal(weights(resumed), weights(whole))

    def test_two_ranks_equal_one(self, name: str, images: bool, tmp_path: Path) -> None:
        torch.set_default_dtype(torch.float64)
        one = build(name, images)
        fit(one, data(images), max_steps=3, precision="64-true")
        two = build(name, images)
        fit(
            two,
            data(images),
            max_steps=3,
            precision="64-true",
            strategy="ddp_fork",
            devices=2,
            callbacks=[SameWeights()],
        )
        assert two.iteration == 3
        torch.testing.assert_close(weights(two), weights(one), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_learning_rates_come_from_the_configuration(name: str, tmp_path: Path) -> None:
    """A run continued with other rates uses them, and schedules go on from the iteration."""
    fit(build(name), data(iterations_per_block=1), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    last = {"ODEGAN": "step_size", "MinibatchW2FE": "generator_optimizer"}.get(name.split("-")[0], "critic_optimizer")
    last = "optimizer" if "optimizer" in METHODS[name] else last
    faster = {last: 0.5 if last == "step_size" else partial(Adam, lr=0.5)}
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            seen.append(trainer.optimizers[-1].param_groups[0]["lr"])

    module = build(name, **faster)
    fit(module, data(iterations_per_block=1), max_steps=4, ckpt_path=tmp_path / "a.ckpt", callbacks=[Watch()])
    schedule = module.schedulers[-1].lr_lambdas[0]
    assert seen == [0.5 * schedule(2), 0.5 * schedule(3)]


class Halving(WGANGP):
    """With schedules of another kind."""

    def configure_optimizers(self) -> Any:
        optimizers, _ = super().configure_optimizers()
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 2) for optimizer in optimizers]


def test_other_schedules_go_on_from_their_saved_state(tmp_path: Path) -> None:
    make = lambda: Halving(MLPGenerator(width=8), MLPCritic(width=8), Adam, Adam, num_critic_steps=1)
    fit(make(), data(iterations_per_block=1), max_steps=3).save_checkpoint(tmp_path / "a.ckpt")
    resumed = make()
    fit(resumed, data(iterations_per_block=1), max_steps=5, ckpt_path=tmp_path / "a.ckpt")
    assert resumed.schedulers[0].get_last_lr() == [pytest.approx(1e-5)]


def test_a_loaded_module_goes_on_counting() -> None:
    """Without ckpt_path too: fit stops at max_steps iterations and does not wait for more."""
    first, again = build("WGANGP"), build("WGANGP")
    fit(first, data(iterations_per_block=1), max_steps=3)
    again.load_state_dict(first.state_dict())
    runner = fit(again, data(iterations_per_block=1), max_steps=5)
    assert again.iteration == runner.global_step == 5


class SameWeights(L.Callback):
    """All ranks hold the same weights after every block."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        mine = weights(pl_module)
        first = mine.clone()
        dist.broadcast(first, 0)
        assert torch.equal(mine, first)


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
        module = cls(MLPGenerator(width=16), MLPCritic(width=16), tiny_eps, tiny_eps, num_critic_steps=2, **arguments)
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


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_critic_steps": 0}, "num_critic_steps must be at least 1"),
        ({"persistence": 0}, "persistence must be at least 1"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"step_size": float("nan")}, "step_size must be positive"),
        ({"penalty_weight": -1.0}, "penalty_weight must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
    ],
)
def test_bad_numbers_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("W1FE", **overrides)


@pytest.mark.parametrize("name", ["W1FE", "WGANGP"])
def test_an_unknown_penalty_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.penalty must be one of one_sided, two_sided, got 'three'"):
        build(name, penalty="three")


def test_networks_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"generator makes samples of shape \(2,\).*critic takes\s+\(3, 32, 32\)"):
        WGANGP(MLPGenerator(), DCGANCritic(width=4), Adam, Adam)


def test_networks_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(UserError, match="model and data do not fit"):
        fit(build("WGANGP"), data(images=True), max_steps=1)


def test_data_that_are_not_blocks_are_refused() -> None:
    module = build("WGANGP")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 2), torch.zeros(8)), batch_size=4
    )
    runner = L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    with pytest.raises(UserError, match=r"x of shape \(4, 2\), a method takes blocks"):
        runner.fit(module, loader)


def test_half_precision_is_refused() -> None:
    module = build("WGANGP")
    runner = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer = runner
    runner.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(UserError, match="16-mixed is not supported"):
        module.setup("fit")


@pytest.mark.parametrize("name", ["W1FE", "W2FE", "MinibatchW2FE-entropic"])
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
    monkeypatch.setattr("pt_flows.loop.base.SingleDeviceStrategy", DDPStrategy)
    with pytest.raises(UserError, match=r"trainer.strategy: Sharded is not supported: .*use ddp"):
        fit(module, data(), max_steps=1, strategy=Sharded("cpu"))


@pytest.mark.parametrize("name", ["W1FE", "ODEGAN"])
def test_synchronised_batch_norm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on GPUs, and only where batch norm is differentiated once."""
    module = build(name)
    module.generator = DCGANGenerator(width=4)
    runner = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", sync_batchnorm=True, logger=False)
    module.trainer = runner
    monkeypatch.setattr(type(runner.strategy), "root_device", torch.device("cpu"))
    with pytest.raises(UserError, match="sync_batchnorm works on GPUs only"):
        module._check_synchronised_norms()
    assert getattr(runner.strategy, "_layer_sync", None) is not None
    monkeypatch.setattr(type(runner.strategy), "root_device", torch.device("cuda", 0))
    if name == "W1FE":
        module._check_synchronised_norms()
        return
    with pytest.raises(UserError, match="ODEGAN differentiates generator twice"):
        module._check_synchronised_norms()


@pytest.mark.parametrize("name", ["W1FE", "ODEGAN", "DAEBM"])
@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)], ids=["1 to 2", "2 to 1"])
def test_a_run_goes_on_with_another_number_of_processes(name: str, ranks: tuple[int, int], tmp_path: Path) -> None:
    """To rounding: the global batch, its noise and the chains stay what they were."""
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


def test_two_ranks_refuse_a_batch_that_does_not_divide() -> None:
    datamodule = data(batch_size=15)
    with pytest.raises(Exception, match=r"batch_size \(15\) is the global batch and must divide"):
        fit(build("WGANGP"), datamodule, max_steps=1, strategy="ddp_fork", devices=2)


def test_two_ranks_refuse_different_configurations() -> None:
    class Differ(L.Callback):
        def setup(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            if trainer.global_rank == 1:
                trainer.datamodule.batch_size = 32  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(Exception, match=r"process 1 was started with another .*: batch_size is 32 there and \d+ here"):
        fit(build("WGANGP"), data(), max_steps=1, strategy="ddp_fork", devices=2, callbacks=[Differ()])


def test_decay_without_an_end_is_refused() -> None:
    with pytest.raises(UserError, match="lr_decay: cosine needs an end"):
        fit(build("WGANGP", lr_decay="cosine"), data(), max_steps=-1)


class Breaks(AlternatingModule):
    """A method whose loss is not a number from iteration 3 on."""

    def critic_loss(self, x: torch.Tensor, y: torch.Tensor) -> Terms:
        return {"loss_D": self.critic(x).mean()}

    def iterate(self, minibatches: list[Batch]) -> Terms:  # type: ignore[override]
        bad = torch.tensor(float("nan") if self.iteration >= 2 else 0.0)
        return {"fine": torch.zeros(()), "energy": bad}


def test_divergence_names_term_and_iteration() -> None:
    module = Breaks(MLPGenerator(), MLPCritic(), Adam, Adam)
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
    assert any("flush_terms" in read for read in blocks[1])  # the watch works: a log point does read


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
    optimizers: dict[str, Any] = {}
    exec(WORDS[2].split("```")[0], optimizers)
    assert optimizers["module"].generator_optimizer is optimizers["fast"]


def test_a_network_in_evaluation_mode_is_still_named() -> None:
    module = build("WGANGP")
    module.generator.eval()
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
    return module.sample(5, rng=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [name for name in METHODS if "-" not in name])
def test_a_module_built_in_python_loads_from_its_checkpoint_alone(name: str, tmp_path: Path) -> None:
    module = build(name)
    fit(module, data(), max_steps=2).save_checkpoint(tmp_path / "a.ckpt")
    for again in (type(module).load_from_checkpoint("a.ckpt"), GenerativeModule.load_from_checkpoint("a.ckpt")):
        assert type(again) is type(module)
        assert again.iteration == 2
        assert torch.equal(drawn(again), drawn(module))
    fit(again, data(), max_steps=3).save_checkpoint(tmp_path / "b.ckpt")
    saved = [torch.load(tmp_path / f"{x}.ckpt", weights_only=True)["hyper_parameters"] for x in "ab"]
    assert {key: saved[1][key] for key in saved[0]}.keys() == saved[0].keys()  # loaded and saved: still described
    assert torch.equal(drawn(load_method(tmp_path / "b.ckpt")), drawn(again))


def test_own_networks_load_where_they_can_be_described(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    module = W1FE(WrappingGenerator(layer), PlainCritic(8), lambda p: torch.optim.SGD(p, 0.1), torch.optim.Adam)
    fit(module, data(), max_steps=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        UserError, match=r"a.ckpt does not describe all that W1FE is built from \(.*: generator\); give it"
    ):
        W1FE.load_from_checkpoint("a.ckpt")
    with pytest.raises(UserError, match=r"built from in Python \(generator, generator_optimizer\): load it there"):
        load_method(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a.ckpt holds pt_flows.W1FE, which is not a W2FE"):
        W2FE.load_from_checkpoint("a.ckpt")
    with pytest.raises(UserError, match=r"a.ckpt holds pt_flows.W1FE, which is not a MinibatchW2FE"):
        MinibatchW2FE.load_from_checkpoint("a.ckpt", generator=MLPGenerator())
    with pytest.warns(UserWarning, match="does not describe its generator_optimizer: the defaults are used"):
        again = W1FE.load_from_checkpoint("a.ckpt", generator=WrappingGenerator(nn.Linear(2, 2)))
    assert type(again.critic) is PlainCritic
    assert torch.equal(drawn(again), drawn(module))


# ------------------------------------------------------------------------------ what a subclass must give, in sentences


def broken(**methods: Any) -> Any:
    """A method like a user's, with one thing wrong."""
    return type("Mine", (WGANGP,), methods)(MLPGenerator(width=8), MLPCritic(width=8), num_critic_steps=1)


def idle_network(num: int = 2) -> Any:
    critic = MLPCritic(width=8)
    critic.idle = nn.Linear(1, 1)
    return critic


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"critic_loss": lambda s, x, y: {"loss": s.critic(x).mean()}}, r"critic_loss .* under 'loss_D', got \['loss'\]"),
    ({"critic_loss": lambda s, x, y: s.critic(x).mean()}, r"critic_loss .* under 'loss_D', got Tensor"),
    ({"critic_loss": lambda s, x, y: {"loss_D": 1.0}}, "a loss must be a scalar tensor, got float"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x)}}, r"a loss must be a scalar, got shape \(16,\)"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x).mean().detach()}}, "does not depend on any parameter"),
    ({"critic_loss": lambda s, x, y: {"loss_D": s.critic(x).mean(), "b": 0.5}}, "critic_loss: b must be a tensor"),
    ({"critic": idle_network()}, "loss does not depend on critic.idle.weight, critic.idle.bias"),
    ({"iterate": lambda s, m: None}, "Mine.iterate must return a dict of scalar tensors, .* got NoneType"),
    ({"iterate": lambda s, m: {"a": 1.0}}, "Mine.iterate: a must be a tensor, got float"),
    ({"iterate": lambda s, m: {"a": torch.zeros(1)}}, r"a must be a scalar, got shape \(1,\)"),
    ({"iterate": lambda s, m: {"a": s.critic(m[0][0]).mean()}}, r"return a.detach\(\)"),
    ({"minibatches_per_iteration": 0}, "Mine.minibatches_per_iteration must be at least 1, got 0"),
    ({"configure_optimizers": lambda s: torch.optim.Adam(s.parameters())}, "must return two optimizers, .* got 1"),
    ({"sample": lambda s, num, **k: torch.zeros(num, 3)}, r"must give 2 samples .* shape \(2, 2\), got \(2, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("methods", "message"), BROKEN)
def test_each_requirement_on_a_method_has_a_sentence(methods: dict[str, Any], message: str) -> None:
    methods = dict(methods)
    critic = methods.pop("critic", None)
    module = broken(**methods)
    if critic is not None:
        module.critic = critic
    with pytest.raises(UserError, match=message):
        fit(module, data(), max_steps=1)


def test_each_requirement_on_parts_has_a_sentence() -> None:
    G, D = MLPGenerator(), MLPCritic()
    with pytest.raises(UserError, match=r"model.generator: Sequential does not say its latent_shape, event_shape"):
        W1FE(nn.Sequential(nn.Linear(2, 2)), D)
    with pytest.raises(UserError, match=r"model.critic: expected a network, a CriticNet, got the class MLPCritic"):
        W1FE(G, MLPCritic)
    with pytest.raises(UserError, match=r"model.energy: Linear does not say its event_shape, takes_labels"):
        PCD(nn.Linear(2, 1))
    with pytest.raises(
        UserError, match=r"generator_optimizer: expected a function .* got an object of type Adam; give"
    ):
        W1FE(G, D, torch.optim.Adam(G.parameters()))
    flow = type("Mine", (JSFlow,), {"potential": lambda s, y: s.critic(y).mean()})
    with pytest.raises(
        UserError, match=r"Mine.potential must give one value per sample, got shape \(\) for 16 samples"
    ):
        fit(flow(G, D), data(), max_steps=1)
    energy = type("Mine", (PCD,), {"sampling": lambda s, num, rng, weights: iter([(1.0, torch.zeros(num, 3))])})
    with pytest.raises(UserError, match=r"Mine.sampling must give 4 samples .* got \(4, 3\)"):
        energy(MLPEnergy(), buffer_size=10).sample(4)


class Forgetful(GenerativeModule):
    """Without the average of its network."""

    averaged_network, event_shape = nn.Identity(), (2,)
    iterate = sample = configure_optimizers = lambda self, *args, **kwargs: None


def test_a_method_without_an_average_is_told_so() -> None:
    with pytest.raises(UserError, match=r"Forgetful has no ema, .* write self.ema = EMA\(network"):
        fit(Forgetful(), data(), max_steps=1)
