"""Optimal transport against closed forms, and flows along exact potentials against their closed forms."""

import math
from functools import partial
from itertools import pairwise, permutations

import pytest
import torch
from problems import ROOT
from torch import Tensor
from torch.nn.functional import softplus

from pt_flows.functional.pairs import all_pairs_penalty
from pt_flows.functional.potentials import (
    equality_penalty,
    euler_target,
    inequality_penalty,
    quadratic_cost,
    velocity,
)
from pt_flows.functional.transport import (
    EntropicPotential,
    Gaussian,
    GaussianPotential,
    assignment,
    bures_distance,
    entropic_potential,
    exact_wasserstein,
    gaussian_map,
    gaussian_wasserstein2,
    half_squared_distances,
    moments,
    sorting_map,
    symmetric_sqrt,
)


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)


def random_covariance(d: int) -> Tensor:
    a = torch.randn(d, d)
    return a @ a.T + 0.3 * torch.eye(d)


def random_gaussian(d: int = 2) -> Gaussian:
    return Gaussian(torch.randn(d), random_covariance(d))


def cloud(law: Gaussian, num: int = 50) -> Tensor:
    """Points whose mean and covariance are those of the Gaussian, to rounding."""
    y = torch.randn(num, len(law.mean))
    m, s = moments(y)
    return law.mean + (y - m) @ torch.linalg.inv(symmetric_sqrt(s)) @ symmetric_sqrt(law.covariance)


# ------------------------------------------------------------------------------------------------------------ distances


def test_gaussian_map_moves_one_covariance_to_the_other() -> None:
    law, target = random_gaussian(4), random_gaussian(4)
    A = gaussian_map(law, target)
    torch.testing.assert_close(A @ law.covariance @ A, target.covariance, rtol=0, atol=1e-11)
    torch.testing.assert_close(A, A.T, rtol=0, atol=1e-11)
    assert bool((torch.linalg.eigvalsh(A) > 0).all())


def test_gaussian_distance_is_the_cost_of_its_map() -> None:
    law, target = random_gaussian(3), random_gaussian(3)
    y = cloud(law)
    moved = y + velocity(GaussianPotential(law, target), y)
    cost = (moved - y).square().sum(1).mean().sqrt()
    torch.testing.assert_close(gaussian_wasserstein2(law, target), cost, rtol=1e-11, atol=0)
    back = gaussian_wasserstein2(target, law)
    torch.testing.assert_close(back, cost, rtol=1e-10, atol=0)


def test_bures_distance_of_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 0.25, 1.0]), torch.tensor([1.0, 9.0, 1.0])
    expected = (a.sqrt() - b.sqrt()).norm()
    torch.testing.assert_close(bures_distance(a.diag(), b.diag()), expected, rtol=1e-12, atol=0)


def test_samples_of_gaussians_come_near_the_closed_form() -> None:
    law, target = Gaussian(torch.zeros(2), torch.eye(2)), Gaussian(torch.tensor([3.0, 0.0]), 0.25 * torch.eye(2))
    x = torch.randn(1500, 2), target.mean + 0.5 * torch.randn(1500, 2)
    assert exact_wasserstein(*x, p=2) == pytest.approx(float(gaussian_wasserstein2(law, target)), rel=0.02)


def test_sorting_map_is_the_assignment_on_the_line() -> None:
    y, x = torch.randn(40), 3 + 2 * torch.randn(40)
    assert torch.equal(sorting_map(y, x), x[assignment(y[:, None], x[:, None])])
    cost = (sorting_map(y, x) - y).square().mean().sqrt()
    assert exact_wasserstein(y[:, None], x[:, None], p=2) == pytest.approx(float(cost), rel=1e-12)


def test_assignment_is_the_best_permutation() -> None:
    y, x = torch.randn(6, 3), torch.randn(6, 3)
    i = assignment(y, x)
    best = min(float((y - x[list(p)]).square().sum()) for p in permutations(range(6)))
    assert float((y - x[i]).square().sum()) == pytest.approx(best, rel=1e-12)
    assert sorted(i.tolist()) == list(range(6))


# ----------------------------------------------------------------------------------------------------- exact potentials


def line(m: float, s: float, b: float, t: float) -> tuple:
    """Potentials of N(m, s²) and N(b, t²) on the line: φ of the data's side, ψ of the particles' (statement T1)."""
    psi = lambda y: (0.5 * y**2 - 0.5 * (t / s) * (y - m) ** 2 - b * y).squeeze(1)
    phi = lambda x: (0.5 * x**2 - 0.5 * (s / t) * (x - b) ** 2 - m * x + m * b).squeeze(1)
    return phi, psi


def test_potentials_of_gaussians_on_the_line() -> None:
    m, s, b, t = 0.7, 1.3, -0.4, 0.6
    phi, psi = line(m, s, b, t)
    law, target = (Gaussian(torch.tensor([mean]), torch.tensor([[std**2]])) for mean, std in ((m, s), (b, t)))
    y, x = torch.randn(30, 1), torch.randn(30, 1)
    f = GaussianPotential(law, target)
    torch.testing.assert_close(velocity(f, y), -velocity(psi, y), rtol=0, atol=1e-12)
    T = y + velocity(f, y)
    torch.testing.assert_close(T, b + t / s * (y - m), rtol=0, atol=1e-12)
    torch.testing.assert_close(phi(T) + psi(y), quadratic_cost(T, y), rtol=0, atol=1e-12)
    assert bool((phi(x)[:, None] + psi(y) <= half_squared_distances(x, y) + 1e-12).all())
    cloud_x, cloud_y = cloud(target), cloud(law)
    w2 = gaussian_wasserstein2(law, target)
    torch.testing.assert_close(phi(cloud_x).mean() + psi(cloud_y).mean(), 0.5 * w2**2, rtol=1e-11, atol=0)


def test_penalties_vanish_at_exact_potentials_and_only_there() -> None:
    phi, psi = line(0.7, 1.3, -0.4, 0.6)
    x, y = torch.randn(20, 1), torch.randn(20, 1)
    cost = half_squared_distances(x, y)
    assert float(inequality_penalty(phi(x)[:, None], psi(y), cost)) < 1e-24
    x, y = x.requires_grad_(), y.requires_grad_()
    assert equality_penalty(phi(x), psi, x).item() < 1e-24
    assert equality_penalty(psi(y), phi, y).item() < 1e-24
    raised = lambda u: phi(u) + 0.2
    assert float(inequality_penalty(raised(x)[:, None], psi(y), cost)) > 1e-4
    assert equality_penalty(raised(x), psi, x).item() == pytest.approx(0.04, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_euler_steps_shrink_the_distance_by_their_factor(d: int) -> None:
    """W2(μ_n) = (1 - ε)^n W2(μ_0), with means and covariances of statements T2 and T3, to 1e-10."""
    law, target, h = random_gaussian(d), random_gaussian(d), 0.1
    y, start = cloud(law), gaussian_wasserstein2(law, target)
    mean, covariance = law
    for n in range(1, 21):
        now = moments(y)
        L = (1 - h) * torch.eye(d) + h * gaussian_map(now, target)
        mean, covariance = (1 - h) * mean + h * target.mean, L @ covariance @ L
        y = euler_target(y, velocity(GaussianPotential(now, target), y), h)
        after = moments(y)
        torch.testing.assert_close(after.mean, mean, rtol=0, atol=1e-10)
        torch.testing.assert_close(after.covariance, covariance, rtol=0, atol=1e-10)
        ratio = gaussian_wasserstein2(after, target) / start
        assert abs(float(ratio) - (1 - h) ** n) < 1e-10


def test_the_example_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/flows.md: twenty steps of 0.1 leave 0.9^20 of the distance."""
    torch.set_default_dtype(torch.float32)
    exec((ROOT / "docs/flows.md").read_text().split("```python\n")[1].split("```")[0], {})
    printed = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 20
    assert printed[-1] / printed[0] == pytest.approx(0.9**19, rel=1e-3)


def test_a_whole_step_lands_on_the_data() -> None:
    law, target = random_gaussian(), random_gaussian()
    y = cloud(law)
    after = moments(euler_target(y, velocity(GaussianPotential(law, target), y), 1.0))
    assert float(gaussian_wasserstein2(after, target)) < 1e-7


def test_paths_are_straight_and_steps_compose() -> None:
    """Y_n = Π(1-ε_i) Y_0 + (1 - Π(1-ε_i)) T(Y_0), T the map of the start (statement T5)."""
    law, target, left = random_gaussian(), random_gaussian(), 1.0
    start = cloud(law)
    T = start + velocity(GaussianPotential(law, target), start)
    y = start
    for h in (0.3, 0.05, 0.5, 0.2):
        y = euler_target(y, velocity(GaussianPotential(moments(y), target), y), h)
        left *= 1 - h
        torch.testing.assert_close(y, left * start + (1 - left) * T, rtol=0, atol=1e-10)


def test_short_steps_follow_the_differential_equation() -> None:
    """The covariance at t is L_t Σ L_t with L_t = e^{-t} I + (1 - e^{-t}) A, and W2 falls like e^{-t} (T4)."""
    law, target, t = random_gaussian(), random_gaussian(), 1.7
    y, n = cloud(law), 400
    h = 1 - math.exp(-t / n)  # the Euler step whose factor is that of time t / n
    for _ in range(n):
        y = euler_target(y, velocity(GaussianPotential(moments(y), target), y), h)
    L = math.exp(-t) * torch.eye(2) + (1 - math.exp(-t)) * gaussian_map(law, target)
    torch.testing.assert_close(moments(y).covariance, L @ law.covariance @ L, rtol=0, atol=1e-10)
    ratio = gaussian_wasserstein2(moments(y), target) / gaussian_wasserstein2(law, target)
    assert float(ratio) == pytest.approx(math.exp(-t), abs=1e-10)


def test_the_released_side_follows_the_logistic_map() -> None:
    """Along +∇φ the width follows σ ← σ (1 + ε - εσ/s), which collapses from σ = 2s with ε = 1 (notes 2.3)."""
    s, h, sigma = 0.5, 1.0, 1.0
    phi, _ = line(0.0, sigma, 0.0, s)
    y = cloud(Gaussian(torch.zeros(1), torch.eye(1)))
    after = moments(euler_target(y, velocity(phi, y), h))
    assert float(after.covariance) == pytest.approx((sigma * (1 + h - h * sigma / s)) ** 2, abs=1e-12)
    assert float(after.covariance) < 1e-12


def test_entropic_map_tends_to_the_assignment() -> None:
    y, x = torch.randn(30, 2), 2 + torch.randn(30, 2)
    exact = x[assignment(y, x)]
    errors = []
    for entropy in (0.1, 0.01, 0.001):
        f = entropic_potential(y, x, entropy, num_steps=3000)
        errors.append(float((y + velocity(f, y) - exact).norm(dim=1).mean()))
    assert errors[2] < 0.01
    assert errors[0] > errors[1] > errors[2]


def test_entropic_plan_has_its_margins() -> None:
    y, x = torch.randn(20, 2), torch.randn(20, 2)
    f = entropic_potential(y, x, 0.2, num_steps=500)
    plan = ((f.phi - half_squared_distances(y, x) - f(y)[:, None]) / 0.2).exp()
    torch.testing.assert_close(plan.sum(0), torch.ones(20), rtol=0, atol=1e-9)
    torch.testing.assert_close(plan.sum(1), torch.ones(20), rtol=0, atol=1e-9)


def test_c_transform_satisfies_the_inequality() -> None:
    """For any φ (statement T10); the soft one up to its entropy."""
    x, y, phi = torch.randn(15, 2), torch.randn(40, 2), torch.randn(15)
    psi = -EntropicPotential(x, phi, 1e-6)(y)
    assert float(inequality_penalty(phi[:, None], psi, half_squared_distances(x, y))) < 1e-10


# ------------------------------------------------------------------------------------------------ penalised dual and JS


@pytest.mark.parametrize("lam", [10.0, 100.0])
def test_the_penalised_dual_is_regularised_transport(lam: float) -> None:
    """H = 2λ(u + v - c)₊ has row and column means one; the value is above ½W2² by n/(4λ), E[u+v] by n/(2λ) (T8, T9)."""
    n = 6
    cost = half_squared_distances(torch.randn(n, 2), torch.randn(n, 2))
    uv = torch.zeros(2, n, requires_grad=True)
    optimizer = torch.optim.LBFGS([uv], max_iter=2000, tolerance_grad=1e-14, tolerance_change=1e-16,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -uv.mean(1).sum() + lam * inequality_penalty(uv[0][:, None], uv[1], cost)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    value = -float(closure().detach())
    H = 2 * lam * (uv[0][:, None] + uv[1] - cost).clamp(min=0).detach()
    torch.testing.assert_close(H.mean(0), torch.ones(n), rtol=0, atol=1e-5)
    torch.testing.assert_close(H.mean(1), torch.ones(n), rtol=0, atol=1e-5)
    if lam == 100:
        best = min(float(sum(cost[i, j] for i, j in enumerate(p))) / n for p in permutations(range(n)))
        assert value == pytest.approx(best + n / (4 * lam), abs=1e-4)
        assert float(uv.detach().mean(1).sum()) == pytest.approx(best + n / (2 * lam), abs=1e-4)


def test_js_flow_lowers_the_divergence() -> None:
    """Particles on the line under -½∇ ln(1 - D*), D* from the exact data density and a kernel estimate of theirs."""
    u, y, width, divergences = torch.linspace(-8, 8, 1601), torch.linspace(-3, 1, 400)[:, None], 0.3, []
    log_p = lambda v: -0.5 * (v - 1.5) ** 2 - 0.5 * math.log(2 * math.pi)

    def density(at: Tensor, particles: Tensor) -> Tensor:
        kernel = torch.exp(-0.5 * ((at[:, None] - particles) / width) ** 2)
        return kernel.mean(1) / (width * math.sqrt(2 * math.pi))

    def potential(v: Tensor, particles: Tensor) -> Tensor:
        v = v.squeeze(1)
        return 0.5 * softplus(log_p(v) - density(v, particles).log())

    for _ in range(60):
        p, q = log_p(u).exp(), density(u, y.squeeze(1))
        terms = [torch.xlogy(law, 2 * law / (p + q)).nan_to_num() for law in (p, q)]
        divergences.append(0.5 * float(torch.trapezoid(terms[0] + terms[1], u)))
        y = euler_target(y, velocity(partial(potential, particles=y.squeeze(1)), y), 0.3)
    assert all(b < a for a, b in pairwise(divergences))
    assert divergences[-1] < 0.25 * divergences[0]


@pytest.mark.parametrize("event_shape", [(2,), (1, 6, 6)])
def test_violation_of_all_pairs_in_blocks(event_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient in blocks are those of autograd on all pairs at once, also far from the origin."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, *event_shape, generator=rng) + 100 for n in (301, 150))
    phi = (torch.rand(301, generator=rng) * x[0].numel()).requires_grad_(True)
    psi = torch.rand(150, generator=rng).requires_grad_(True)
    at_once = all_pairs_penalty(phi, psi, x, y)
    assert at_once > 0
    expected = torch.autograd.grad(3 * at_once, (phi, psi))
    monkeypatch.setattr("pt_flows.functional.pairs.AT_ONCE", 0)
    in_blocks = all_pairs_penalty(phi, psi, x, y)
    torch.testing.assert_close(in_blocks, at_once, rtol=1e-6, atol=0.0)
    for own, other in zip(torch.autograd.grad(3 * in_blocks, (phi, psi)), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))


def test_eigenvectors_where_divide_and_conquer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(a: Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: The algorithm failed to converge")

    x = torch.randn(5, 12, dtype=torch.float64)
    covariance = x.T @ x  # of rank five
    expected = symmetric_sqrt(covariance)
    monkeypatch.setattr(torch.linalg, "eigh", fails)
    root = symmetric_sqrt(covariance)
    torch.testing.assert_close(root, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(root @ root, covariance, rtol=0, atol=1e-12)
