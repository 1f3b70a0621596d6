"""ODE-GAN: the step against hand-written mathematics, its options, its refusals."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from problems import build, data, fit, solve, weights
from torch import Tensor, nn

from pt_flows.contracts import Batch, CriticNet, GeneratorNet, Terms
from pt_flows.errors import DivergenceError, UserError
from pt_flows.functional.integrators import RK4, TABLEAUS, Integrator
from pt_flows.functional.objectives import discriminator_loss, generator_loss
from pt_flows.methods import ODEGAN
from pt_flows.methods.games.ode_gan import Draw
from pt_flows.nets import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator, ResNetCritic, ResNetGenerator
from pt_flows.training.schedules import Schedule

KINDS = [pytest.param(False, id="toys"), pytest.param(True, id="images")]


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)


class Replay(ODEGAN):
    """Keep the draws of every iteration."""

    def draws(self, minibatches: Sequence[Batch]) -> Any:
        self.drawn = list(super().draws(minibatches)) if self.fresh else [next(super().draws(minibatches))]
        return iter(self.drawn * (1 if self.fresh else self.tableau.num_stages))


def smooth(seed: int = 0, **arguments: Any) -> Replay:
    """Small networks without kinks, so that orders and finite differences are clean."""
    L.seed_everything(seed, verbose=False)
    G, D = MLPGenerator(width=6, depth=1), MLPCritic(width=6, depth=1)
    G.net[1], D.net[1] = nn.Tanh(), nn.Tanh()
    return Replay(G, D, **{"step_size": 0.1, "penalty_weight": 0.0, **arguments})


def train(module: L.LightningModule, steps: int = 1, **arguments: Any) -> Any:
    fit(module, data(iterations_per_block=1), max_steps=steps, precision="64-true", **arguments)
    return module


def joint(module: ODEGAN) -> Tensor:
    return module.duel.vector()


def latents(module: ODEGAN, num: int) -> Tensor:
    return module.generator.latents(num, module.noise)


# --------------------------------------------------------------------------------------------- against hand-written


@pytest.mark.parametrize("images", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_euler_is_simultaneous_gradient_descent_bit_for_bit(images: bool, lam: float) -> None:
    """Both gradients before either update, l_D + λ ‖∇_φ l_G‖² for D: the same θ and φ after three iterations."""
    h = 0.05
    module = build("ODEGAN", images, integrator="euler", penalty_weight=lam, step_size=h)
    twin = build("ODEGAN", images)
    fit(module, data(images, iterations_per_block=1), max_steps=3, precision="64-true")
    G, D = twin.generator.network, twin.critic.network
    optimizer_D, optimizer_G = torch.optim.SGD(D.parameters(), h), torch.optim.SGD(G.parameters(), h)
    source = data(images)
    source.setup("fit")
    for iteration in range(3):
        x = source.on_after_batch_transfer(source.draw(iteration, 1), 0)[0][0]
        twin.noise.seek(iteration)
        fake = D(G(latents(twin, len(x))))
        l_D, l_G = discriminator_loss(D(x), fake), generator_loss(fake)
        g_G = torch.autograd.grad(l_G, list(G.parameters()), create_graph=True)
        penalty = sum((g.square().sum() for g in g_G), torch.zeros(()))
        loss = l_D + lam * penalty
        for parameter, g in zip(D.parameters(), torch.autograd.grad(loss, list(D.parameters())), strict=True):
            parameter.grad = g
        for parameter, g in zip(G.parameters(), g_G, strict=True):
            parameter.grad = g.detach()
        optimizer_D.step()
        optimizer_G.step()
    if lam == 0:
        assert all(
            torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True) if a.requires_grad
        )
    for network in ("generator", "critic"):
        ours, theirs = (torch.cat([p.flatten() for p in m.networks[network].parameters()]) for m in (module, twin))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TABLEAUS))
def test_order_on_a_game_of_networks(name: Integrator) -> None:
    """Error after a fixed time of the game on one minibatch, against a fine solution."""
    module = smooth(integrator=name)
    draw = Draw(torch.randn(16, 2), (), torch.randn(16, 2))
    field = lambda t, y: module.field(y, draw)
    y0, time = joint(module), 2.0
    truth = solve(field, y0, 0.0, time, 400, RK4)
    errors = [(solve(field, y0, 0.0, time, n, TABLEAUS[name]) - truth).norm().item() for n in (10, 20, 40)]
    assert torch.tensor(errors[1] / errors[2]).log2().item() == pytest.approx(TABLEAUS[name].order, abs=0.15)


@pytest.mark.parametrize("name", list(TABLEAUS))
def test_an_iteration_is_one_step_of_the_field(name: Integrator) -> None:
    module = smooth(integrator=name)
    y0 = joint(module)
    train(module)
    field = lambda t, y: module.field(y, module.drawn[0])
    expected = solve(field, y0, 0.0, module.step_size.value, 1, TABLEAUS[name])
    torch.testing.assert_close(joint(module), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("images", KINDS)
def test_regulariser_leaves_the_generator_alone_and_moves_the_discriminator_by_its_gradient(images: bool) -> None:
    """The same φ with λ = 0 and λ = 0.4; θ differs by -h λ r, with r from finite differences of ‖∇_φ l_G‖²."""
    ends, lam = {}, 0.4
    for weight in (0.0, lam):
        module = build("ODEGAN", images, penalty_weight=weight, step_size=0.05)
        for network in (module.generator.network.net, module.critic.network.net):
            for i, layer in enumerate(network):
                if isinstance(layer, nn.ReLU | nn.LeakyReLU):
                    network[i] = nn.Softplus(beta=5)
        start = joint(module)
        fit(module, data(images, iterations_per_block=1), max_steps=1, precision="64-true")
        ends[weight] = joint(module)
    n, h = module.num_theta, module.step_size.value
    assert torch.equal(ends[0.0][n:], ends[lam][n:])
    r = (ends[0.0] - ends[lam])[:n] / (h * lam)
    source = data(images)
    source.setup("fit")
    x = source.on_after_batch_transfer(source.draw(0, 1), 0)[0][0]
    module.noise.seek(0)
    draw = Draw(x, (), latents(module, len(x)))

    def penalty(theta: Tensor) -> float:
        return module.of_G(module.field(torch.cat([theta, start[n:]]), draw)).square().sum().item()

    for seed in range(3):
        direction = torch.randn(n, generator=torch.Generator().manual_seed(seed))
        direction /= direction.norm()
        eps = 1e-5
        difference = (penalty(start[:n] + eps * direction) - penalty(start[:n] - eps * direction)) / (2 * eps)
        assert (r @ direction).item() == pytest.approx(difference, rel=1e-6, abs=1e-6 * r.norm().item())


class OneNumber(GeneratorNet):
    """The Dirac-GAN's generator: G(z) = φ."""

    latent_shape = event_shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.tensor([0.3]))

    def forward(self, z: Tensor) -> Tensor:
        return self.phi.expand(len(z), 1) + 0 * z


class Slope(CriticNet):
    """The Dirac-GAN's discriminator: a(x) = θ x."""

    event_shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.8]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.theta * x).squeeze(1)


def test_regulariser_of_the_dirac_gan_in_closed_form() -> None:
    """r = 2 θ s² (1 - θφ (1 - s)) with s = σ(-θφ)."""
    module = ODEGAN(OneNumber(), Slope(), step_size=0.1, penalty_weight=1.0)
    theta, phi = torch.tensor(0.8), torch.tensor(0.3)
    _, r, _, _ = module.first_stage(joint(module), Draw(torch.zeros(4, 1), (), torch.zeros(4, 1)), "apart")
    s = torch.sigmoid(-theta * phi)
    torch.testing.assert_close(r, (2 * theta * s**2 * (1 - theta * phi * (1 - s)))[None])


# ------------------------------------------------------------------------------------------------------- the options


def test_fresh_minibatches_and_the_penalty_inside_the_first_stage() -> None:
    """Heun written out as the released CIFAR-10 code does it."""
    module = smooth(integrator="heun", penalty_weight=0.2, stage_batches="fresh", penalty_placement="first_stage")
    assert module.minibatches_per_iteration == 2
    y, h, n = joint(module), module.step_size.value, module.num_theta
    train(module)
    first, second = module.drawn
    assert not torch.equal(first.x, second.x)
    assert not torch.equal(first.z, second.z)
    k1 = module.field(y, first)
    _, r, _, _ = module.first_stage(y, first, "apart")
    k1[:n] -= 0.2 / 0.5 * r
    k2 = module.field(y + h * k1, second)
    torch.testing.assert_close(joint(module), y + h / 2 * (k1 + k2), rtol=0, atol=1e-14)


def test_both_forms_of_the_penalty_agree_to_first_order() -> None:
    differences = []
    for h in (0.02, 0.01):
        ends = [joint(train(smooth(step_size=h, penalty_weight=0.5, penalty_placement=form)))
                for form in ("after_step", "first_stage")]  # fmt: skip
        differences.append((ends[0] - ends[1]).norm().item())
    assert differences[0] / differences[1] == pytest.approx(4, rel=0.1)


def test_saturating_and_wasserstein_objectives_train() -> None:
    ends = [joint(train(smooth(objective=o))) for o in ("non_saturating", "saturating", "wasserstein")]
    assert all(bool(end.isfinite().all()) for end in ends)
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize(("name", "fields"), [("euler", 1), ("heun", 2), ("bogacki_shampine", 3), ("rk4", 4)])
def test_work_per_iteration(name: Integrator, fields: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One first stage with the only second-order work, and the other stages without; with one stage one pass less."""
    module, second_order = smooth(integrator=name, penalty_weight=0.1), []
    original = torch.autograd.grad
    monkeypatch.setattr(
        "pt_flows.methods.games.ode_gan.grad",
        lambda *a, **k: (second_order.append(bool(k.get("create_graph"))), original(*a, **k))[1],
    )
    train(module, log_every_n_steps=10)
    assert second_order.count(True) == 1
    assert len(second_order) == 2 * fields + (name != "euler")


def test_step_size_follows_its_schedule_across_a_resume(tmp_path: Any) -> None:
    """The released boundaries: h/4 up to and with iteration count 500, h up to 400,000, then h/2."""
    schedule = Schedule(0.04, boundaries=(500, 400_000), factors=(0.25, 1.0, 0.5))
    seen: dict[int, float] = {}

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            seen[pl_module.iteration] = pl_module.h
            assert [player.lr for player in pl_module.players.values()] == [pl_module.h] * 2

    for start in (500, 400_000):
        module = smooth(step_size=schedule)
        module.iteration = start
        train(module, start + 2, callbacks=[Watch()])
    assert seen == {500: 0.01, 501: 0.04, 400_000: 0.04, 400_001: 0.02}
    runner = fit(smooth(step_size=0.04), data(iterations_per_block=1), max_steps=2, precision="64-true")
    runner.save_checkpoint(tmp_path / "a.ckpt")
    fit(smooth(step_size=0.01), data(), max_steps=3, ckpt_path=tmp_path / "a.ckpt", precision="64-true",
        callbacks=[Watch()])  # fmt: skip
    assert seen[2] == 0.01  # the configuration wins over the checkpoint


def test_tied_layers_move_together() -> None:
    """A layer that is used twice, and a weight that sits in two layers, are one set of parameters in every stage."""
    module = smooth(integrator="heun")
    critic = MLPCritic(width=2, depth=3)
    critic.net[2] = critic.net[0]
    critic.net[4].weight = critic.net[0].weight
    critic.net[1] = critic.net[3] = critic.net[5] = nn.Tanh()
    tied = Replay(module.generator.network, critic, step_size=0.1, penalty_weight=0.0, integrator="heun")
    y = joint(tied)
    train(tied)
    draw = tied.drawn[0]

    def field(y: Tensor) -> Tensor:
        for parameter, piece in zip(tied.duel.parameters, tied.duel.pieces(y), strict=True):
            parameter.data.copy_(piece)
        fake, real = critic(tied.generator(draw.z)), critic(draw.x)
        g_G = torch.autograd.grad(generator_loss(fake), tied.generator.trained, retain_graph=True)
        g_D = torch.autograd.grad(discriminator_loss(real, fake), tied.critic.trained)
        return -torch.cat([g.flatten() for g in (*g_D, *g_G)])

    end = joint(tied)
    k1 = field(y)
    k2 = field(y + 0.1 * k1)
    torch.testing.assert_close(end, y + 0.05 * (k1 + k2), rtol=0, atol=1e-13)


class TestBatchNorm:
    """Stages use the batch; running statistics move once per iteration."""

    def build(self, **arguments: Any) -> ODEGAN:
        L.seed_everything(0, verbose=False)
        G = MLPGenerator(width=6, depth=2, batch_norm=True)
        return ODEGAN(G, MLPCritic(width=6, depth=1), step_size=0.1, **arguments)

    @pytest.mark.parametrize("name", list(TABLEAUS))
    def test_statistics_are_those_of_one_forward_at_the_start(self, name: Integrator) -> None:
        module, twin = self.build(integrator=name), self.build()
        train(module, log_every_n_steps=1)
        twin.noise.seek(0)
        twin.generator(latents(twin, 16))
        for (key, ours), theirs in zip(
            module.generator.network.named_buffers(), twin.generator.network.buffers(), strict=True
        ):
            assert torch.equal(ours, theirs), key
        assert int(module.generator.network.net[1].num_batches_tracked) == 1

    def test_stages_ignore_running_statistics(self) -> None:
        module, other = self.build(), self.build()
        for name, buffer in other.generator.network.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(7.0)
        assert torch.equal(joint(train(module)), joint(train(other)))


class TestClasses:
    """Labels of the data go to both networks, for data and generated samples alike."""

    def build(self, num_classes: int = 10) -> ODEGAN:
        torch.set_default_dtype(torch.float32)
        L.seed_everything(0, verbose=False)
        G = ResNetGenerator(width=4, latent_dim=8, num_classes=num_classes)
        return ODEGAN(G, ResNetCritic(width=4, num_classes=num_classes), 0.01, "heun", 0.1)

    def test_trains_every_class_vector_that_was_seen(self) -> None:
        module = self.build()
        before = {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, Tensor)}
        source = data(images=True, batch_size=4)
        fit(module, source, max_steps=1)
        seen = set(source.draw(0, 1)[1].flatten().tolist())
        for key in ("critic.network.project.weight", "generator.network.blocks.0.norm1.shift.weight"):
            moved = (module.state_dict()[key] != before[key]).any(1)
            assert {int(i) for i in moved.nonzero()} == seen, key

    def test_samples_follow_their_labels(self) -> None:
        generator = self.build().generator
        nn.init.normal_(generator.ema.network.blocks[0].norm1.shift.weight)
        rng = lambda: torch.Generator().manual_seed(1)
        x = generator.sample(3, torch.tensor([1, 2, 3]), rng())
        assert x.shape == (3, 3, 32, 32)
        assert not torch.equal(x, generator.sample(3, torch.tensor([4, 5, 6]), rng()))
        assert torch.equal(generator.sample(600, rng=rng()), generator.sample(600, rng=rng()))

    @pytest.mark.parametrize("labels", [[0, 1], [0, 1, 10], [-1, 0, 0]])
    def test_labels_that_do_not_fit_are_refused(self, labels: list[int]) -> None:
        with pytest.raises(UserError, match=r"y: expected labels of shape \(3,\) in 0 \.\.\. 9, got shape"):
            self.build().generator.sample(3, torch.tensor(labels))

    def test_data_with_other_classes_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"network: expected num_classes 10, as Shapes32 has, got 7"):
            fit(self.build(7), data(images=True), max_steps=1)

    def test_an_unconditional_model_takes_no_labels(self) -> None:
        with pytest.raises(UserError, match="y: expected no labels, as the generator is not class-conditional"):
            build("ODEGAN").generator.sample(2, torch.tensor([0, 1]))


# ------------------------------------------------------------------------------------------------- inside Lightning


def test_lightning_sees_an_optimizer(tmp_path: Any) -> None:
    """Learning-rate monitor, checkpointed optimizer, one global step per iteration."""
    logger = CSVLogger(tmp_path)
    module = smooth()
    runner = fit(module, data(iterations_per_block=1), max_steps=4, precision="64-true", logger=logger,
                 log_every_n_steps=1, callbacks=[LearningRateMonitor("step")])  # fmt: skip
    assert runner.global_step == 4
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["lr-SGD"]]
    assert rows
    assert all(float(row["lr-SGD"]) == float(row["lr-SGD-1"]) == 0.1 for row in rows)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert [group["lr"] for state in saved["optimizer_states"] for group in state["param_groups"]] == [0.1, 0.1]


def test_gradient_clipping_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="gradient clipping is not supported for manual"):
        train(smooth(), gradient_clip_val=1.0)


def test_bfloat16_computes_field_and_penalty_in_float32() -> None:
    torch.set_default_dtype(torch.float32)
    ends = []
    for precision in ("bf16-mixed", "32-true"):
        module = build("ODEGAN")
        fit(module, data(), max_steps=3, precision=precision)
        ends.append(weights(module))
    assert torch.equal(*ends)


def test_diagnostics_come_at_log_points_only() -> None:
    logged: list[Terms] = []

    class Watched(Replay):
        def iterate(self, minibatches: Sequence[Batch]) -> Terms:
            logged.append(super().iterate(minibatches))
            return logged[-1]

    L.seed_everything(0, verbose=False)
    module = Watched(MLPGenerator(width=6), MLPCritic(width=6), step_size=0.1, penalty_weight=0.1)
    train(module, 6, log_every_n_steps=3)
    extra = [set(terms) - set(logged[0]) for terms in logged]
    names = {"field_D", "field_G", "penalty", "penalty_gradient", "local_error", "rotation"}
    assert extra == [set(), set(), names, set(), set(), names]
    assert module.trainer.callback_metrics["train/field_D"] > 0
    assert not any(key.startswith("train/_") for key in module.trainer.callback_metrics)


def test_diagnostics_mean_what_they_say() -> None:
    """Local error of RK4 against Heun falls as h³, the rotation angle in proportion to h."""
    errors, angles = [], []
    for h in (0.1, 0.05):
        module = smooth(step_size=h, penalty_weight=0.1)
        train(module, log_every_n_steps=1)
        seen = module.trainer.callback_metrics
        errors.append(seen["train/local_error"].item())
        angles.append(torch.arccos(seen["train/rotation"]).item())
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.15)
    assert angles[0] / angles[1] == pytest.approx(2, rel=0.1)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"integrator": "rk5"}, "integrator: expected one of euler, heun, rk4, bogacki_shampine, got 'rk5'"),
        ({"objective": "hinge"}, "objective: expected one of non_saturating, saturating, wasserstein, got 'hinge'"),
        ({"stage_batches": "Fresh"}, "stage_batches: expected one of shared, fresh, got 'Fresh'"),
        ({"penalty_placement": "last"}, "penalty_placement: expected one of after_step, first_stage"),
        ({"step_size": 0.0}, "step_size: expected a number above 0, got 0.0"),
        ({"step_size": -0.1}, "step_size: expected a number above 0, got -0.1"),
        ({"step_size": float("nan")}, "step_size: expected a number above 0, got nan"),
        ({"penalty_weight": -1.0}, "penalty_weight: expected at least 0, got -1.0"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"Replay\.{message}"):
        smooth(**arguments)


class Dropping(MLPCritic):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


class TwoLogits(MLPCritic):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super().forward(x)] * 2, 1)


def with_dropout() -> MLPCritic:
    critic = MLPCritic(width=6)
    critic.net.insert(2, nn.Dropout(0.2))
    return critic


def with_old_spectral_norm() -> MLPCritic:
    critic = MLPCritic(width=6)
    nn.utils.spectral_norm(critic.net[0])
    return critic


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_dropout, r"model.critic: expected no random layer, got Dropout at net.2"),
        (with_old_spectral_norm, r"model.critic: expected no spectral norm, got one at net.0"),
        (lambda: Dropping(width=6), "model.critic: expected the same values for the same input in training mode"),
        (lambda: TwoLogits(width=6), r"TwoLogits: expected one value per sample, shape \(4,\), got \(4, 2\)"),
    ],
)
def test_discriminators_that_are_not_one_function_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(ODEGAN(MLPGenerator(width=6), make(), step_size=0.1))


def test_spectral_norm_of_the_resnet_is_refused() -> None:
    critic = ResNetCritic(width=4, spectral_norm=True)
    with pytest.raises(UserError, match=r"spectral norm, got one at blocks.0.conv1. Set spectral_norm to false"):
        fit(ODEGAN(DCGANGenerator(width=4), critic, step_size=0.1), data(images=True), max_steps=1)


def test_activation_checkpointing_is_refused() -> None:
    """It would compute a stage's blocks again with the weights before the step."""
    generator = ResNetGenerator(width=4, activation_checkpointing=True)
    with pytest.raises(UserError, match=r"model.generator: expected no activation_checkpointing, got true"):
        fit(ODEGAN(generator, DCGANCritic(width=4), step_size=0.1), data(images=True), max_steps=1)


def test_pure_bfloat16_and_float16_are_refused() -> None:
    torch.set_default_dtype(torch.float32)
    for precision, message in (("bf16-true", "lose small steps"), ("16-true", "penalties overflow it")):
        with pytest.raises(UserError, match=message):
            fit(build("ODEGAN"), data(), max_steps=1, precision=precision)


class Bursting(MLPCritic):
    """A critic that returns a value that is not finite at its N-th call."""

    calls, limit = 0, 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        value = super().forward(x)
        return value * torch.inf if self.calls == self.limit else value


@pytest.mark.parametrize(("call", "stage", "iteration"), [(1, 1, 1), (5, 3, 1), (8, 4, 1), (8 * 2 + 3, 2, 3)])
def test_a_field_that_is_not_finite_is_named_and_the_last_good_state_stays(
    call: int, stage: int, iteration: int
) -> None:
    """Two evaluations of D per stage; the third iteration breaks, the state is that after the second."""
    module = ODEGAN(MLPGenerator(width=6, batch_norm=True), Bursting(width=6), step_size=0.1, penalty_weight=0.1)
    twin = ODEGAN(MLPGenerator(width=6, batch_norm=True), MLPCritic(width=6), step_size=0.1, penalty_weight=0.1)
    twin.load_state_dict(module.state_dict())

    class Arm(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            pl_module.critic.network.calls, pl_module.critic.network.limit = 0, call

    with pytest.raises(
        DivergenceError, match=rf"field of the discriminator in stage {stage} is .* at iteration {iteration}\."
    ):
        train(module, 10, callbacks=[Arm()], log_every_n_steps=10)
    if iteration > 1:
        train(twin, iteration - 1)
    for network in ("generator", "critic"):
        ours, theirs = (m.networks[network].state_dict() for m in (module, twin))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_images_of_the_dcgan_pair_train_in_every_form() -> None:
    torch.set_default_dtype(torch.float32)
    for stage_batches in ("shared", "fresh"):
        module = ODEGAN(DCGANGenerator(width=4), DCGANCritic(width=4), 0.01, "heun", 0.1, stage_batches=stage_batches)  # type: ignore[arg-type]
        fit(module, data(images=True), max_steps=2, log_every_n_steps=1)
        assert bool(weights(module).isfinite().all())
