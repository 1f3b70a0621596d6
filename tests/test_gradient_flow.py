"""The gradient flow of a trained critic, against closed forms, and samples that do not depend on their number."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import build, data, fit
from test_rep_gan import Function, LogOdds, method_of, rng
from torch import Tensor, nn

from pt_flows.errors import UserError
from pt_flows.evaluation.subject import Subject
from pt_flows.methods import ODEGAN, WGANGP
from pt_flows.nets import ResidualMLPGenerator, ResNetCritic, ResNetGenerator
from pt_flows.samplers import REPGAN, Chains, Direct, GradientFlow, Sampler, sample
from pt_flows.testing import check_sampler
from pt_flows.training.players import Critic, Generator


def game(G: Callable[[Tensor], Tensor], f: Callable[[Tensor], Tensor], latent_std: float = 1.0) -> WGANGP:
    """A method without a potential of its own, with known networks."""
    network = Function(G)
    network.latent_std = latent_std
    return WGANGP(Generator(network, ema_decay=None), Critic(LogOdds(f)))


def moved(method: Any, num: int = 50, **arguments: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Samples of the generator, where they end, and the diagnostics."""
    sampler = GradientFlow(**{"noise": 0.0, **arguments})
    start = sample(method, num, rng=rng(), weights="raw")
    return start, sample(method, num, rng=rng(), weights="raw", sampler=sampler), sampler.diagnostics()


def test_a_linear_critic_translates_every_sample() -> None:
    start, end, found = moved(game(lambda z: z + 1, lambda x: 3 * x + 7), num_steps=10, step_size=0.05, space="data")
    torch.testing.assert_close(end, start + 1.5)
    assert found == {"distance": pytest.approx(1.5)}


def test_a_quadratic_critic_contracts_by_a_factor_each_step() -> None:
    """f = -½ (x - 2)²: the distance to 2 after T steps is (1 - η)^T of the first one."""
    method = game(lambda z: z, lambda x: -0.5 * (x - 2).square())
    start, end, _ = moved(method, num_steps=7, step_size=0.2, space="data")
    torch.testing.assert_close(end - 2, 0.8**7 * (start - 2))


@pytest.mark.parametrize("latent_std", [1.0, 0.05])
def test_latent_steps_of_a_linear_generator_move_samples_by_its_squared_slope(latent_std: float) -> None:
    """x moves by η a² f'(x), a the slope in units of the latents' standard deviation, whatever those are."""
    method = game(lambda z: 2 / latent_std * z, lambda x: -0.5 * (x - 2).square(), latent_std)
    start, end, found = moved(method, num_steps=5, step_size=0.1)
    torch.testing.assert_close(end - 2, 0.6**5 * (start - 2))
    u = end / 2
    assert found["latent_norm"] == pytest.approx(float(u.norm(dim=1).mean()))


def test_noise_ends_at_the_density_of_the_critic() -> None:
    """x ← x - η x + √(2ηγ) ξ has the stationary variance γ / (1 - η/2), within 5 standard errors."""
    _, x, _ = moved(game(lambda z: z, lambda x: -0.5 * x.square()), 3_000, num_steps=40, step_size=0.2, noise=0.5,
                    space="data")  # fmt: skip
    variance = 0.5 / 0.9
    assert abs(float(x.mean())) < 5 * math.sqrt(variance / 3_000)
    assert float(x.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / 3_000))


def test_the_potential_of_a_flow_moves_its_samples() -> None:
    """A JS flow follows ½ softplus of its logit; W2-FE follows φ - e, so the critic alone is not enough."""
    start, end, _ = moved(method_of(lambda z: z, lambda x: x), num_steps=1, step_size=0.3, space="data")
    torch.testing.assert_close(end, start + 0.15 * start.sigmoid())
    method = build("W2FE")
    start, end, _ = moved(method, num_steps=1, step_size=0.3, space="data")
    y = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad((method.critic(y) - method.excess(y)).sum(), y)
    torch.testing.assert_close(end, start + 0.3 * slope)


def test_the_method_stays_as_it_was_and_batch_norm_is_in_evaluation_mode() -> None:
    pair = (lambda: ResidualMLPGenerator(width=8), lambda: build("W1FE").critic.network)
    for name in ("W1FE", "WGANGP"):
        method, found = build(name, pair=pair), []
        fit(method, data(), max_steps=2)
        before = [(p.clone(), p.grad) for p in method.parameters()]
        for is_training in (True, False):
            method.train(is_training)
            modes = [m.training for m in method.modules()]
            with torch.inference_mode():
                found.append(sample(method, 20, rng=rng(), sampler=GradientFlow(3)))
            assert [m.training for m in method.modules()] == modes
        assert torch.equal(*found)
        same = zip(before, method.parameters(), strict=True)
        assert all(torch.equal(p, now) and grad is now.grad for (p, grad), now in same)


def test_labels_stay() -> None:
    G, D = ResNetGenerator(width=4, latent_dim=8, num_classes=10), ResNetCritic(width=4, num_classes=10)
    method, seen = ODEGAN(G, D, 0.01), []
    D.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    for space in ("latent", "data"):
        x = sample(method, 2, torch.tensor([3, 7]), rng(), sampler=GradientFlow(2, space=space))
        assert x.shape == (2, *D.event_shape)
    assert seen == 4 * [[3, 7]]
    with pytest.raises(UserError, match="y: expected 1 labels, one for each sample, got 2"):
        sample(method, 1, torch.tensor([3, 7]), sampler=GradientFlow(2))


@pytest.mark.parametrize(
    ("space", "evaluations"), [("latent", {"generator": 5, "critic": 4}), ("data", {"generator": 1, "critic": 4})]
)
def test_costs(space: Any, evaluations: dict[str, float]) -> None:
    """Every network counts, also a critic without an average of its weights, and W2-FE's second potential."""
    for name, extra in (("WGANGP", {}), ("W2FE", {"excess": 4})):
        subject = Subject(build(name), "ema", GradientFlow(4, space=space))
        assert sum(map(len, subject.chunks(30, "here"))) == 30
        assert subject.evaluations == evaluations | extra
        assert subject.diagnostics["distance"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "GradientFlow.num_steps: expected at least 1, got 0"),
        ({"step_size": -1.0}, "GradientFlow.step_size: expected a number above 0, got -1.0"),
        ({"noise": -0.1}, "GradientFlow.noise: expected at least 0, got -0.1"),
        ({"space": "pixels"}, "GradientFlow.space: expected one of latent, data"),
    ],
)
def test_arguments_out_of_their_bounds(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GradientFlow(**arguments)


def test_bad_input() -> None:
    for name in ("MinibatchW2FE", "PCD"):
        wanted = f"expected a method with a generator and a critic for GradientFlow, got {name}"
        with pytest.raises(UserError, match=wanted):
            sample(build(name), 2, sampler=GradientFlow())
    steep = game(lambda z: z, lambda x: x.square().square())
    with pytest.raises(UserError, match=r"GradientFlow.step_size: expected samples that stay finite, got \d+ of 9 oth"):
        sample(steep, 9, weights="raw", sampler=GradientFlow(30, 1.0))


# ------------------------------------------------------------------------------------- samples by number and by ranks

SAMPLERS: list[Any] = [
    ("WGANGP", Direct, {}),
    ("PCD", Chains, {"num_sampling_steps": 3}),
    pytest.param("DAEBM", Chains, {}, marks=pytest.mark.slow),
    ("WGANGP", lambda: REPGAN(3, num_calibration=20), {}),
    ("WGANGP", lambda: REPGAN(3, proposal="independent", num_calibration=20), {}),
    ("W1FE", lambda: GradientFlow(2), {}),
]


@pytest.mark.filterwarnings("ignore:.*chains from noise were not at label 0", "ignore:REPGAN. the critic's log-odds")
@pytest.mark.parametrize(("name", "make", "arguments"), SAMPLERS)
def test_the_first_samples_are_the_same_for_every_number(
    name: str, make: Callable[[], Sampler], arguments: dict[str, Any]
) -> None:
    """Drawn at once or in chunks; also 600, which are more than a block."""
    method, real = build(name, **arguments), data()
    at_once = [sample(method, n, rng=rng(), sampler=make(), data=real) for n in (600, 500, 17, 3)]
    chunked = [torch.cat(list(Subject(method, "ema", make(), real).chunks(n, "here"))) for n in (600, 500, 17, 3)]
    for most, *fewer in (at_once, chunked):
        for x in fewer:
            torch.testing.assert_close(x, most[: len(x)], rtol=1e-4, atol=1e-4)


def test_labels_do_not_depend_on_the_number_of_samples() -> None:
    G = ResNetGenerator(width=4, latent_dim=8, num_classes=10)
    for table in (m for m in G.modules() if isinstance(m, nn.Embedding)):
        nn.init.normal_(table.weight)
    method = ODEGAN(G, ResNetCritic(width=4, num_classes=10), 0.01)
    few, more = sample(method, 3, rng=rng()), sample(method, 9, rng=rng())
    torch.testing.assert_close(few, more[:3], rtol=1e-4, atol=1e-4)


def test_direct_samples_are_those_of_one_draw_of_noise() -> None:
    """As long as they always were: latents of n samples are torch's own, if they are a multiple of 16 numbers."""
    method = build("WGANGP")
    for num in (16, 240, 500):
        z = torch.randn(num, *method.generator.network.latent_shape, generator=rng())
        assert torch.equal(sample(method, num, rng=rng()), method.generator.push(z))


@pytest.mark.filterwarnings("ignore:REPGAN. the critic's log-odds")
@pytest.mark.parametrize("make", [lambda: REPGAN(2, num_calibration=20), lambda: GradientFlow(2)])
def test_samplers_keep_the_contract(make: Callable[[], Sampler]) -> None:
    report = check_sampler(make, lambda: build("WGANGP"), data)
    assert report.passed, str(report)


@pytest.mark.filterwarnings("ignore:REPGAN. the critic's log-odds")
def test_diagnostics_are_means_over_ranks_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank weighs as much as its samples."""
    from pt_flows.evaluation import subject as subjects
    from pt_flows.training import distributed

    method, found = build("WGANGP"), []
    whole = Subject(method, "ema", REPGAN(2, 0.5, calibrate=False))
    list(whole.chunks(1_100, "here"))
    sums: list[Tensor] = []
    monkeypatch.setattr(subjects, "sum_over_ranks", lambda counts: sums.append(counts) or counts)
    for rank in range(4):  # the first one draws nothing
        monkeypatch.setattr(distributed, "world", lambda rank=rank: (rank, 4))
        found.append(len(list(Subject(method, "ema", REPGAN(2, 0.5, calibrate=False)).chunks(1_100, "here"))))
    assert found == [0, 1, 1, 1]
    evaluations, diagnostics = list(whole.evaluations.values()), list(whole.diagnostics.values())
    assert (sum(sums) / 1_100).tolist() == pytest.approx([*evaluations, *diagnostics])


def test_a_sampler_of_another_shape_is_refused() -> None:
    class Flat(Direct):
        """One number too few."""

        def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
            return super().sample(num, y, rng)[:, :1]

    wanted = r"Flat.sample: expected 5 samples, a tensor of shape \(5, 2\), got \(5, 1\)"
    with pytest.raises(UserError, match=wanted):
        sample(build("WGANGP"), 5, sampler=Flat())
    with pytest.raises(UserError, match=wanted):
        list(Subject(build("WGANGP"), sampler=Flat()).chunks(5, "here"))
