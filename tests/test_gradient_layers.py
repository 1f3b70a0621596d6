"""Gradient layers against closed forms, and the runs that grow them."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from problems import build, data, fit
from torch import Tensor, nn

from pt_flows.contracts import CriticNet
from pt_flows.errors import UserError
from pt_flows.functional.potentials import regression_loss
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.loop.journal import Cost
from pt_flows.methods import GradientLayers
from pt_flows.nets import MLPCritic, MLPGenerator
from pt_flows.testing.case import difference, tensors
from pt_flows.testing.methods import StopHalfway
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Schedule
from pt_flows.training.stack import Stack


class Formula(CriticNet):
    """A critic with a closed form and one vector w of parameters."""

    def __init__(self, kind: str, w: tuple[float, ...]) -> None:
        super().__init__()
        self.event_shape = (len(w),)
        self.kind, self.w = kind, nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "linear":
                return x @ self.w + 3
            case "quadratic":
                return -0.5 * (x - self.w).square().sum(1)
            case "distance":
                return -(x - self.w).norm(dim=1)
            case _:
                return (x @ self.w).sin()


def stacked(network: nn.Module, *step_sizes: float) -> Stack:
    """Layers with the same critic."""
    stack = Stack(network)
    for eta in step_sizes:
        stack.append(eta)
    return stack


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_no_layers_and_steps_of_zero_change_nothing() -> None:
    x, critic = torch.randn(5, 2), MLPCritic(width=8)
    assert torch.equal(stacked(critic)(x), x)
    assert torch.equal(stacked(critic, 0.0)(x), x)
    module = build("GradientLayers")
    draws = [it.sample(6, rng=torch.Generator().manual_seed(1)) for it in (module, module.generator)]
    assert torch.equal(*draws)


def test_a_linear_critic_translates() -> None:
    x, w = torch.randn(5, 2), (0.6, -0.8)
    stack = stacked(Formula("linear", w), 0.5, 0.25, 0.125)
    torch.testing.assert_close(stack(x), x + 0.875 * torch.tensor(w))
    torch.testing.assert_close(stack(x, first=2), x + 0.125 * torch.tensor(w))


def test_log_ratios_of_gaussians_close_the_gap_geometrically() -> None:
    """The best critic between N(μ, I) and N(m, I) is linear with slope μ - m, so the gap shrinks by 1 - η per layer."""
    mu, x, eta = torch.tensor([3.0, 0.0]), torch.randn(50, 2), 0.2
    critic, points, m = Formula("linear", (0.0, 0.0)), x, x.mean(0)
    stack = Stack(critic)
    for k in range(10):
        with torch.no_grad():
            critic.w.copy_(mu - points.mean(0))
        stack.append(eta)
        points = stack(points, first=k)
    torch.testing.assert_close(points.mean(0), mu - 0.8**10 * (mu - m))
    torch.testing.assert_close(points - points.mean(0), x - m)
    torch.testing.assert_close(stack(x), points)


def test_a_quadratic_potential_is_eulers_method_on_its_flow() -> None:
    a, x = torch.tensor([1.0, -2.0]), torch.randn(5, 2)
    critic = Formula("quadratic", (1.0, -2.0))
    for T, eta in ((1, 0.3), (7, 0.3), (7, 1.9)):
        torch.testing.assert_close(stacked(critic, *[eta] * T)(x), a + (1 - eta) ** T * (x - a))
    exact = a + math.exp(-1.0) * (x - a)
    errors = [float((stacked(critic, *[1 / T] * T)(x) - exact).norm()) for T in (20, 40, 80)]
    assert [errors[i] / errors[i + 1] for i in (0, 1)] == [pytest.approx(2, abs=0.06)] * 2
    assert float((stacked(critic, *[2.1] * 40)(x) - a).norm()) > 40 * float((x - a).norm())


def test_constant_steps_up_a_kink_never_arrive_and_shrinking_ones_do() -> None:
    """The best critic of W1 to one point is minus the distance: unit speed, arrival, then oscillation within η."""
    critic, x, eta = Formula("distance", (0.0, 0.0)), torch.tensor([[0.6, 0.8]]), 0.15
    distances = []
    for k in range(30):
        x = stacked(critic, eta)(x)
        distances.append(float(x.norm()))
        assert distances[-1] == pytest.approx(1 - (k + 1) * eta) or k >= 6
    assert all(0.04 < d < eta for d in distances[7:])
    shrinking = stacked(critic, *[eta / (1 + k / 10) for k in range(300)])(torch.tensor([[0.6, 0.8]]))
    assert float(shrinking.norm()) < 0.01


def test_a_critic_of_slope_one_bounds_displacements() -> None:
    """No point moves further than η in a layer, nor W1 then; a linear critic reaches the bound."""
    x, etas = torch.randn(50, 2), (0.3, 0.2, 0.1)
    for kind, w in (("distance", (0.5, 0.0)), ("sine", (0.6, 0.8)), ("linear", (0.6, 0.8))):
        critic, points = Formula(kind, w), x
        for eta in etas:
            moved = stacked(critic, eta)(points)
            assert float((moved - points).norm(dim=1).max()) <= eta + 1e-12
            w1 = exact_wasserstein(moved, points, 1)
            assert 0 < w1 <= eta + 1e-9
            assert kind != "linear" or w1 == pytest.approx(eta)
            points = moved
        torch.testing.assert_close(stacked(critic, *etas)(x), points)
        assert float((points - x).norm(dim=1).max()) <= sum(etas) + 1e-12


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.9])
def test_a_smooth_critic_rises(factor: float) -> None:
    """E f(G(x)) - E f(x) ≥ (η - Lη²/2) E ‖∇f‖², where ∇f has Lipschitz constant L."""
    w, x = torch.tensor([1.5, 2.0]), torch.randn(200, 2)
    critic, lipschitz = Formula("sine", (1.5, 2.0)), 6.25
    eta = factor / lipschitz
    with torch.no_grad():
        rise = float((critic(stacked(critic, eta)(x)) - critic(x)).mean())
    slope = float(((x @ w).cos().square() * 6.25).mean())
    assert rise >= (eta - lipschitz * eta**2 / 2) * slope > 0


@pytest.mark.parametrize("num_layers", [1, 2])
def test_short_layers_are_injective(num_layers: int) -> None:
    """The Jacobian I + η ∇²f is symmetric, and positive definite if ηL < 1; that of two layers has det > 0."""
    x, h, eta = torch.randn(20, 2), 1e-6, 0.99 / 6.25
    stack = Stack(critic := Formula("sine", (1.5, 2.0)))
    for w in ((1.5, 2.0), (-2.4, 0.7))[:num_layers]:
        critic.w.data = torch.tensor(w)
        stack.append(eta)
    columns = [(stack(x + h * e) - stack(x - h * e)) / (2 * h) for e in torch.eye(2)]
    jacobian = torch.stack(columns, 2)
    if num_layers == 1:
        torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-8)
        assert float(torch.linalg.eigvalsh(jacobian).min()) > 0
    else:
        assert float((jacobian - jacobian.mT).abs().max()) > 0.1
    assert float(jacobian.det().min()) > 0


def test_layers_on_latents_of_a_linear_generator() -> None:
    """They displace samples by η J Jᵀ ∇f, and by η ∇f if J is orthonormal and f constant across its range."""
    J, z, f = torch.randn(3, 2), torch.randn(6, 2), Formula("quadratic", (1.0, 0.0, -1.0))
    x = z @ J.mT
    moved = stacked(f, 0.1)(z, lambda p: p @ J.mT) @ J.mT
    torch.testing.assert_close(moved, x + 0.1 * (f.w.detach() - x) @ (J @ J.mT))
    Q = torch.linalg.qr(J).Q
    w = Q @ torch.tensor([1.0, 2.0])
    stack = stacked(Formula("sine", tuple(w.tolist())), 0.1, 0.2)
    torch.testing.assert_close(stack(z, lambda p: p @ Q.mT) @ Q.mT, stack(z @ Q.mT))


def test_one_step_of_distillation_is_a_generator_step() -> None:
    """The gradient of ‖G(z) - layer(G(z))‖² is 2η times that of -f(G(z))."""
    G, f, z, eta = MLPGenerator(width=8), MLPCritic(width=8), torch.randn(7, 2), 0.37
    y = G(z)
    ours = torch.autograd.grad(regression_loss(y, stacked(f, eta)(y)), list(G.parameters()))
    theirs = torch.autograd.grad(-f(G(z)).mean(), list(G.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, 2 * eta * b, rtol=1e-10, atol=1e-14)


def test_layers_treat_samples_alone() -> None:
    x, stack = torch.randn(9, 2), stacked(MLPCritic(width=8), 0.5, 0.5)
    torch.testing.assert_close(stack(x), torch.cat([stack(part) for part in x.split(2)]))


def test_nothing_reaches_parameters_and_any_context_will_do() -> None:
    G, f, z = MLPGenerator(width=8), MLPCritic(width=8), torch.randn(4, 2, requires_grad=True)
    stack = stacked(f, 0.3, 0.2)
    x = stack(z, G)
    assert not x.requires_grad
    assert all(p.grad is None for p in (*G.parameters(), *f.parameters(), z))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(stack(z + 0, G), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(stack(z, G), x)


def test_training_on_leaves_layers_as_they_were() -> None:
    critic, x = MLPCritic(width=8), torch.randn(4, 2)
    stack = stacked(critic, 0.3)
    before = stack(x)
    with torch.no_grad():
        for p in critic.parameters():
            p += 1
    assert torch.equal(stack(x), before)
    stack.append(0.3)
    assert not torch.equal(stack(x), before)


def test_layers_keep_the_buffers_of_spectral_norm() -> None:
    critic, x = MLPCritic(width=8), torch.randn(4, 2)
    for layer in [m for m in critic.modules() if isinstance(m, nn.Linear)]:
        nn.utils.parametrizations.spectral_norm(layer)
    stack = stacked(critic.eval(), 1.0)
    assert stack.sizes
    before = stack(x)
    critic.train()
    for _ in range(5):
        critic(x)
    critic.eval()
    assert torch.equal(stack(x), before)


def test_a_constant_critic_moves_nothing() -> None:
    x = torch.randn(4, 2)
    assert torch.equal(stacked(Formula("linear", (0.0, 0.0)), 5.0)(x), x)


# -------------------------------------------------------------------------------------------------------------- runs


def grown(max_steps: int = 5, ckpt: Path | None = None, seed: int = 0, callback: Any = None, **arguments: Any) -> Any:
    """A small run in float64: by default one iteration of the base, and a layer every two."""
    torch.set_default_dtype(torch.float64)
    own = {"iterations_per_layer": 2, "step_size": 0.1, "lr_schedule": Schedule(), **arguments}
    module = build("GradientLayers", seed=seed, **own)
    L.seed_everything(0, verbose=False)
    callbacks = {"callbacks": [callback]} if callback else {}
    module.runner = fit(module, data(iterations_per_block=1), max_steps, ckpt, precision="64-true", **callbacks)
    return module


def test_the_base_is_trained_as_by_wgan_gp() -> None:
    layers = grown(4, base_iterations=4)
    plain = build("WGANGP", generator_batch_multiple=1, lr_schedule=Schedule())
    L.seed_everything(0, verbose=False)
    fit(plain, data(iterations_per_block=1), 4, precision="64-true")
    for role in ("generator", "critic"):
        assert not difference(tensors(getattr(layers, role)), tensors(getattr(plain, role)))
    assert len(layers.stack) == 0
    assert layers.pool_seed == -1


@pytest.mark.parametrize("space", ["data", "latent"])
def test_the_pool_is_where_the_stack_takes_its_latents(space: str) -> None:
    """It was moved by one layer at a time; the weights of the base are fixed, and its averages are they."""
    module = grown(7, space=space, step_size=Schedule(0.1, "linear"))
    assert module.stack.step_sizes == [pytest.approx(0.1 * (1 - t / 7)) for t in (2, 4, 6)]
    z = module.pool_latents()
    start = z if space == "latent" else module.generator.push(z)
    torch.testing.assert_close(module.moved(start), module.points)
    assert not torch.allclose(start, module.points)
    raw, ema = (module.generator.weighted(weights).state_dict() for weights in ("raw", "ema"))
    assert not difference(raw, ema)
    again = grown(3, space=space)
    assert not difference(raw, tensors(again.generator.network))


@pytest.mark.parametrize("space", ["data", "latent"])
def test_a_run_continues_in_the_middle_of_a_layer(space: str) -> None:
    whole = grown(9, space=space, iterations_per_layer=3)
    grown(9, space=space, iterations_per_layer=3, callback=StopHalfway(Path("a.ckpt"), 6))
    resumed = grown(9, Path("a.ckpt"), seed=1, space=space, iterations_per_layer=3)
    assert len(whole.stack) == 2
    assert not difference(tensors(whole), tensors(resumed))
    assert whole.stack.step_sizes == resumed.stack.step_sizes


def test_distillation_brings_the_generator_to_the_samples_of_the_stack() -> None:
    module = grown(3, distill_every=4, iterations_per_layer=1, step_size=1.0, pool_size=64)
    z, x = module.pool_latents(), module.points
    before = float((module.generator.push(z) - x).square().sum(1).mean())
    module.iteration, module.distillation_steps = 2, 150
    module.noise.seek(2)
    module.distill(32)
    after = float((module.generator.push(z) - x).square().sum(1).mean())
    assert after < 0.3 * before
    assert len(module.stack) == 0
    assert not difference(tensors(module.generator.network), tensors(module.generator.ema.network))


def test_a_distilled_run_begins_a_new_stack_on_a_new_pool() -> None:
    module = grown(6, distill_every=2, iterations_per_layer=1, distillation_steps=2)
    assert len(module.stack) == 1
    first = grown(2, distill_every=2, iterations_per_layer=1, distillation_steps=2)
    assert module.pool_seed != first.pool_seed


def test_a_sample_costs_one_evaluation_of_the_critic_per_layer() -> None:
    module, cost = grown(7), Cost()
    cost.watch({"critic": module.critic.network, "generator": module.generator.network})
    with cost.running():
        module.sample(8, rng=torch.Generator().manual_seed(0), weights="raw")
    assert cost.evaluations == {"generator": 8, "critic": 8 * 3}


# -------------------------------------------------------------------------------------------------- base and bad input


def test_a_base_is_copied_once(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    base = build("W1FE")
    fit(base, data(), 3).save_checkpoint(tmp_path / "base.ckpt")
    module = build("GradientLayers", seed=1, base="base.ckpt", base_iterations=0)
    runner = fit(module, data(iterations_per_block=1), 1)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    averaged = tensors(base.generator.ema.network)
    assert not difference(averaged, tensors(module.generator.network))
    assert not difference(averaged, tensors(module.generator.ema.network))
    assert not any(p.requires_grad for p in module.generator.parameters())
    Path("base.ckpt").unlink()
    again = GradientLayers.load_from_checkpoint("a.ckpt")
    assert not difference(tensors(module), tensors(again))
    resumed = build("GradientLayers", seed=2, base="base.ckpt", base_iterations=0)
    fit(resumed, data(), 2, tmp_path / "a.ckpt")
    assert len(resumed.stack) == 2
    assert not difference(averaged, tensors(resumed.generator.network))


def other_base(name: str, **arguments: Any) -> None:
    torch.set_default_dtype(torch.float32)
    fit(build(name, **arguments), data(), 2).save_checkpoint("base.ckpt")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, r"base\.ckpt: expected a checkpoint file, got no file"),
        (partial(other_base, "PCD"), r"model\.base: expected .* a generator and a critic, got one of PCD"),
        (partial(other_base, "GradientLayers"), r"expected a base without gradient layers, got 1 of them\. Continue"),
        (
            partial(other_base, "WGANGP", pair=(partial(MLPGenerator, width=12), MLPCritic)),
            r"model\.base: expected a generator with .* \(16, 2\), as model\.generator\.network has, got \(12, 2\)",
        ),
        (
            partial(other_base, "WGANGP", pair=(partial(MLPGenerator, width=16, depth=2, latent_std=0.5), MLPCritic)),
            r"expected a generator with latent_std 1\.0, as model\.generator\.network has, got 0\.5",
        ),
    ],
)
def test_bases_that_do_not_fit_are_rejected(make: Any, message: str) -> None:
    make()
    with pytest.raises(UserError, match=message):
        fit(build("GradientLayers", base="base.ckpt", base_iterations=0), data(), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "a.ckpt"}, r"model\.base_iterations: expected 0 with model\.base, .* got 1\. Omit one"),
        ({"step_size": 0.0}, r"GradientLayers\.step_size: expected a number above 0, got 0\.0"),
        ({"iterations_per_layer": 0}, r"GradientLayers\.iterations_per_layer: expected at least 1, got 0"),
        ({"space": "pixels"}, r"GradientLayers\.space: expected one of data, latent, got 'pixels'"),
    ],
)
def test_bad_arguments_are_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("GradientLayers", **arguments)


def test_a_critic_with_batch_norm_is_rejected() -> None:
    critic = MLPCritic(width=8)
    critic.norm = nn.BatchNorm1d(2)
    with pytest.raises(UserError, match=r"model\.critic\.network: expected no batch norm, got one at norm\. Use"):
        GradientLayers(Generator(MLPGenerator()), Critic(critic))


def test_a_checkpoint_without_its_layers_or_with_another_pool_is_rejected() -> None:
    module = grown(5)
    state = module.state_dict()
    for rows in (0, 1):
        lacking = state | {"stack.snapshots": state["stack.snapshots"][:rows]}
        message = rf"stack\.snapshots: expected 2 critics, one for each .* got {rows}\. The file is incomplete"
        with pytest.raises(UserError, match=message):
            build("GradientLayers").load_state_dict(lacking)
    with pytest.raises(UserError, match=r"snapshots: expected 2 critics, .* got 0"):
        build("GradientLayers").load_state_dict({k: v for k, v in state.items() if k != "stack.snapshots"})
    with pytest.raises(UserError, match=r"model\.pool_size: expected 20, the number of particles .* got 30\. Keep"):
        build("GradientLayers", pool_size=30).load_state_dict(state)
