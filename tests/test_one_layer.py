"""One-layer games: closed forms of moments and discriminators, and what both games learn."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from problems import fit
from torch import Tensor, nn

from pt_flows.data import OneLayer, Toy2D
from pt_flows.errors import UserError
from pt_flows.functional.objectives import discriminator_loss
from pt_flows.functional.one_layer import (
    SLOPE,
    Activation,
    activate,
    best_discriminator,
    deactivate,
    matrix_of,
    moment_kernel,
    relative_error,
    score_form,
)
from pt_flows.loop.method import Method
from pt_flows.methods import JSFlow, MomentGAN
from pt_flows.methods.games.moment_gan import MOMENTS
from pt_flows.metrics import OneLayerError
from pt_flows.nets import MLPGenerator, OneLayerGenerator, QuadraticCritic
from pt_flows.training.players import Critic, Generator

SGD = partial(torch.optim.SGD, lr=0.3)
SEEDS = (3, 6)
"""Seeds of well-conditioned truths that are far from the start, with samples of ReLU above zero in every coordinate."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(method: Any, data: OneLayer) -> dict[str, float]:
    metric = OneLayerError()
    metric.prepare(data, 1)
    metric.update_map(partial(method.generator.push, weights="raw"))
    return metric.compute()


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_second_moments_of_unit_rows(activation: Any) -> None:
    """Against four hundred thousand samples."""
    rho = torch.tensor([0.6, -0.3, 1.0])
    u, w = normal(2, 400_000)
    for r in rho:
        v = r * u + (1 - r.square()).sqrt() * w
        sampled = (activate(u, activation) * activate(v, activation)).mean()
        torch.testing.assert_close(moment_kernel(r, activation), sampled, rtol=0.02, atol=2e-3)


def test_relu_hides_opposite_rows_and_leaky_relu_does_not() -> None:
    """The derivative of E φ φ at ρ = -1 is 0 for ReLU and the slope below zero of leaky ReLU."""
    slopes = {}
    for name in ("relu", "leaky_relu"):
        rho = torch.tensor(-1 + 1e-8, dtype=torch.float64, requires_grad=True)
        (slopes[name],) = torch.autograd.grad(moment_kernel(rho, name), rho)
    assert slopes["relu"] == pytest.approx(0.0, abs=1e-3)
    assert slopes["leaky_relu"] == pytest.approx(SLOPE, abs=1e-3)


@pytest.mark.parametrize("activation", ["identity", "tanh", "leaky_relu", "relu"])
def test_matrix_is_read_from_samples(activation: Activation) -> None:
    G = OneLayerGenerator(3, activation=activation, init_std=0.5)
    unit = torch.eye(3)
    torch.testing.assert_close(matrix_of(G(unit), G(-unit), activation), G.A, rtol=1e-4, atol=1e-4)
    if activation != "relu":
        y = normal(5, 3)
        torch.testing.assert_close(deactivate(activate(y, activation), activation), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["identity", "leaky_relu"])
def test_best_discriminator_is_stationary(activation: Activation) -> None:
    """The gradient at V*, b* vanishes over many samples, and the value is above that of no knowledge."""
    A, truth = normal(2, 2, seed=1), normal(2, 2, seed=2)
    critic = QuadraticCritic(2, activation)
    V, b = best_discriminator(A, truth)
    critic.load_state_dict({"V": V, "b": b})
    x, y = (activate(normal(400_000, 2, seed=s) @ m.T, activation) for s, m in ((3, truth), (4, A)))
    loss = discriminator_loss(critic(x), critic(y))
    for gradient in torch.autograd.grad(loss, list(critic.parameters())):
        assert gradient.abs().max() < 5e-3
    assert loss < math.log(4)
    V, b = best_discriminator(truth, truth)
    assert V.abs().max() < 1e-5
    assert abs(float(b)) < 1e-6


def test_discriminator_of_relu_looks_at_its_invertible_set_alone() -> None:
    critic = QuadraticCritic(2, "relu")
    torch.nn.init.ones_(critic.b)
    assert critic(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).tolist() == [0.0, 1.0]


def test_inner_problem_is_concave() -> None:
    """Along random lines in (V, b) the loss of the discriminator is convex."""
    critic, x, y = QuadraticCritic(2), normal(500, 2), normal(500, 2, seed=1)
    for seed in range(20):
        values = []
        start, direction = normal(5, seed=seed), normal(5, seed=seed + 100)
        for t in (-1.0, 0.0, 1.0):
            at = start + t * direction
            critic.load_state_dict({"V": at[:4].view(2, 2), "b": at[4]})
            values.append(float(discriminator_loss(critic(x), critic(y)).detach()))
        assert values[0] + values[2] - 2 * values[1] > -1e-4


def test_gradient_of_the_outer_problem_is_that_with_the_best_discriminator_fixed() -> None:
    """Envelope theorem: finite differences of the least loss against the pathwise gradient of the generator."""
    A, truth = torch.eye(2) + 0.3 * normal(2, 2, seed=1), normal(2, 2, seed=2)
    z, x = normal(200_000, 2, seed=3), normal(200_000, 2, seed=4) @ truth.T

    def least(A: Tensor) -> Tensor:
        V, b = best_discriminator(A, truth)
        critic = QuadraticCritic(2, "identity")
        critic.load_state_dict({"V": V.detach(), "b": b.detach()})
        return discriminator_loss(critic(x), critic(z @ A.T))

    A.requires_grad_(True)
    (slope,) = torch.autograd.grad(least(A), A)
    step = 0.05 * normal(2, 2, seed=5)
    with torch.no_grad():
        moved = float(least(A + step) - least(A - step)) / 2
    assert moved == pytest.approx(float((slope * step).sum()), rel=0.1)


def test_score_gives_the_gradient_without_a_derivative() -> None:
    """E yᵀ V y = tr (V A Aᵀ), whose gradient in A is (V + Vᵀ) A."""
    A, V, z = normal(2, 2, seed=1).requires_grad_(True), normal(2, 2, seed=2), normal(400_000, 2)
    x = activate(z @ A.T, "leaky_relu").detach()
    y = deactivate(x, "leaky_relu")
    (slope,) = torch.autograd.grad(score_form(A, x, torch.einsum("bi,ij,bj->b", y, V, y), "leaky_relu"), A)
    torch.testing.assert_close(slope, ((V + V.T) @ A).detach(), rtol=0.02, atol=0.03)


def test_relative_error_is_zero_at_the_truth_alone() -> None:
    A = normal(3, 3)
    assert relative_error(A @ A.T, A @ A.T) == pytest.approx(0.0, abs=1e-4)
    assert relative_error(2 * A @ A.T, A @ A.T) == pytest.approx(math.sqrt(3), rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ games


def moment_game(
    activation: Activation, num: int, seed: int, steps: int = 600, **options: Any
) -> tuple[MomentGAN, OneLayer]:
    L.seed_everything(seed, verbose=False)
    data = OneLayer(4, 2, activation, num, batch_size=options.pop("batch_size", None))
    method = MomentGAN(Generator(OneLayerGenerator(4, activation=activation), SGD), unit_rows=True, **options)
    fit(method, data, max_steps=steps)
    return method, data


def test_exact_critic_gives_half_the_squared_gap() -> None:
    """Value and gradient at the maximum are those of ½ ‖E_data x xᵀ - E_gen x xᵀ‖²."""
    L.seed_everything(0, verbose=False)
    data = OneLayer(3, num_samples=200)
    method = MomentGAN(Generator(OneLayerGenerator(3), SGD))
    A = method.generator.network.A.detach().clone().requires_grad_(True)
    fit(method, data, max_steps=1)
    method.noise.seek(0)
    z = method.generator.latents(200, method.noise)
    x = data.draw(0, 1)[0][0]
    y = activate(z @ A.T, "leaky_relu")
    gap = x.T @ x / 200 - y.T @ y / 200
    (slope,) = torch.autograd.grad(0.5 * gap.square().sum(), A)
    torch.testing.assert_close(method.generator.network.A.detach(), (A - 0.3 * slope).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_moment_game_recovers_the_matrix() -> None:
    """‖A Aᵀ - Σ*‖ falls with the number of samples, below its floor."""
    found = [error(*moment_game("tanh", num, seed=0)) for num in (500, 10_000)]
    assert found[1]["moment_error"] < min(0.1, found[0]["moment_error"])
    assert found[1]["moment_error"] < 2 * found[1]["moment_error_floor"]


@pytest.mark.long
@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_error_of_the_moment_game_falls_with_samples(activation: Activation) -> None:
    means = [
        sum(error(*moment_game(activation, num, s))["moment_error"] for s in range(4)) / 4
        for num in (500, 2000, 10_000)
    ]
    assert means[0] > means[1] > means[2]
    assert means[2] < 0.1


@pytest.mark.long
@pytest.mark.parametrize(("activation", "moments"), [("leaky_relu", "linear"), ("tanh", "rectified")])
def test_first_moments_learn_the_lengths_of_rows(activation: Activation, moments: Any) -> None:
    L.seed_everything(1, verbose=False)
    data = OneLayer(3, activation=activation, num_samples=20_000, unit_rows=False)
    start = OneLayerGenerator(3, activation=activation, init_std=0.5)
    method = MomentGAN(Generator(start, partial(torch.optim.SGD, lr=2.0)), moments=moments)
    fit(method, data, max_steps=600)
    lengths, true = method.generator.network.A.detach().norm(dim=1), data.truth.norm(dim=1)
    assert ((lengths / true - 1).abs() < (0.04 if moments == "linear" else 0.1)).all()


def test_linear_moments_of_an_odd_activation_tell_nothing() -> None:
    """The best critic between two far matrices is zero; a rectified one is not."""
    x, y = (
        activate(normal(400_000, 3, seed=s) @ m.T, "tanh") for s, m in ((0, normal(3, 3, seed=2)), (1, torch.eye(3)))
    )
    v = {name: float((MOMENTS[name](x).mean(0) - MOMENTS[name](y).mean(0)).norm()) for name in ("linear", "rectified")}
    assert v["linear"] < 0.01 < 0.05 < v["rectified"]


def test_rotated_latents_leave_the_game_unchanged() -> None:
    """A → A Q has the same A Aᵀ, so the same distribution and errors."""
    method, data = moment_game("leaky_relu", 500, 0, steps=20)
    before = error(method, data)
    Q, _ = torch.linalg.qr(normal(4, 4))
    with torch.no_grad():
        method.generator.network.A.copy_(method.generator.network.A @ Q)
    assert error(method, data) == pytest.approx(before, abs=1e-4)


def test_disturbance_moves_a_saddle_point() -> None:
    """At A = 0 and φ = identity every gradient vanishes; the random direction does not."""
    L.seed_everything(0, verbose=False)
    for noise, moved in ((0.0, False), (1.0, True)):
        network = OneLayerGenerator(2, activation="identity")
        torch.nn.init.zeros_(network.A)
        method = MomentGAN(Generator(network, SGD), gradient_noise=noise)
        fit(method, OneLayer(2, activation="identity", num_samples=100), max_steps=1)
        assert bool(method.generator.network.A.norm() > 0.1) is moved


def log_loss_game(activation: Activation, num: int, seed: int, steps: int) -> tuple[Method, OneLayer]:
    L.seed_everything(seed, verbose=False)
    data = OneLayer(2, activation=activation, num_samples=num, unit_rows=False)
    generator = Generator(OneLayerGenerator(2, activation=activation), SGD)
    critic = Critic(QuadraticCritic(2, activation), partial(torch.optim.SGD, lr=0.1), steps=20)
    method = JSFlow(generator, critic, step_size=1.0, persistence=1)
    fit(method, data, max_steps=steps)
    return method, data


def score_game(num: int, seed: int, steps: int) -> tuple[Any, OneLayer]:
    """The log-loss game of ReLU, whose generator follows the gradient by the score of its density."""
    L.seed_everything(seed, verbose=False)
    data = OneLayer(2, activation="relu", num_samples=num, unit_rows=False)
    G, D = OneLayerGenerator(2, activation="relu"), QuadraticCritic(2, "relu")
    generator, critic = SGD([G.A]), torch.optim.SGD(D.parameters(), lr=0.1)
    x = data.draw(0, 1)[0][0]
    for _ in range(steps):
        for _ in range(20):
            critic.zero_grad()
            discriminator_loss(D(x), D(G(torch.randn(num, 2)).detach())).backward()
            critic.step()
        generator.zero_grad()
        y = G(torch.randn(num, 2)).detach()
        score_form(G.A, y, math.log(2) - nn.functional.softplus(D(y)), "relu").backward()
        generator.step()
    return SimpleNamespace(generator=Generator(G, SGD)), data


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_log_loss_game_recovers_the_covariance(seed: int) -> None:
    """E falls from far away to that of the empirical covariance of the same samples."""
    assert error(*log_loss_game("leaky_relu", 500, seed, 1))["relative_error"] > 0.5
    for num, slack in ((500, 0.06), (5_000, 0.02)):
        end = error(*log_loss_game("leaky_relu", num, seed, 300))
        assert end["relative_error"] == pytest.approx(end["relative_error_floor"], abs=slack)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_truncated_discriminator_recovers_the_covariance_of_relu(seed: int) -> None:
    """By the gradient through samples, which is blind to b, and closer by the gradient of the score."""
    assert error(*log_loss_game("relu", 2_000, seed, 1))["relative_error"] > 0.5
    through_samples = error(*log_loss_game("relu", 20_000, seed, 600))["relative_error"]
    by_score = error(*score_game(20_000, seed, 600))["relative_error"]
    assert by_score < through_samples < 0.25
    assert by_score < 0.12


# -------------------------------------------------------------------------------------------------------- bad input


def test_wrong_use_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"model.generator.network: expected a network with a matrix A"):
        MomentGAN(Generator(MLPGenerator()), unit_rows=True)
    with pytest.raises(UserError, match=r"data.batch_size: expected at most num_samples, 10, got 11"):
        OneLayer(num_samples=10, batch_size=11)
    with pytest.raises(
        UserError, match=r"OneLayerError: expected data with a known matrix, such as OneLayer, got Toy2D"
    ):
        OneLayerError().prepare(Toy2D(), 10)
    with pytest.raises(UserError, match=r"num_samples: expected at least 2, got 1"):
        OneLayer(num_samples=1)
