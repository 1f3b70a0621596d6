"""Samplers against exact distributions, and the noising schedule against its closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from pt_flows.functional.energies import DoubleWell, Funnel, GaussianMixture, Rosenbrock, score
from pt_flows.functional.gibbs import gibbs_labels, mgms
from pt_flows.functional.langevin import Chain, chain_at, independent_step, mala_step, propose, ula_step
from pt_flows.functional.noising import squared_cumulative

RINGS = squared_cumulative(6, 1e-2, 3e-1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(step, energy, x: Tensor, s: float, num: int) -> tuple[Tensor, float]:
    """Points after `num` steps, and the mean acceptance."""
    g, chain, total = rng(1), chain_at(energy, x), 0.0
    for _ in range(num):
        chain, acceptance = step(energy, chain, s, g)
        total += float(acceptance.mean())
    return chain.x, total / num


def diagonal(x: Tensor) -> Tensor:
    """N(0, diag(1, 0.25))."""
    return 0.5 * (x.square() / torch.tensor([1.0, 0.25])).sum(1)


def test_mala_keeps_a_gaussian_and_its_acceptance() -> None:
    """Statement 1: acceptance 0.86, the true second moments; the released ratio would give 0.80 on the first axis."""
    start = torch.randn(4000, 2, generator=rng()) * torch.tensor([1.0, 0.5])
    x, acceptance = run(mala_step, diagonal, start, 0.6, 300)
    assert acceptance == pytest.approx(0.86, abs=0.02)
    for moment, truth in zip(x.square().mean(0).tolist(), (1.0, 0.25), strict=True):
        assert abs(moment / truth - 1) < 5 * math.sqrt(2 / 4000)


def test_mala_on_an_asymmetric_mixture() -> None:
    """Statement 2: 0.75 N(-1, 0.5²) + 0.25 N(1, 0.5²); mean, second moment and fraction below zero within 5 errors."""
    log_w = torch.tensor([0.75, 0.25]).log()
    energy = lambda x: -(log_w - 0.5 * ((x - torch.tensor([-1.0, 1.0])) / 0.5).square()).logsumexp(1)
    g = rng()
    k = (torch.rand(8000, 1, generator=g) < 0.25).float()
    x, acceptance = run(mala_step, energy, 2 * k - 1 + 0.5 * torch.randn(8000, 1, generator=g), 0.3, 200)
    assert acceptance == pytest.approx(0.98, abs=0.01)
    below = 0.75 * 0.97725 + 0.25 * 0.02275
    for value, truth, std in (
        (x.mean(), -0.5, 1.0),
        (x.square().mean(), 1.25, 1.3),
        ((x < 0).float().mean(), below, 0.44),
    ):
        assert abs(float(value) - truth) < 5 * std / math.sqrt(8000)


def test_ula_has_its_known_bias() -> None:
    """On N(0, 1) the variance becomes 1 / (1 - s²/4); Metropolis' test removes the bias."""
    energy = lambda x: 0.5 * x.square().sum(1)
    start = torch.randn(20_000, 1, generator=rng())
    biased, _ = run(ula_step, energy, start, 0.6, 60)
    assert float(biased.var()) == pytest.approx(1 / (1 - 0.09), abs=5 * 1.1 * math.sqrt(2 / 20_000))
    exact, _ = run(mala_step, energy, start, 0.6, 60)
    assert float(exact.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 20_000))


def test_temperature_flattens_the_distribution() -> None:
    energy = lambda x: 0.5 * x.square().sum(1)
    g, chain = rng(), chain_at(energy, 2 * torch.randn(20_000, 1, generator=rng(1)))
    for _ in range(60):
        chain, _ = mala_step(energy, chain, 0.8, g, temperature=4.0)
    assert float(chain.x.var()) == pytest.approx(4.0, abs=4 * 5 * math.sqrt(2 / 20_000))


def test_two_forms_of_the_ratio_agree() -> None:
    """Statement 3: the form with the noise that leads back, and the one with both proposal densities."""
    torch.set_default_dtype(torch.float64)
    energy = lambda x: (x**4 / 4 - x.square()).sum(1) + 0.3 * x[:, 0] * x[:, 1]
    x, s = torch.randn(50, 2), torch.rand(50) + 0.2
    chain = chain_at(energy, x)
    moved, log_acceptance = propose(energy, chain, s, rng())

    def log_density(to: Tensor, start: Chain) -> Tensor:
        mean = start.x - 0.5 * s[:, None] ** 2 * start.gradient
        return -0.5 * ((to - mean) / s[:, None]).square().sum(1)

    ratio = chain.energy - moved.energy + log_density(x, moved) - log_density(moved.x, chain)
    torch.testing.assert_close(log_acceptance, ratio.clamp(max=0), rtol=0, atol=1e-10)


def test_acceptance_of_flat_energies_and_small_steps() -> None:
    """Statement 4."""
    x = torch.randn(100, 2)
    _, flat = mala_step(lambda x: 0 * x.sum(1), chain_at(lambda x: 0 * x.sum(1), x), 3.0, rng())
    assert torch.allclose(flat, torch.ones(100), atol=1e-5)
    _, small = mala_step(diagonal, chain_at(diagonal, x), 1e-3, rng())
    assert float(small.min()) > 0.999


def test_proposals_without_an_energy_are_refused() -> None:
    wall = lambda x: torch.where(x[:, 0] > 0, 0.5 * x.square().sum(1), torch.nan)
    chain, g = chain_at(wall, torch.full((500, 1), 0.1)), rng(3)
    for _ in range(20):
        chain, acceptance = mala_step(wall, chain, 1.0, g)
        assert bool((chain.x > 0).all())
        assert bool(acceptance.isfinite().all())
    assert float(chain.x.std()) > 0.3


def test_proposals_of_infinite_density_are_refused() -> None:
    """An energy of -inf is a fault of a network, and no chain could ever leave it."""
    pit = lambda x: torch.where(x[:, 0] > 0.2, -torch.inf, 0.5 * x.square().sum(1))
    chain, g = chain_at(pit, torch.zeros(500, 1)), rng(3)
    for _ in range(5):
        chain, acceptance = mala_step(pit, chain, 1.0, g)
    assert bool((chain.x <= 0.2).all())
    assert 0 < float(acceptance.mean()) < 1
    x, value, acceptance = independent_step(pit, chain.x, pit(chain.x), torch.ones(500, 1), g)
    assert torch.equal(x, chain.x)
    assert float(acceptance.max()) == 0
    assert bool(value.isfinite().all())


def test_a_chain_that_cannot_draw_a_label_is_lost() -> None:
    energy = lambda x, t: torch.where((t == 3) & (x[:, 0] > 0), torch.nan, 0.5 * x.square().sum(1))
    x, t = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, dtype=torch.int64)
    moved = mgms(energy, x, t, torch.full((4,), 1e-4), 2, rng())
    assert moved.energy.isnan().tolist() == [True, False]


def test_gibbs_draws_follow_the_softmax() -> None:
    """Statement 5: frequencies, and no trace of an added constant."""
    table = torch.tensor([0.3, -1.0, 2.0, 0.0])
    energy = lambda x, t: table[t] * x[:, 0]
    x = torch.full((100_000, 1), 1.3)
    draws = gibbs_labels(energy, x, 4, rng(), chunk=1000)
    expected = 100_000 * (-1.3 * table).softmax(0)
    chi_square = float(((draws.bincount(minlength=4) - expected).square() / expected).sum())
    assert chi_square < 16.27  # the 0.1 % point with three degrees of freedom
    assert torch.equal(draws, gibbs_labels(lambda x, t: energy(x, t) + 5, x, 4, rng(), chunk=1000))


def joint(m: float, v: float):
    """U(x, t) = -log N(x; a_t m, a_t² v + b_t²): data N(m, v) at every noise level."""
    a, b = RINGS
    mean, var = a * m, a.square() * v + b.square()
    return (lambda x, t: 0.5 * (x[:, 0] - mean[t]).square() / var[t] + 0.5 * var[t].log()), mean, var


def test_mgms_leaves_the_joint_distribution_invariant() -> None:
    """Statement 6: labels uniform, conditional means and variances exact; within five standard errors."""
    energy, mean, var = joint(0.7, 0.04)
    g, num = rng(), 2800
    t = torch.arange(num) % 7
    x = (mean[t] + var[t].sqrt() * torch.randn(num, generator=g))[:, None]
    shares, means, ratios = [], [], []
    for i in range(32):
        x, t, _, accepted, tried, *_ = mgms(energy, x, t, 0.8 * var.sqrt(), 6, g)
        if i >= 8:
            shares.append(7 * t.bincount(minlength=7) / num)
            means.append(torch.stack([x[t == k].mean() for k in range(7)]))
            ratios.append(torch.stack([x[t == k].var() for k in range(7)]) / var)
    one_draw = math.sqrt(7 / num)  # of a fraction; draws of different transitions only add precision
    assert bool(((torch.stack(shares).mean(0) - 1).abs() < 5 * one_draw / 3).all())
    assert bool(((torch.stack(means).mean(0) - mean).abs() < 5 * (var * 7 / num).sqrt() / 3).all())
    assert bool(((torch.stack(ratios).mean(0) - 1).abs() < 5 * math.sqrt(2 * 7 / num) / 3).all())
    assert float(tried.sum()) == 6 * num
    assert bool((accepted / tried > 0.5).all())


@pytest.mark.slow
def test_labels_carry_chains_between_modes() -> None:
    """Statement 7: modes ten standard deviations apart; half and half with jumps of the label, never without."""
    mixture = lambda a, b: GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]) * a, math.sqrt(0.01 * a * a + b * b))
    laws = [mixture(float(a), float(b)) for a, b in zip(*RINGS, strict=True)]
    widths = torch.tensor([law.std for law in laws])

    def energy(x: Tensor, t: Tensor) -> Tensor:
        return -torch.stack([law.log_prob(x) for law in laws], 1).gather(1, t[:, None]).squeeze(1)

    start = torch.tensor([-1.0, 0.0]) + 0.1 * torch.randn(2000, 2, generator=rng())
    g, x, t = rng(1), start, torch.zeros(2000, dtype=torch.int64)
    for _ in range(30):
        x, t, *_ = mgms(energy, x, t, 0.8 * widths, 5, g)
    right = (x[t == 0, 0] > 0).float()
    assert float(right.mean()) == pytest.approx(0.5, abs=max(0.06, 5 * 0.5 / math.sqrt(len(right))))
    frozen = lambda points: energy(points, torch.zeros(2000, dtype=torch.int64))
    chain = chain_at(frozen, start)
    for _ in range(150):
        chain, _ = mala_step(frozen, chain, 0.08, g)
    assert not bool((chain.x[:, 0] > 0).any())


def test_a_network_is_left_as_it_was() -> None:
    """Statement 13: no gradient reaches parameters and no mode changes, also inside inference mode and autocast."""
    net = nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, 1))
    table = nn.Embedding(3, 1)
    energy = lambda x, t: (net(x) + table(t)).squeeze(1)
    net[0].weight.requires_grad_(False)
    t = torch.arange(6) % 3
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        x, _, _, accepted, *_ = mgms(energy, torch.zeros(6, 2), t + 0, torch.full((3,), 0.5), 4, rng())
    again = mgms(energy, torch.zeros(6, 2), t, torch.full((3,), 0.5), 4, rng())
    assert torch.equal(x, again.x)
    assert x.dtype == accepted.dtype == torch.float32
    assert all(p.grad is None for p in (*net.parameters(), *table.parameters()))
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert net.training


def test_no_number_is_read_back_within_a_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each would wait for the device."""
    energy, _, var = joint(0.7, 0.04)
    x, t, s = torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64), var.sqrt()
    for name in ("item", "__bool__", "__float__", "__int__", "tolist", "cpu"):
        monkeypatch.setattr(Tensor, name, lambda *_: pytest.fail("a transition reads a number back"))
    mgms(energy, x, t, s, 3, rng())


LAWS = {
    "funnel": (Funnel(1.0), (-6.0, 6.0), (-60.0, 60.0), (1500, 6001)),
    "rosenbrock": (Rosenbrock(), (-5.0, 7.0), (-5.0, 50.0), (1501, 3001)),
    "double well": (DoubleWell(), (-3.0, 3.0), (-7.0, 7.0), (1001, 701)),
}


@pytest.mark.parametrize("name", LAWS)
def test_densities_are_normalised_and_drawn_exactly(name: str) -> None:
    """The density integrates to one; moments of samples are those of the density within 5 standard errors."""
    torch.set_default_dtype(torch.float64)
    law, x_range, y_range, (n, m) = LAWS[name]
    u, v = torch.linspace(*x_range, n), torch.linspace(*y_range, m)
    points = torch.cartesian_prod(u, v)
    p = law.log_prob(points).exp() * (u[1] - u[0]) * (v[1] - v[0])
    assert float(p.sum()) == pytest.approx(1.0, abs=2e-3)
    x = law.sample(200_000, rng())
    for f in (lambda x: x[:, 0], lambda x: x[:, 0].abs(), lambda x: x[:, 0].square(), lambda x: x[:, 1].abs().sqrt()):
        values, truth = f(x), float((p * f(points)).sum() / p.sum())
        assert abs(float(values.mean()) - truth) < 5 * float(values.std()) / math.sqrt(len(x)) + 1e-3


@pytest.mark.parametrize(("name", "step_size"), [("rosenbrock", 0.15), ("double well", 0.3), ("funnel", 0.3)])
def test_mala_leaves_distributions_invariant(name: str, step_size: float) -> None:
    """From exact samples; the funnel in its neck-free part, where the step is short enough."""
    law = LAWS[name][0]
    start = law.sample(6000, rng())
    x, acceptance = run(mala_step, lambda x: -law.log_prob(x), start, step_size, 100)
    assert 0.6 < acceptance < 1
    fresh = law.sample(200_000, rng(7))
    for f in (lambda x: x[:, 0], lambda x: x[:, 0].square(), lambda x: (x[:, 1] > 0.5).float()):
        ours, truth = (f(points) * ((points[:, 0] > -1) | (name != "funnel")) for points in (x, fresh))
        error = float(truth.std()) * math.sqrt(1 / 6000 + 1 / 200_000)
        assert abs(float(ours.mean() - truth.mean())) < 5 * error


def test_diffused_mixtures() -> None:
    mixture = GaussianMixture(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 0.3)
    later = mixture.diffused(0.6, 0.8)
    x = 0.6 * mixture.sample(100_000, rng()) + 0.8 * torch.randn(100_000, 2, generator=rng(1))
    y = later.sample(100_000, rng(2))
    for f in (lambda x: x, lambda x: x.square(), lambda x: x[:, :1] * x[:, 1:]):
        error = f(x).std(0) * math.sqrt(2 / 100_000)
        assert bool(((f(x).mean(0) - f(y).mean(0)).abs() < 5 * error).all())


def test_scores_are_slopes_of_the_density() -> None:
    torch.set_default_dtype(torch.float64)
    for law in (Funnel(), Rosenbrock(), DoubleWell(), GaussianMixture(torch.eye(2), 0.5)):
        x, h = torch.randn(10, 2), 1e-5
        for k in range(2):
            shift = h * torch.eye(2)[k]
            slope = (law.log_prob(x + shift) - law.log_prob(x - shift)) / (2 * h)
            torch.testing.assert_close(score(law.log_prob, x)[:, k], slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("levels", "low", "high", "a_last", "landmarks"),
    [
        (6, 1e-2, 3e-1, 0.25675, {1: 0.0100, 2: 0.0786, 3: 0.2180, 4: 0.4370, 5: 0.7156, 6: 0.9665}),
        (50, 2e-4, 2e-2, 0.23397, {1: 2e-4, 10: 0.0321, 20: 0.1706, 30: 0.4419, 40: 0.7748, 50: 0.97224}),
    ],
)
def test_schedule(levels: int, low: float, high: float, a_last: float, landmarks: dict[int, float]) -> None:
    """Statement 10, with the paper's settings for rings and for images."""
    torch.set_default_dtype(torch.float64)
    a, b = squared_cumulative(levels, low, high)
    assert len(a) == levels + 1
    assert (float(a[0]), float(b[0])) == (1.0, 0.0)
    assert float(a[-1]) == pytest.approx(a_last, abs=6e-6)
    for t, value in landmarks.items():
        assert float(b[t]) == pytest.approx(value, abs=6e-5)
    torch.testing.assert_close(a.square() + b.square(), torch.ones(levels + 1), rtol=0, atol=1e-12)


def test_diffused_data_have_the_schedules_moments() -> None:
    x, noise = torch.full((60_000, 2), 3.0), torch.randn(60_000, 2, generator=rng())
    t = torch.arange(60_000) % 7
    x_t = RINGS.diffuse(x, t, noise)
    assert torch.equal(x_t[t == 0], x[t == 0])
    for k in range(7):
        assert float(x_t[t == k].mean()) == pytest.approx(3 * float(RINGS.a[k]), abs=0.05)
        assert float(x_t[t == k].std()) == pytest.approx(float(RINGS.b[k]), abs=0.05)
