"""Energy-based models: buffer, step sizes, networks, the identities of each method, and what follows training."""

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from problems import Adam, build, data, fit, weights
from torch import Tensor, nn

from pt_flows.cli.main import main
from pt_flows.contracts import Batch, EnergyNet, Split, Terms
from pt_flows.data import MNIST, ImageAugmentation, Toy2D
from pt_flows.errors import DivergenceError, UserError
from pt_flows.evaluation.density import log_density
from pt_flows.evaluation.energies import compose
from pt_flows.evaluation.outliers import OutlierAUROC, auroc
from pt_flows.evaluation.passport import own_direction
from pt_flows.functional.energies import GaussianMixture
from pt_flows.functional.gibbs import Transition, at_labels, label_logits, mgms
from pt_flows.functional.harvesting import harvest
from pt_flows.functional.langevin import chain_at, langevin
from pt_flows.functional.noising import squared_cumulative
from pt_flows.functional.objectives import nearest_log_distance
from pt_flows.loop.journal import Cost
from pt_flows.methods import DAEBM, PCD, ImprovedCD
from pt_flows.methods.energies.gaussian_base import GaussianBase
from pt_flows.methods.energies.sums import SumEnergy
from pt_flows.metrics import GridKL
from pt_flows.nets import ConvEnergy, MLPEnergy, MultiScaleEnergy, TimeMLPEnergy, TimeResNetEnergy
from pt_flows.samplers import sample
from pt_flows.training.noise import NoiseStream
from pt_flows.training.players import Energy
from pt_flows.training.replay import ReplayBuffer, StepSizes
from pt_flows.training.schedules import Schedule

ROOT = Path(__file__).resolve().parent.parent


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(iteration: int = 0) -> NoiseStream:
    stream = NoiseStream("test")
    stream.seek(iteration)
    return stream


# ------------------------------------------------------------------------------------------------------- the buffer


def test_chains_return_to_their_slots() -> None:
    """Statement 12: exactly the drawn slots change; a draw never holds a slot twice; all slots have their turn."""
    buffer, seen = ReplayBuffer("slot", 20, (2,)), torch.zeros(20)
    buffer.fill(torch.randn, torch.arange(20))
    before = buffer.points.clone()
    drawn = buffer.draw(8, noise())
    assert len(set(drawn.slots.tolist())) == 8
    assert torch.equal(drawn.x, before[drawn.slots])
    assert torch.equal(drawn.labels, drawn.slots)
    buffer.write(drawn, drawn.x + 100, drawn.labels + 1)
    changed = (buffer.points - before)[:, 0] > 50
    assert sorted(changed.nonzero().squeeze(1).tolist()) == sorted(drawn.slots.tolist())
    assert torch.equal(buffer.labels[drawn.slots], drawn.slots + 1)
    for _ in range(100):
        seen[buffer.draw(8, noise()).slots] += 1
    assert seen.min() > 20


def test_a_restored_buffer_draws_the_same() -> None:
    buffer, again = ReplayBuffer("slot", 20, (2,)), ReplayBuffer("slot", 20, (2,))
    buffer.fill(torch.randn, torch.arange(20))
    buffer.draw(3, noise())
    again.load_state_dict(buffer.state_dict())
    for _ in range(3):
        a, b = buffer.draw(5, noise()), again.draw(5, noise())
        assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


def test_a_reservoir_is_a_uniform_sample_of_history() -> None:
    """Statement 12 of improved contrastive divergence: every point ever added is there with probability size / n."""
    counts = torch.zeros(200)
    for trial in range(150):
        L.seed_everything(trial, verbose=False)
        buffer = ReplayBuffer("reservoir", 50, (1,))
        for start in range(0, 200, 8):
            buffer.add(torch.arange(start, start + 8.0)[:, None])
        assert len(buffer) == 50
        kept = buffer.points[:, 0].long()
        assert len(set(kept.tolist())) == 50
        counts[kept] += 1
    expected = 150 * 50 / 200
    chi_square = float(((counts - expected).square() / (expected * 0.75)).sum())
    assert chi_square < 200 + 4 * math.sqrt(2 * 200)


def test_a_queue_keeps_the_newest() -> None:
    buffer = ReplayBuffer("fifo", 5, (1,))
    for start in (0.0, 3.0, 6.0):
        buffer.add(torch.arange(start, start + 3)[:, None])
    assert sorted(buffer.points[:, 0].tolist()) == [4, 5, 6, 7, 8]


def test_bytes_keep_pixels_within_a_level() -> None:
    """Pixels that are read are unbiased, lie within 1/128 of those stored, and stay in [-1, 1]."""
    x = (2 * torch.rand(50, 1, 8, 8, generator=rng()) - 1).clamp(-1, 1)
    x[0], x[1] = -1, 1
    buffer = ReplayBuffer("reservoir", 50, (1, 8, 8), "uint8")
    buffer.add(x)
    error = buffer.read(torch.arange(50), rng()) - x
    assert error.abs().max() <= 1 / 128 + 1e-6
    assert abs(float(error.mean())) < 5 / 128 / math.sqrt(x.numel())
    assert buffer.points.dtype == torch.uint8


def test_renewed_chains_are_fresh() -> None:
    buffer = ReplayBuffer("slot", 1000, (2,), reinit_probability=0.3)
    buffer.fill(lambda *shape, generator: torch.zeros(*shape), buffer.labels)
    fresh = lambda num: (torch.ones(num, 2), torch.full((num,), 7))
    drawn = buffer.draw(1000, noise(), fresh)
    new = drawn.x[:, 0] == 1
    assert float(new.float().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 1000))
    assert torch.equal(drawn.labels == 7, new)


def test_a_buffer_below_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.buffer_size: expected at least 16, the batch .* got 10"):
        fit(build("DAEBM", buffer_size=10), data(), max_steps=1)


def test_step_sizes_follow_acceptance() -> None:
    """Statement 11: 0.81 grows by a tenth, 0.8 and 0.6 stay, 0.59 shrinks, an unvisited label stays, caps hold."""
    rates = torch.tensor([0.81, 0.8, 0.6, 0.59, 0.0, 0.9])
    tried = torch.tensor([100.0, 100.0, 100.0, 100.0, 0.0, 100.0])
    steps = StepSizes(torch.full((6,), 0.5), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.52]))
    steps.record(rates * tried, tried)
    steps.adapt()
    expected = torch.tensor([0.55, 0.5, 0.5, 0.5 / 1.2, 0.5, 0.52])
    torch.testing.assert_close(steps.values, expected)
    assert float(steps.tried.sum()) == 0


# --------------------------------------------------------------------------------------------------------- networks


def test_networks_have_the_sizes_of_the_papers() -> None:
    count = lambda net: sum(p.numel() for p in net.parameters())
    assert count(TimeResNetEnergy(28, 1)) == 4_757_121 - 257
    assert count(MultiScaleEnergy()) == 6_564_196


@pytest.mark.parametrize(
    ("energy", "shape"),
    [
        (TimeResNetEnergy(16, 1, width=4, multipliers=(1, 2, 4)), (1, 16, 16)),
        (TimeResNetEnergy(28, 1, width=4), (1, 28, 28)),
        (TimeResNetEnergy(32, 3, width=4), (3, 32, 32)),
        (TimeMLPEnergy(width=8), (2,)),
        (MLPEnergy(width=8), (2,)),
        (ConvEnergy(16, 1, width=4), (1, 16, 16)),
        (MultiScaleEnergy(32, 3, width=8), (3, 32, 32)),
        (MultiScaleEnergy(64, 1, width=8), (1, 64, 64)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else str(v[-1]),
)
def test_energies_are_one_number_with_second_derivatives(energy: EnergyNet, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for gain in (m.gain for m in energy.modules() if hasattr(m, "gain")):
        nn.init.ones_(gain)  # attention counts
    x = torch.randn(3, *shape, requires_grad=True)
    labels = (torch.tensor([0, 1, 2]),) if energy.takes_labels else ()
    u = energy(x, *labels)
    assert u.shape == (3,)
    (g,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    second = torch.autograd.grad(g.square().sum(), list(energy.parameters()), allow_unused=True)
    assert sum(s is not None and float(s.abs().sum()) > 0 for s in second) > 0.5 * len(second)
    if energy.takes_labels:
        assert not torch.allclose(u, energy(x, labels[0] + 1))


def test_scales_see_smaller_images_and_add_up() -> None:
    """Statement 11: (B, 3) energies of 32, 16 and 8 pixels, whose sum is U and whose slopes add up."""
    energy, x = MultiScaleEnergy(32, 3, width=8), torch.rand(2, 3, 32, 32)
    assert [scale.event_shape[-1] for scale in energy.scales] == [32, 16, 8]
    assert energy.parts(x).shape == (2, 3)
    torch.testing.assert_close(energy.parts(x).sum(1), energy(x))
    whole = chain_at(energy, x).gradient
    parts = sum(chain_at(lambda p, s=s: energy.parts(p)[:, s], x).gradient for s in range(3))
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- DA-EBM


def diagonal(x: Tensor) -> Tensor:
    return 0.5 * (x.square() / torch.tensor([1.0, 0.25])).sum(1)


def test_the_released_ratio_samples_another_distribution() -> None:
    """Statement 1: with s² for s the first axis keeps 0.80 of its variance at s = 0.6; with the exact ratio, all."""
    start = torch.randn(4000, 2, generator=rng()) * torch.tensor([1.0, 0.5])
    released, _ = langevin(diagonal, start, 0.6, 300, rng(1), ratio="released")
    exact, _ = langevin(diagonal, start, 0.6, 300, rng(1))
    assert float(released.x[:, 0].square().mean()) == pytest.approx(0.80, abs=0.05)
    assert float(exact.x[:, 0].square().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 4000))


def test_a_step_widens_the_gap_between_data_and_samples() -> None:
    """Statement 8: U falls on data and rises on samples; a constant has no gradient; samples carry no graph."""
    torch.manual_seed(0)
    energy = TimeMLPEnergy(width=16)
    x_data, x_model, t = torch.randn(50, 2) + 1, torch.randn(50, 2) - 1, torch.arange(50) % 4
    gap = lambda: energy(x_data, t).mean() - energy(x_model, t).mean()
    before = gap()
    gradients = torch.autograd.grad(before, list(energy.parameters()), allow_unused=True)
    assert float(gradients[-1].abs()) < 1e-6  # the output's constant
    with torch.no_grad():
        for p, g in zip(energy.parameters(), gradients, strict=True):
            p -= 1e-2 * g
    assert float(gap()) < float(before)


def test_labels_begin_uniform_and_stay_in_range() -> None:
    module = build("DAEBM")
    counts = module.buffer.labels.bincount(minlength=4)
    assert int(counts.max() - counts.min()) <= 1
    fit(module, data(), max_steps=20)
    assert int(module.buffer.labels.max()) <= 3


def test_chains_are_taken_at_their_visit() -> None:
    """Statement 17: with scripted labels, at the M-th visit of label 0, after as many transitions as that took."""
    script = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])  # chain, transition

    def move(x: Tensor, t: Tensor) -> Transition:
        step = x[:, 1].long()
        moved = torch.stack([x[:, 0], x[:, 1] + 1], 1)
        return Transition(moved, script[x[:, 0].long(), step], x[:, 0], x[:, 0], x[:, 0], x)

    start = torch.stack([torch.arange(3.0), torch.zeros(3)], 1)
    *_, (left, taken) = harvest(move, start, torch.full((3,), 1), num_visits=3, max_transitions=6)
    assert taken[:2, 1].tolist() == [4, 5]  # transitions until the third visit
    assert left == 1  # one chain never arrived


class Exact(EnergyNet):
    """-log q_t of a diffused mixture, plus a constant that log-densities must find."""

    event_shape = (2,)
    takes_labels = True

    def __init__(self, constant: float = 3.7) -> None:
        super().__init__()
        self.law = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.3, (0.7, 0.3))
        self.constant = nn.Parameter(torch.tensor(constant))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, b = DAEBM_NOISE
        laws = [self.law.diffused(float(u), float(v)) for u, v in zip(a, b, strict=True)]
        return self.constant - torch.stack([q.log_prob(x) for q in laws], 1).gather(1, t[:, None]).squeeze(1)


DAEBM_NOISE = DAEBM(Energy(TimeMLPEnergy()), buffer_size=7).noising


def exact_model() -> DAEBM:
    """An exact model with settled chains."""
    L.seed_everything(0, verbose=False)
    module = DAEBM(Energy(Exact()), data_scale=0.3, step_size=0.8, num_langevin_steps=10, buffer_size=1400)
    x = torch.cat([module.energy.network.law.diffused(float(a), float(b)).sample(200, rng(k))
                   for k, (a, b) in enumerate(zip(*DAEBM_NOISE, strict=True))])  # fmt: skip
    module.buffer.points.copy_(x)
    return module.eval()


def test_log_densities_of_an_exact_energy() -> None:
    """The normaliser comes out of labels and importance weights alone, within its stated error."""
    module = exact_model()
    law = module.energy.network.law
    x = law.sample(500, rng(3))
    found = log_density(module, x, law.sample(2000, rng(4)), num_transitions=30, num_chains=700)
    assert found.log_z == pytest.approx(-3.7, abs=4 * found.error)
    assert found.error < 0.05
    torch.testing.assert_close(found.values, law.log_prob(x), rtol=0, atol=0.15)
    assert bool(((7 * found.occupancy - 1).abs() < 0.1).all())


@pytest.mark.slow
def test_chains_from_noise_reach_the_data_of_an_exact_energy() -> None:
    module = exact_model()
    x = sample(module, 600, rng=rng(5))
    right = float((x[:, 0] > 0).float().mean())
    assert right == pytest.approx(0.7, abs=5 * math.sqrt(0.21 / 600))
    assert float((x - torch.tensor([1.0, 0.0])).norm(dim=1)[x[:, 0] > 0].square().mean()) == pytest.approx(
        2 * 0.09, rel=0.15
    )
    with torch.inference_mode():
        assert torch.equal(sample(module, 20, rng=rng(1)), sample(module, 20, rng=rng(1)))
    assert all(p.grad is None and p.requires_grad for p in module.energy.network.parameters())


def test_the_label_tells_how_noisy_a_point_is() -> None:
    module = exact_model()
    law, T = module.energy.network.law, 6
    clean, noisy = law.sample(300, rng()), law.diffused(*(float(c[T]) for c in DAEBM_NOISE)).sample(300, rng(1))
    mean_label = lambda x: float((module.log_levels(x).softmax(1) * torch.arange(7)).sum(1).mean())
    assert mean_label(clean) + 1 < mean_label(noisy)


@pytest.mark.slow
def test_sampling_says_when_chains_do_not_arrive() -> None:
    module = exact_model()
    module.energy.ema.network.constant.data.zero_()
    stuck = lambda x, t: Exact.forward(module.energy.ema.network, x, t) + 50.0 * (t == 0)
    module.energy.ema.network.forward = stuck
    module.num_visits = 1
    with pytest.warns(UserWarning, match=r"5 of 5 chains from noise were not at label 0 for 1 times within 196"):
        x = sample(module, 5, rng=rng())
    assert bool(x.isfinite().all())


# --------------------------------------------------------------------------------- improved contrastive divergence


class Quadratic(EnergyNet):
    """θ x² / 2 in one dimension, plus a constant."""

    event_shape = (1,)

    def __init__(self, theta: float = 1.7) -> None:
        super().__init__()
        self.theta, self.constant = nn.Parameter(torch.tensor(theta)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.theta * x[:, 0].square() + self.constant


def improved_cd(energy: EnergyNet, **overrides: Any) -> ImprovedCD:
    settings: dict[str, Any] = {
        "step_size": 0.3, "bounds": (-10.0, 10.0), "num_references": 4, "min_history": 4, "buffer_size": 50,
    }  # fmt: skip
    return ImprovedCD(Energy(energy), **{**settings, **overrides})


def last_step(module: ImprovedCD, z: Tensor) -> Tensor:
    """x̂(θ), with its graph."""
    return module.moved(z, module.slope(z))


def test_the_last_step_has_the_closed_form_gradient() -> None:
    """Statement 3: x̂ = (1 - λθ) z, so ∂L_opt/∂θ = -λ θ (1 - λθ) z²; z = 0.8, θ = 1.7, λ = 0.3 gives -0.159936."""
    torch.set_default_dtype(torch.float64)
    module = improved_cd(Quadratic())
    loss = module.opt_loss(last_step(module, torch.tensor([[0.8]])))
    theta, constant = torch.autograd.grad(loss, list(module.energy.network.parameters()), allow_unused=True)
    assert float(theta) == pytest.approx(-0.159936, abs=1e-12)
    assert constant is None or float(constant) == 0
    assert float(loss) == pytest.approx(0.5 * 1.7 * (0.8 * (1 - 0.3 * 1.7)) ** 2)


def test_opt_and_entropy_gradients_equal_finite_differences() -> None:
    """Statements 1 and 2: only the last step has gradients, not the outer energy; there are none if x̂ has no graph."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    module = improved_cd(MLPEnergy(width=8, depth=2))
    z, references = torch.randn(5, 2), torch.randn(9, 2)
    frozen = improved_cd(MLPEnergy(width=8, depth=2))
    frozen.load_state_dict(module.state_dict())
    losses = {
        "opt": (lambda: module.opt_loss(last_step(module, z)), lambda: frozen.energy(last_step(module, z)).mean()),
        "entropy": (lambda: -nearest_log_distance(last_step(module, z), references).mean(),) * 2,
    }
    weight = next(module.energy.network.parameters())
    for loss, by_hand in losses.values():
        (gradient,) = torch.autograd.grad(loss(), [weight])
        for i, j in ((0, 0), (3, 1), (7, 0)):
            values = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    weight[i, j] += h
                values.append(float(by_hand()))
                with torch.no_grad():
                    weight[i, j] -= h
            assert float(gradient[i, j]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)
    detached = module.opt_loss(last_step(module, z).detach())
    assert not detached.requires_grad


def test_clamped_samples_have_no_gradient() -> None:
    """Statement 4."""
    module = improved_cd(Quadratic(), step_size=1e3, bounds=(-1.0, 1.0))
    x_hat = last_step(module, torch.tensor([[0.8], [-0.5]]))
    assert x_hat.abs().tolist() == [[1.0], [1.0]]
    for loss in (module.opt_loss(x_hat), -nearest_log_distance(x_hat, torch.zeros(3, 1)).mean()):
        (gradient,) = torch.autograd.grad(loss, [module.energy.network.theta], retain_graph=True)
        assert float(gradient) == 0


@pytest.mark.parametrize("kept_every", [1, 2])
def test_kept_samples_are_those_of_the_chain(kept_every: int) -> None:
    """Statement 6: x̂ equals x⁻ where it is kept."""
    module = improved_cd(MLPEnergy(width=8), kept_every=kept_every)
    z = torch.randn(6, 2)
    torch.testing.assert_close(last_step(module, z[::kept_every]), module.step(z)[::kept_every])
    assert not module.step(z).requires_grad


def test_entropy_grows_by_one_per_log_sigma() -> None:
    """Statements 7 to 9: slope one, the Gaussian's entropy within 0.1 nat, the direction, and duplicates."""
    d, M = 2, 1000
    x, b = torch.randn(1000, d, generator=rng()), torch.randn(M, d, generator=rng(1))
    means = [float(nearest_log_distance(c * x, c * b).mean()) for c in (0.5, 1.0, 2.0)]
    assert means[1] - means[0] == pytest.approx(math.log(2), abs=1e-5)
    assert means[2] - means[1] == pytest.approx(math.log(2), abs=1e-5)
    estimate = d * means[1] + math.log(math.pi) + math.log(M) + 0.5772
    assert estimate == pytest.approx(d / 2 * math.log(2 * math.pi * math.e), abs=0.1)
    query = torch.zeros(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(-nearest_log_distance(query, torch.tensor([[1.0, 0.0], [0.0, 5.0]])).sum(), query)
    assert gradient.tolist() == [[1.0, 0.0]]  # descent moves away from the neighbour
    x = torch.zeros(1, 2, requires_grad=True)
    value = nearest_log_distance(x, torch.zeros(3, 2)).sum()
    assert math.isfinite(float(value))
    assert torch.autograd.grad(value, x)[0].isfinite().all()


def test_entropy_waits_for_a_history() -> None:
    """Statement 10."""
    module = improved_cd(MLPEnergy(width=8), min_history=20)
    module.noise.seek(0)
    x_hat = last_step(module, torch.randn(6, 2))
    module.buffer.add(torch.randn(20, 2))
    assert float(module.entropy_loss(x_hat)) == 0
    module.buffer.add(torch.randn(1, 2))
    assert float(module.entropy_loss(x_hat)) != 0


def test_steps_without_noise_go_down_and_stay_in_the_box() -> None:
    """Statement 15."""
    module = improved_cd(Quadratic(), noise_std=0.0, step_size=0.1, bounds=(-1.0, 1.0))
    x, energies = torch.tensor([[0.9], [-0.4]]), []
    for _ in range(10):
        chain, _ = module.walk(x, 1, rng(), "raw")
        x = chain.x
        energies.append(float(chain.energy.sum()))
    assert energies == sorted(energies, reverse=True)
    assert float(x.abs().max()) <= 1
    assert module.energy.network.theta.grad is None


def test_augmentation_keeps_shape_and_range_and_depends_on_seeds_alone() -> None:
    """Statement 17."""
    augment, x = ImageAugmentation(blur=5), 2 * torch.rand(6, 3, 32, 32) - 1
    state = torch.get_rng_state()
    a = augment(x, range(6))
    assert torch.equal(torch.get_rng_state(), state)
    assert a.shape == x.shape
    assert float(a.abs().max()) <= 1 + 1e-5
    assert torch.equal(a[4:], augment(x[4:], [4, 5]))
    assert not torch.allclose(a, augment(x, range(1, 7)))


# ------------------------------------------------------------------------------------------------------- the guard


class Spoiled(PCD):
    """A model whose energy jumps at one iteration."""

    spoil_at, value = 13, 1e12

    def iterate(self, minibatches: list[Batch]) -> Terms:  # type: ignore[override]
        terms = super().iterate(minibatches)
        if self.iteration + 1 == self.spoil_at:
            with torch.no_grad():
                next(self.energy.network.parameters()).fill_(torch.nan)
            return terms | {"energy_gap": torch.tensor(self.value)}
        return terms


def spoiled(**overrides: Any) -> Spoiled:
    L.seed_everything(0, verbose=False)
    return Spoiled(Energy(MLPEnergy(width=8), Adam), num_langevin_steps=2, buffer_size=40, **overrides)


def test_a_gap_beyond_bounds_stops_with_the_reason() -> None:
    with pytest.raises(DivergenceError, match=r"energy_gap is 1e\+12 at iteration 13, beyond .* 1e\+08"):
        fit(spoiled(), data(iterations_per_block=5), max_steps=20, log_every_n_steps=5)


def test_a_lost_run_can_roll_back() -> None:
    """Weights, optimizer and chains are those of the last good row; the count continues; the roll-back is recorded."""
    module = spoiled(on_divergence="roll_back")
    kept: list[Tensor] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if pl_module.iteration in (10, 15):
                kept.append(torch.cat([weights(pl_module.energy), pl_module.buffer.points.flatten()]))

    with pytest.warns(UserWarning, match="rolled back to the state of iteration 10"):
        fit(module, data(iterations_per_block=5), max_steps=20, log_every_n_steps=5, callbacks=[Keep()])
    assert torch.equal(kept[0], kept[1])
    assert (module.iteration, module.rollback.num) == (20, 1)
    assert bool(weights(module).isfinite().all())


def test_chains_without_energy_are_counted_by_label() -> None:
    module = build("DAEBM", metropolis_from=100)
    module.buffer.points[module.buffer.labels == 2] = torch.nan
    with pytest.raises(DivergenceError, match=r"\d+ chains have energies .* not finite at label 2 at iteration 1"):
        fit(module, data(), max_steps=3, log_every_n_steps=1)


# --------------------------------------------------------------------------------------------------------- refusals


class TwoValues(MLPEnergy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super().forward(x)] * 2, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("DAEBM", step_size=0.0), r"DAEBM.step_size: expected a number above 0, got 0.0"),
        (lambda: build("DAEBM", num_levels=0), r"DAEBM.num_levels: expected at least 1, got 0"),
        (
            lambda: build("DAEBM", acceptance_ratio="wrong"),
            "DAEBM.acceptance_ratio: expected one of exact, released, got 'wrong'",
        ),
        (
            lambda: build("PCD", reinit_probability=1.5),
            r"PCD.reinit_probability: expected a number in \[0, 1\], got 1.5",
        ),
        (lambda: build("PCD", clip_norm=0.0), "Energy.clip_norm: expected a number above 0, got 0.0"),
        (
            lambda: build("ImprovedCD", bounds=(1.0, -1.0)),
            r"bounds: expected a lower and a higher number, got \[1.0, -1.0\]",
        ),
        (
            lambda: build("ImprovedCD", images=True, bounds=(0.0, 1.0)),
            r"bounds: expected \[-1, 1\] for images, got \[0.0, 1.0\]",
        ),
        (
            lambda: build("ImprovedCD", num_references=9),
            r"num_references: expected at most model.min_history \(4\), got 9",
        ),
        (
            lambda: DAEBM(Energy(MLPEnergy())),
            r"expected U\(x, t\), such as TimeMLPEnergy, got MLPEnergy, which takes no labels",
        ),
        (
            lambda: PCD(Energy(TimeMLPEnergy())),
            r"expected U\(x\), such as MLPEnergy, got TimeMLPEnergy, which takes labels",
        ),
        (
            lambda: ImprovedCD(Energy(TimeMLPEnergy())),
            r"expected U\(x\), such as MLPEnergy, got TimeMLPEnergy, which takes labels",
        ),
        (lambda: TimeResNetEnergy(30), "TimeResNetEnergy.image_size: expected a multiple of 4 from 8 on, got 30"),
        (lambda: MultiScaleEnergy(8), "MultiScaleEnergy.image_size: expected at least 16, got 8"),
        (lambda: ImageAugmentation(min_area=0.0), r"Augmentation.min_area: expected a number in \(0, 1\]"),
        (lambda: ImageAugmentation(blur=4), "ImageAugmentation.blur: expected an odd number or 0, got 4"),
        (lambda: MNIST(image_size=30), "MNIST.image_size: expected one of 16, 28, 32, got 30"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_energies_of_several_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"TwoValues: expected one value per sample, shape \(16,\), got \(16, 2\)"):
        fit(PCD(Energy(TwoValues(width=8)), buffer_size=40), data(), max_steps=1)


def test_batch_norm_is_refused() -> None:
    energy = MLPEnergy(width=8)
    energy.net.append(nn.BatchNorm1d(1))
    with pytest.raises(UserError, match=r"model.energy.network: expected no batch norm, got one at net.7"):
        Energy(energy)


def test_labels_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"t: expected labels of shape \(2,\) in 0 ... 3, got shape \(2,\) from 0 to 4"):
        build("DAEBM").energies(torch.zeros(2, 2), torch.tensor([0, 4]))


def test_pixels_out_of_range_are_refused() -> None:
    module, shapes = build("PCD", images=True), data(images=True)
    shapes.on_after_batch_transfer = lambda batch, i: (batch[0].float(), batch[1])  # bytes as they are
    with pytest.raises(UserError, match=r"data: expected images in \[-1, 1\], got pixels from \d+ to \d+"):
        fit(module, shapes, max_steps=1)


def test_dropout_is_off_while_chains_move() -> None:
    """Statement 14: the energy is one function during a transition; training mode returns."""
    energy = MLPEnergy(width=8)
    energy.net.insert(2, nn.Dropout(0.5))
    module = PCD(Energy(energy), step_size=1e-6, num_langevin_steps=1)
    x = torch.randn(8, 2)
    first, _ = module.walk(x, 0, rng(), "raw")
    assert torch.equal(first.energy, module.walk(x, 0, rng(), "raw")[0].energy)
    assert not torch.equal(energy(x), energy(x))
    assert energy.training


# --------------------------------------------------------------------------------------------------- after training


def test_sums_of_energies() -> None:
    """U_1 + U_2 and its gradient; two Gaussian energies give their product when sampled."""
    a, b, x = MLPEnergy(width=8), MLPEnergy(width=8), torch.randn(5, 2)
    torch.testing.assert_close(SumEnergy(a, b)(x), a(x) + b(x))
    torch.testing.assert_close(chain_at(SumEnergy(a, b), x).gradient, chain_at(a, x).gradient + chain_at(b, x).gradient)
    make = lambda theta: PCD(Energy(Quadratic(theta)), step_size=0.5, metropolis=True, num_sampling_steps=200)
    both = make(1.0)
    compose(both, make(3.0))
    assert float(sample(both, 3000, rng=rng()).var()) == pytest.approx(0.25, rel=5 * math.sqrt(2 / 3000))
    with pytest.raises(UserError, match=r"expected an energy of samples \(1,\) and 0 labels, got samples \(2,\) and 0"):
        compose(make(1.0), PCD(Energy(MLPEnergy())))


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([3.0, 2.0], [1.0, 0.0], 1),
        ([3.0, 0.5], [1.0, 0.0], 0.75),
        ([100.0, 101.0, 102.0], [50.0, 51.0, 52.0], 1),
        ([-800.0, -801.0], [-900.0, -901.0], 1),
        ([-900.0, -901.0], [-800.0, -801.0], 0),
        ([1e30, 5.0], [5.0, -math.inf], 0.875),
        ([2.0, 2.0, 2.0], [2.0], 0.5),
        ([math.nan, 2.0], [1.0], math.nan),
    ],
)
def test_area_under_the_curve(inside: list[float], outside: list[float], expected: float) -> None:
    """The area is the fraction of pairs in the right order, on any scale; ties count half."""
    assert auroc(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_names_of_outliers_are_not_taken() -> None:
    with pytest.raises(
        UserError, match=r"OutlierAUROC\.against: expected other names, got 'uniform', which this metric"
    ):
        OutlierAUROC(against={"uniform": Toy2D()})


@pytest.mark.parametrize("name", ["gates", "images", "base", "sum"])
def test_energies_at_fixed_labels_are_the_same(name: str) -> None:
    """Labels that are conditioned on once, for a whole chain, give the energy and the slope of the plain call."""
    gates = TimeMLPEnergy(width=16)
    images = TimeResNetEnergy(image_size=8, num_channels=1, width=4, multipliers=(1, 2))
    base = GaussianBase(gates, squared_cumulative(6, 0.01, 0.3))
    networks = {"gates": gates, "images": images, "base": base, "sum": SumEnergy(gates, TimeMLPEnergy(width=8))}
    network: EnergyNet = networks[name]
    x, t = torch.randn(9, *network.event_shape, requires_grad=True), torch.arange(9) % 7
    plain, at = network(x, t), at_labels(network, t)(x)
    assert torch.equal(plain, at)
    slopes = [torch.autograd.grad(u.sum(), x)[0] for u in (plain, at)]
    assert torch.equal(*slopes)
    with torch.inference_mode():
        assert torch.equal(chain_at(at_labels(network, t.clone()), x).gradient, slopes[0])
    every = -label_logits(network, x.detach(), 7, chunk=28)
    for label in range(7):
        torch.testing.assert_close(every[:, label], network(x, torch.full((9,), label)).detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["gates", "images", "base", "sum", "plain"])
def test_cost_of_a_transition(name: str) -> None:
    """K steps evaluate K + 1 samples of each chain, and the draw of a label one at each level, for every network."""
    gates, images = TimeMLPEnergy(width=8), TimeResNetEnergy(image_size=8, num_channels=1, width=4, multipliers=(1, 2))
    networks: dict[str, Any] = {
        "gates": gates,
        "images": images,
        "base": GaussianBase(images, squared_cumulative(6, 0.01, 0.3)),
        "sum": SumEnergy(gates, TimeMLPEnergy(width=4)),
        "plain": Bowl(),
    }
    network, cost = networks[name], Cost()
    cost.watch({"energy": network})
    x = torch.randn(5, *getattr(network, "event_shape", (2,)))
    with cost.running():
        mgms(network, x, torch.arange(5), torch.full((7,), 0.1), 3, rng(), chunk=14)
    assert cost.evaluations == {"energy": 5 * (3 + 1 + 7)}


class OnBowl(TimeMLPEnergy):
    """Another energy in `forward`."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x, t) + 0.5 * x.square().sum(1)


class AtBowl(TimeMLPEnergy):
    """Another energy in `at`, which `forward` calls."""

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return super().at(x, *conditions) + 0.5 * x.square().sum(1)


class Shared(EnergyNet):
    """An energy whose conditions are no rows of labels."""

    event_shape, takes_labels = (2,), True

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        return torch.ones(5, 2), t

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return (x @ conditions[0].T).square().sum(1) * (1 + conditions[1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.at(x, *self.conditions(t))


@pytest.mark.parametrize("make", [OnBowl, AtBowl, Shared])
@pytest.mark.parametrize("based", [False, True])
def test_chains_and_labels_follow_the_energy_of_a_subclass(make: type[EnergyNet], based: bool) -> None:
    network: EnergyNet = make()
    if based:
        network = GaussianBase(network, squared_cumulative(6, 0.01, 0.3))
    x, t = torch.randn(4, 2), torch.arange(4)
    plain = network(x, t).detach()
    torch.testing.assert_close(at_labels(network, t)(x).detach(), plain)
    torch.testing.assert_close(-label_logits(network, x, 7)[torch.arange(4), t], plain)


class Bowl(nn.Module):
    """An energy of labels without more than its call."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (1 + t) * x.square().sum(1)


class Shifted(Toy2D):
    """Reference samples two to the right."""

    def reference(self, split: Split, num: int | None = None) -> Tensor:
        return super().reference(split, num) + torch.tensor([2.0, 0.0])


@pytest.mark.parametrize("data_noise", [0.0, 3.0])
def test_outlier_areas_of_a_known_energy(data_noise: float) -> None:
    """An energy that grows to the right separates shifted samples as pairs say, and noise on the data blurs it."""
    near, far = Toy2D("ring8"), Shifted("ring8")
    metric = OutlierAUROC(against={"near": near, "far": far}, num=2_000)
    metric.data_noise = data_noise
    metric.prepare(near, 10)
    metric.update_energy(lambda x: x[:, 0])
    metric.update(torch.zeros(1))
    numbers = metric.compute()
    assert metric.directions() == {key: own_direction(key) for key in numbers}
    assert numbers["auroc_near_2k"] == pytest.approx(0.5, abs=0.02)
    areas = [value for name, value in numbers.items() if name != "auroc_2k"]
    assert len(areas) == 4
    assert numbers["auroc_2k"] == pytest.approx(sum(areas) / 4)
    x = near.reference("test", 2_000)[:, 0]
    pairs = (x[:, None] - x - 2) / (math.sqrt(2) * max(data_noise, 1e-9))  # P(outlier > sample), noise integrated out
    assert numbers["auroc_far_2k"] == pytest.approx(float(torch.special.ndtr(-pairs).mean()), abs=0.02)


def test_grid_kl_of_known_densities() -> None:
    """KL is zero for the truth and has its closed form for another Gaussian; data without a density are refused."""
    metric, datamodule = GridKL(300), Toy2D("gaussian")
    metric.prepare(datamodule, 100)
    metric.update_energy(lambda x: 5 - datamodule.law.log_prob(x))
    assert metric.compute()["kl_grid300"] == pytest.approx(0, abs=1e-6)
    law = datamodule.law
    wide = torch.distributions.MultivariateNormal(law.mean + 0.3, 1.5 * law.covariance)
    metric.reset()
    metric.update_energy(lambda x: -wide.log_prob(x))
    truth = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(law.mean, law.covariance), wide)
    assert metric.compute()["kl_grid300"] == pytest.approx(float(truth), rel=0.02)
    flat = torch.zeros(300 * 300)
    for lost in (torch.nan, -torch.inf):
        metric.reset()
        metric.update_energy(lambda x, lost=lost: torch.cat([x.new_full((1,), lost), flat[: len(x) - 1]]))
        assert not math.isfinite(metric.compute()["kl_grid300"])
    metric.reset()
    assert metric.compute() == {}
    with pytest.raises(UserError, match="GridKL: expected a distribution with a density, got "):
        GridKL().prepare(Toy2D("moons"), 100)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Train short runs of each kind by the command line."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for name in ("da_ebm", "improved_cd", "pcd"):
        arguments = ["fit", "--config", str(ROOT / f"configs/toy2d/{name}.yaml"), "--trainer.max_steps", "6"]
        arguments += ["--model.energy.network.width", "16", "--model.num_langevin_steps", "3"]
        arguments += ["--evaluation.metrics", "[]", "--pictures.num_images", "8"]
        arguments += ["--run.root", str(root / name), "--run.wandb", "disabled", "--trainer.accelerator", "cpu"]
        arguments += ["--model.num_visits", "1"] if name == "da_ebm" else []
        assert main(arguments) == 0
        (found[name],) = map(str, (root / name).glob("*/*/checkpoints/last.ckpt"))
    return found


@pytest.mark.slow
def test_training_draws_its_chains(runs: dict[str, str]) -> None:
    pictures = Path(runs["da_ebm"]).parent.parent / "pictures"
    assert (pictures / "chains_00000006.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["da_ebm", "improved_cd", "pcd"])
def test_long_chains_and_outliers(name: str, runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", runs[name], "--long-run", "30", "--n", "5", "--out", "long.png"]) == 0
    assert "drift" in capsys.readouterr().out
    rows = Path("long.csv").read_text().splitlines()
    assert rows[0].startswith("step,energy,acceptance")
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "3", "10", "30"]
    assert main(["ood", runs[name], "--n", "50"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"uniform +0\.\d{3}", printed)
    assert ("log Σ exp -U(x, t)" in printed) == (name == "da_ebm")
    assert main(["sample", runs[name], "--plus", runs[name], "--n", "5", "--out", "both.npz"]) == 0


def test_log_densities_by_command(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["density", runs["da_ebm"], "--n", "50"]) == 0
    assert "true log-density" in capsys.readouterr().out
    assert main(["density", runs["pcd"]]) == 2
    assert "expected a method with noise levels, such as DAEBM, got PCD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "da_ebm", "--long-run", "0"], "--long_run: expected at least 1, got 0"),
        (["sample", "da_ebm", "--long-run", "5", "--out", "x.npz"], "--out: expected a file .png"),
        (
            ["sample", "da_ebm", "--plus", "pcd"],
            "--plus: expected an energy of samples (2,) and 7 labels, got samples (2,) and 0",
        ),
        (["ood", "da_ebm", "--against", "Shapes32"], "expected samples of shape (2,), got Shapes32 of (3, 32, 32)"),
        (["ood", "da_ebm", "--n", "1"], "--n: expected at least 2, got 1"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], message: str, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([runs.get(word, word) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_checkpoints_of_other_levels_are_refused(runs: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "configs/toy2d/da_ebm.yaml")
    arguments = ["fit", "--config", recipe, "--ckpt_path", runs["da_ebm"], "--model.num_levels", "4"]
    arguments += ["--model.energy.network.width", "16", "--trainer.accelerator", "cpu", "--trainer.max_steps", "8"]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "model.num_levels is 6 in the checkpoint's run and 4 here" in printed.out
    assert "expected the networks of this configuration, got others" in printed.err


def test_generators_have_no_energy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["fit", "--config", str(ROOT / "configs/toy2d/wgan_gp.yaml"), "--trainer.max_steps", "2"]
    arguments += ["--run.root", str(tmp_path), "--run.wandb", "disabled", "--evaluation.num_samples", "20"]
    assert main([*arguments, "--trainer.accelerator", "cpu"]) == 0
    (ckpt,) = tmp_path.glob("*/*/checkpoints/last.ckpt")
    assert main(["ood", str(ckpt)]) == 2
    assert "expected an energy-based model, got WGANGP" in capsys.readouterr().err


def test_a_learning_rate_rises_before_it_falls() -> None:
    module, seen = build("PCD", optimizer=partial(Adam, lr=1.0), lr_schedule=Schedule(decay="linear", warmup=3)), []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(module, data(iterations_per_block=1), max_steps=5, callbacks=[Watch()])
    assert seen == pytest.approx([1 / 3, 2 / 3 * 0.8, 0.6, 0.4, 0.2])
