"""Flow matching against closed forms: velocities between Gaussians, straight paths, pairs of least distance, costs."""

from functools import partial

import pytest
import torch
from problems import build, data, fit
from torch import Tensor, nn

from pt_flows.data import Toy2D, TwoDomains
from pt_flows.errors import UserError
from pt_flows.evaluation.subject import Subject
from pt_flows.functional.integrators import TABLEAUS, Integrator, flow_map
from pt_flows.functional.penalties import interpolate
from pt_flows.functional.transport import Gaussian, gaussian_map, moments
from pt_flows.methods import CFM
from pt_flows.methods.flows.cfm import Pairing
from pt_flows.nets import MLPFlow, MLPGenerator
from pt_flows.nets.velocity import Flow
from pt_flows.samplers import Direct, ODESolver, Sampler
from pt_flows.training.players import Generator

NOISE = Gaussian(torch.zeros(2), torch.eye(2))
TARGET = Gaussian(torch.tensor([2.0, 1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.7]]))


def double(law: Gaussian) -> Gaussian:
    return Gaussian(law.mean.double(), law.covariance.double())


def independent(x: Tensor, t: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t = x] of independent pairs: m + (t Σ - (1 - t) I) Σ_t⁻¹ (x - t m), Σ_t = t² Σ + (1 - t)² I."""
    m, sigma = (part.to(x) for part in TARGET)
    eye, s = torch.eye(2).to(x), t[:, None, None]
    slope = (s * sigma - (1 - s) * eye) @ torch.linalg.inv(s**2 * sigma + (1 - s) ** 2 * eye)
    return m + (slope @ (x - t[:, None] * m)[..., None])[..., 0]


def optimal(x: Tensor, t: Tensor) -> Tensor:
    """The same for optimal pairs x_1 = m + A x_0, A = Σ^½: m + (A - I) (t A + (1 - t) I)⁻¹ (x - t m)."""
    m, A = TARGET.mean.to(x), gaussian_map(double(NOISE), double(TARGET)).to(x)
    eye, s = torch.eye(2).to(x), t[:, None, None]
    slope = (A - eye) @ torch.linalg.inv(s * A + (1 - s) * eye)
    return m + (slope @ (x - t[:, None] * m)[..., None])[..., 0]


def affine(velocity: object, num_steps: int, integrator: Integrator) -> Gaussian:
    """The distribution of x(1) from N(0, I), where the map along the velocity is affine."""
    ends = flow_map(velocity, torch.cat([torch.zeros(1, 2), torch.eye(2)]).double(), num_steps, integrator)  # type: ignore[arg-type]
    A = (ends[1:] - ends[0]).T
    return Gaussian(ends[0], A @ A.T)


@pytest.mark.parametrize("velocity", [independent, optimal])
def test_the_exact_velocity_transports_to_the_mean_and_covariance(velocity: object) -> None:
    torch.testing.assert_close(affine(velocity, 100, "rk4"), double(TARGET), rtol=0, atol=1e-7)


def test_straight_paths_need_one_step() -> None:
    """Euler's step is exact along optimal pairs. Along independent pairs it puts everything on the mean."""
    torch.testing.assert_close(affine(optimal, 1, "euler"), double(TARGET))
    collapsed = Gaussian(double(TARGET).mean, torch.zeros(2, 2).double())
    torch.testing.assert_close(affine(independent, 1, "euler"), collapsed)


def test_the_regression_has_the_exact_velocity_as_its_minimum() -> None:
    """At fixed t, least squares of x_1 - x_0 on x_t finds the slope and offset, within five standard errors."""
    num, t = 200_000, 0.3
    x0 = torch.randn(num, 2, generator=torch.Generator().manual_seed(0)).double()
    x1 = Toy2D(target="gaussian").law.sample(num, torch.Generator().manual_seed(1)).double()
    x = interpolate(x1, x0, torch.full((num,), t).double())
    found = torch.linalg.lstsq(torch.cat([x, torch.ones(num, 1)], 1), x1 - x0).solution
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    wanted = independent(corners, torch.full((3,), t).double())
    assert (corners @ found[:2] + found[2] - wanted).abs().max() < 5 * 3 / num**0.5


class AffineFlow(Flow):
    """v(x, t) = W(t) x + b(t), with cubic polynomials of t."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = self.latent_shape = (2,)
        self.num_steps, self.integrator = 10, "rk4"
        self.layer = nn.Linear(3 * 4, 2, bias=False)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        powers = torch.stack([t**k for k in range(4)], 1)
        return self.layer((torch.cat([x, torch.ones_like(x[:, :1])], 1)[:, :, None] * powers[:, None]).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_a_trained_affine_flow_reaches_the_mean_and_covariance(pairing: Pairing) -> None:
    module = CFM(Generator(AffineFlow(), partial(torch.optim.Adam, lr=0.05), ema_decay=0.98), pairing)
    fit(module, Toy2D(target="gaussian", batch_size=128), max_steps=200)
    x = module.generator.sample(20_000, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(moments(x), TARGET, rtol=0, atol=0.1)


def test_optimal_pairs_are_the_shortest() -> None:
    """In one dimension they are those of equal ranks."""
    x1 = torch.rand(64, 1) + 3
    lengths = {}
    for pairing in ("independent", "optimal"):
        module = CFM(Generator(MLPFlow((1,), width=8)), pairing)
        module.generator.bind("generator")
        module.noise.seek(0)
        x0, paired = module.pairs(x1)
        torch.testing.assert_close(paired.sort(0).values, x1.sort(0).values)
        module.noise.seek(0)
        lengths[pairing] = module.iterate([(x1, torch.zeros(64))])["squared_length"].item()
        sorted_length = (x0.sort(0).values - x1.sort(0).values).square().mean().item()
    assert lengths["optimal"] == pytest.approx(sorted_length, rel=1e-5)
    assert lengths["optimal"] < lengths["independent"]


@pytest.mark.parametrize("integrator", TABLEAUS)
def test_costs_count_velocities(integrator: Integrator) -> None:
    module = build("CFM")
    own = module.generator.network
    chosen: list[tuple[Sampler, int]] = [
        (Direct(), own.num_steps * TABLEAUS[own.integrator].num_stages),
        (ODESolver(3, integrator), 3 * TABLEAUS[integrator].num_stages),
    ]
    for sampler, number in chosen:
        subject = Subject(module, "ema", sampler)
        assert sum(len(x) for x in subject.chunks(30, "test")) == 30
        assert subject.sampling_cost == {"sampling_generator": number}
    fit(module, data(), max_steps=2)
    assert module.cost.evaluations == {"generator": 2 * 16}


def test_the_solver_moves_the_latents_of_direct_draws() -> None:
    module = build("CFM")
    own, draw = module.generator.network, partial(torch.Generator().manual_seed, 3)
    direct, same, other = Direct(), ODESolver(own.num_steps, own.integrator), ODESolver(own.num_steps + 1)
    for sampler in (direct, same, other):
        sampler.prepare(module, "raw")
    x = direct.sample(600, rng=draw())
    torch.testing.assert_close(same.sample(600, rng=draw()), x)
    assert not torch.allclose(other.sample(600, rng=draw()), x)


def test_methods_without_a_velocity_are_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.generator\.network: expected a flow .*, got MLPGenerator\. Use"):
        CFM(Generator(MLPGenerator()))
    with pytest.raises(UserError, match=r"^sampler: expected a method whose generator is a flow .*, got WGANGP"):
        ODESolver().prepare(build("WGANGP"), "raw")


def test_flows_start_from_another_data_set() -> None:
    module = build("CFM")
    fit(module, TwoDomains(Toy2D(target="moons"), Toy2D(batch_size=16)), max_steps=2)  # type: ignore[arg-type]
    x = torch.randn(5, 2)
    torch.testing.assert_close(module.generator.push(x, "raw"), module.generator.network.eval()(x).detach())
