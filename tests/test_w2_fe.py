"""Flows of the Wasserstein-2 loss and their kin: identities, refusals, maps between domains."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from problems import Adam, build, data, fit, weights, write_digits
from torch import Tensor

from pt_flows.callbacks import FlowPicture
from pt_flows.contracts import Batch, CriticNet, Terms
from pt_flows.data import Digits, Shapes32, Toy2D, TwoDomains
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.functional.objectives import generator_loss
from pt_flows.functional.potentials import euler_target, regression_loss, velocity
from pt_flows.functional.transport import assignment, exact_wasserstein
from pt_flows.methods import W2FE
from pt_flows.metrics import MapTransport, TransferAccuracy
from pt_flows.metrics.transfer import nearest_labels
from pt_flows.nets import ConvTransportMap, DCGANCritic, MLPCritic, MLPGenerator, ResidualMLPGenerator
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Schedule
from pt_flows.training.steps import fit_critic, regress

# --------------------------------------------------------------------------------------------- persistence one is a GAN


class W2GAN(W2FE):
    """Leygonie et al. 2019: the generator descends the mean of ψ."""

    def iterate(self, minibatches: list[Batch]) -> Terms:  # type: ignore[override]
        terms = fit_critic(self.critic, self.critic_loss, minibatches, self.particles)
        z = self.generator.latents(len(minibatches[0][0]), self.noise)
        self.generator.step(self.psi(self.generator(z)).mean())
        return terms


def w2(cls: type[W2FE] = W2FE, fast: Any = Adam, slow: Any = Adam, steps: int = 2, **arguments: Any) -> W2FE:
    """A small W2-FE whose generator has the fast optimizer and whose potentials have the slow one."""
    L.seed_everything(0, verbose=False)
    G, phi, e = MLPGenerator(width=16), MLPCritic(width=16), MLPCritic(width=16)
    settings = {"inequality_weight": 10.0, "equality_weight": 1.0, "reduction": "sum"}
    return cls(Generator(G, fast), Critic(phi, slow, steps=steps), e, **{**settings, **arguments})


def test_first_gradient_is_that_of_w2_gan() -> None:
    """∇ (1/m) Σ ‖G - ζ‖² = 2ε ∇ (1/m) Σ ψ(G(z_i)) (statement T6), to 1e-12."""
    torch.set_default_dtype(torch.float64)
    module, z, h = w2(), torch.randn(9, 2), 0.37
    parameters = list(module.generator.network.parameters())
    y = module.generator(z)
    ours = torch.autograd.grad(regression_loss(y, euler_target(y, velocity(module.potential, y), h)), parameters)
    theirs = torch.autograd.grad(module.psi(module.generator(z)).mean(), parameters)
    assert all((a - 2 * h * b).abs().max() < 1e-12 for a, b in zip(ours, theirs, strict=True))


def test_whole_runs_of_persistence_one_are_w2_gan() -> None:
    """With SGD whose rate includes the factor 2ε, weights agree to 1e-12.

    (Adam would blow up the rounding in the one gradient that is zero, that of φ's constant.)
    """
    torch.set_default_dtype(torch.float64)
    h, lr, found = 0.25, 1e-2, []
    slow = partial(torch.optim.SGD, lr=1e-3)
    for cls, rate in ((W2FE, lr / (2 * h)), (W2GAN, lr)):
        fast = partial(torch.optim.SGD, lr=rate)
        module = w2(cls, fast, slow, persistence=1, step_size=h)
        fit(module, data(), max_steps=10, precision="64-true")
        found.append(weights(module))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_js_flow_of_persistence_one_is_the_minimax_gan() -> None:
    torch.set_default_dtype(torch.float64)
    module: Any = build("JSFlow")
    parameters, z, h = list(module.generator.network.parameters()), torch.randn(9, 2), 0.37
    y = module.generator(z)
    ours = torch.autograd.grad(regression_loss(y, euler_target(y, velocity(module.potential, y), h)), parameters)
    logits = module.critic(module.generator(z))
    theirs = torch.autograd.grad(generator_loss(logits, "saturating"), parameters)
    assert all((a - h * b).abs().max() < 1e-12 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("side", ["fake", "real", "mean"])
def test_sides(side: str) -> None:
    module, y = w2(potential_side=side), torch.randn(5, 2)
    fake, real = velocity(lambda u: -module.psi(u), y), velocity(module.critic, y)
    expected = {"fake": fake, "real": real, "mean": (fake + real) / 2}[side]
    torch.testing.assert_close(velocity(module.potential, y), expected, rtol=0, atol=1e-6)


def test_rematching_pairs_without_crossing() -> None:
    """Targets are shuffled among the particles that they equal; once they are rematched, no distance remains."""
    module: Any = build("MinibatchW2FE")
    losses = []

    class Probe(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            generator, z = pl_module.generator, torch.randn(32, 2)
            generator.bound.param_groups[0]["lr"] = 0.0
            zeta = generator(z).detach().flip(0)
            for rematch in (False, True):
                terms = regress(generator, z, generator(z), zeta, 2, rematch=rematch)
                losses.append(float(terms["loss_G"]))

    fit(module, data(iterations_per_block=1), max_steps=1, callbacks=[Probe()])
    assert losses[0] > 1e-3
    assert losses[1] < 1e-10


def test_persistence_falls_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = w2(persistence=Schedule(10, "linear"))
    seen, step = [], module.generator.step
    monkeypatch.setattr(module.generator, "step", lambda loss: (seen.append(module.iteration), step(loss)))
    fit(module, data(iterations_per_block=1), max_steps=12)
    assert [seen.count(t) for t in range(12)] == [10, 9, 8, 8, 7, 6, 5, 4, 3, 2, 2, 1]


# ------------------------------------------------------------------------------------------------------------- refusals


class TwoValues(CriticNet):
    """A potential that returns two values per sample."""

    event_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, r"W2FE\.step_size: expected a number above 0, got 0\.0"),
        ({"persistence": 0}, r"W2FE\.persistence: expected at least 1, got 0"),
        ({"inequality_weight": -1.0}, r"W2FE\.inequality_weight: expected at least 0, got -1\.0"),
        ({"potential_side": "left"}, r"W2FE\.potential_side: expected one of fake, real, mean, got 'left'"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        w2(**arguments)


def test_steps_beyond_the_data_are_warned_of() -> None:
    for make in (w2, partial(build, "MinibatchW2FE")):
        with pytest.warns(
            UserWarning, match=r"model.step_size: expected at most 1, .* got 1\.5\. Particles overshoot the"
        ):
            make(step_size=1.5)


def test_networks_of_another_shape_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"model.excess: expected samples of shape \(2,\), as model.generator has, got \(3, 32, 32"
    ):
        W2FE(Generator(MLPGenerator()), Critic(MLPCritic()), DCGANCritic(width=4))


@pytest.mark.parametrize("method", ["W1FE", "WGANGP", "JSFlow"])
def test_potentials_with_several_values_are_refused(method: str) -> None:
    cls: Any = type(build(method))
    module = cls(Generator(MLPGenerator()), Critic(TwoValues()))
    with pytest.raises(UserError, match=r"TwoValues: expected one value per sample, shape \(16,\), got \(16, 2\)"):
        fit(module, data(), max_steps=1)


def test_an_excess_with_several_values_is_refused() -> None:
    module = W2FE(Generator(MLPGenerator()), Critic(MLPCritic()), TwoValues())
    with pytest.raises(UserError, match=r"TwoValues: expected one value per sample, shape \(16,\), got \(16, 2\)"):
        fit(module, data(), max_steps=1)


@pytest.mark.slow
def test_a_dual_that_is_far_off_is_warned_of() -> None:
    """A penalty far too weak lets the dual run away; a sound one does not warn."""
    with pytest.warns(UserWarning, match=r"stays far from ½ W2².*model.inequality_weight \(0.01\)"):
        fit(w2(inequality_weight=0.01, equality_weight=0.0), data(), max_steps=150, log_every_n_steps=10)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*stays far from")
        module = w2(inequality_weight=200.0, equality_weight=0.0, steps=5)
        fit(module, data(batch_size=128), max_steps=150, log_every_n_steps=10)


# --------------------------------------------------------------------------------------------------------- two domains


def test_a_map_starts_from_the_source() -> None:
    """Generator inputs are source samples, in training and in sampling, the same for one process and a resumed run."""
    domains = TwoDomains(Toy2D("moons"), Toy2D("ring8", batch_size=16))
    module: Any = build("W1FE")
    generator = module.generator
    generator.replace_network(ResidualMLPGenerator(init_std=0.0, batch_norm=False))  # the identity
    generator.start_from(domains.source)
    x = generator.sample(400, rng=torch.Generator().manual_seed(0), weights="raw")
    assert exact_wasserstein(x, Toy2D("moons").reference("test", 400), p=2) < 0.25
    module.noise.seek(3)
    assert exact_wasserstein(generator.latents(400, module.noise), Toy2D("moons").reference("test", 400), p=2) < 0.25


@pytest.mark.parametrize("name", ["W2FE", "MinibatchW2FE"])
def test_maps_train_resume_and_sample(name: str, tmp_path: Path) -> None:
    def run(steps: int, **arguments: Any) -> Any:
        module = build(name)
        fit(module, TwoDomains(Toy2D("moons"), Toy2D("ring8", batch_size=16)), max_steps=steps, **arguments)
        return module

    whole = run(4)
    half = build(name)
    trainer = fit(half, TwoDomains(Toy2D("moons"), Toy2D("ring8", batch_size=16, iterations_per_block=1)), max_steps=4,
                  limit_train_batches=2, max_epochs=1)  # fmt: skip
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = build(name)
    fit(
        resumed,
        TwoDomains(Toy2D("moons"), Toy2D("ring8", batch_size=16)),
        max_steps=4,
        ckpt_path=tmp_path / "half.ckpt",
    )
    assert torch.equal(weights(resumed), weights(whole))
    again = build(name)
    again.load_state_dict(whole.state_dict())
    with pytest.raises(UserError, match=r"generator\.source: expected the data set .* trained to move, got none"):
        again.generator.sample(5)
    assert again.generator.push(torch.zeros(5, 2)).shape == (5, 2)


def test_a_source_of_another_shape_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"data\.source: expected samples of shape \(2,\), .*model.generator, got \(3, 32, 32\)"
    ):
        fit(build("W1FE"), TwoDomains(Shapes32(), Toy2D(batch_size=16)), max_steps=1)


def test_domains_with_other_classes_are_refused() -> None:
    class Five(Shapes32):
        num_classes = 5

    with pytest.raises(UserError, match=r"data.source: expected 5 classes like data.target, got 10"):
        TwoDomains(Shapes32(), Five())


def test_nearest_labels_against_brute_force() -> None:
    points, queries = torch.randn(50, 3, 2), torch.randn(2100, 3, 2)
    labels = torch.randint(10, (50,))
    distances = (queries[:, None] - points).flatten(2).square().sum(2)
    assert torch.equal(nearest_labels(queries, points, labels), labels[distances.argmin(1)])


@pytest.mark.slow
def test_transfer_accuracy_of_known_maps() -> None:
    """The identity between equal domains is nearly always right; a map that mixes labels up is not."""
    domains = TwoDomains(Shapes32(style="sketch"), Shapes32(style="sketch", batch_size=8))
    metric = TransferAccuracy()
    metric.prepare(domains, 10)
    metric.update_map(lambda x: x)
    metric.update(torch.zeros(1))
    values = metric.compute()
    assert values["transfer_accuracy_1nn"] == pytest.approx(values["transfer_accuracy_1nn_source"])
    assert values["transfer_accuracy_1nn"] > 0.3
    metric.reset()
    metric.update_map(lambda x: x.roll(1, 0))
    metric.update(torch.zeros(1))
    assert metric.compute()["transfer_accuracy_1nn"] < 0.2
    with pytest.raises(UserError, match="expected TwoDomains with labelled"):
        TransferAccuracy().prepare(Toy2D(), 10)


def test_digits_of_both_kinds_train_a_map(tmp_path: Path) -> None:
    write_digits(tmp_path)
    mnist, usps = Digits("mnist", str(tmp_path), batch_size=8), Digits("usps", str(tmp_path), batch_size=8)
    for digits, num in ((mnist, (40, 20)), (usps, (30, 12))):
        for split, n in zip(("train", "test"), num, strict=True):
            images, labels = digits.load(split)  # pyright: ignore[reportArgumentType]
            assert images.shape == (n, 1, 16, 16)
            assert images.dtype == torch.uint8
            assert labels[:3].tolist() == [0, 1, 2]
    G = ResidualMLPGenerator((1, 16, 16), width=16, bound=2.0)
    phi, e = (MLPCritic((1, 16, 16), 16) for _ in range(2))
    module = W2FE(Generator(G), Critic(phi, steps=1), e)
    fit(module, TwoDomains(mnist, usps), max_steps=2)
    assert module.generator.sample(3).shape == (3, 1, 16, 16)


def test_digits_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"usps: cannot be read from .*Put usps.bz2 and usps.t.bz2 there"):
        Digits("usps", str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"mnist: cannot be read from .*Put MNIST/raw with its four files there"):
        Digits("mnist", str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"Digits.name: expected one of mnist, usps, got 'svhn'"):
        Digits("svhn")  # pyright: ignore[reportArgumentType]


def test_the_image_map_starts_as_the_identity() -> None:
    net = ConvTransportMap(image_size=16, width=4)
    z = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(z), z)
    assert Generator(net).sample(2).std() == pytest.approx(1.0, abs=0.1)


# --------------------------------------------------------------------------------------------------------------- flow


@pytest.mark.slow
def test_the_flow_picture_follows_a_resumed_run(tmp_path: Path) -> None:
    def run(steps: int, ckpt_path: Path | None = None) -> FlowPicture:
        picture = FlowPicture(every_n_iterations=2, num_particles=20, animate=True)
        module = build("MinibatchW2FE", step_size=0.1, lr_schedule=Schedule())
        trainer = fit(module, data(iterations_per_block=2), max_steps=steps, ckpt_path=ckpt_path, callbacks=[picture],
                      default_root_dir=str(tmp_path))  # fmt: skip
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        return picture

    whole = run(8)
    assert [r["iteration"] for r in whole.records] == [0, 2, 4, 6, 8]
    assert whole.records[-1]["left"] == pytest.approx(0.9**8)
    assert (tmp_path / "pictures/flow.png").stat().st_size > 10_000
    assert (tmp_path / "pictures/flow.gif").read_bytes()[:3] == b"GIF"
    run(4)
    resumed = run(8, tmp_path / "a.ckpt")
    assert [r["w2"] for r in resumed.records] == [r["w2"] for r in whole.records]
    with pytest.raises(UserError, match="FlowPicture: expected a generator of points in the plane, got W1FE"):
        fit(build("W1FE", images=True), data(images=True), max_steps=1, callbacks=[FlowPicture()])


def test_map_transport_of_known_maps() -> None:
    """The identity ends at the optimal displacement away, exact transport at zero, and a shift moves by its length."""
    domains = TwoDomains(Toy2D("ring8"), Toy2D("grid25"))
    metric = MapTransport(num=50)
    metric.prepare(domains, 10)
    numbers = pushed(metric, lambda x: x)
    assert numbers["displacement_50"] == 0
    assert numbers["w2_map_50"] == pytest.approx(numbers["displacement_50_optimal"])
    y, x = domains.source.reference("test", 50), domains.reference("test", 50)
    optimal = x[assignment(y, x)]
    numbers = pushed(metric, lambda _: optimal)
    assert numbers["w2_map_50"] == pytest.approx(0, abs=1e-6)
    assert numbers["displacement_50"] == pytest.approx(numbers["displacement_50_optimal"])
    numbers = pushed(metric, lambda y: y + torch.tensor([3.0, 4.0]))
    assert numbers["displacement_50"] == pytest.approx(5)
    floor = exact_wasserstein(domains.reference("train", 50), x, 2)
    assert numbers["w2_map_50_floor"] == pytest.approx(floor)
    assert metric.directions() == {key: own_direction(key) for key in numbers}


def pushed(metric: MapTransport, push: Callable[[Tensor], Tensor]) -> dict[str, float]:
    metric.reset()
    metric.update_map(push)
    metric.update(torch.zeros(1))
    return metric.compute()


def test_map_transport_wants_two_domains_of_one_shape() -> None:
    with pytest.raises(UserError, match=r"expected a map between domains, got Toy2D\. Use TwoDomains"):
        MapTransport(num=10).prepare(Toy2D(), 10)
    with pytest.raises(UserError, match=r"expected source and target of one shape, got \(2,\) and \(3, 32, 32\)"):
        MapTransport(num=10).prepare(TwoDomains(Toy2D(), Shapes32()), 10)
