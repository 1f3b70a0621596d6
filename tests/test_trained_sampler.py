"""A trained checkpoint with a sampler is a simulator, and SimVAE distils it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from problems import ROOT, build, fit, simulated
from torch import Tensor

from pt_flows.cli.main import main
from pt_flows.data import Simulated
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.trained import TrainedSampler
from pt_flows.methods import SimVAE
from pt_flows.nets import MLPDecoder, MLPEncoder
from pt_flows.samplers import REPGAN, Direct, GradientFlow, Sampler
from pt_flows.training.noise import row_noise, starting_at
from pt_flows.training.players import Encoder, Generator

SAVED = ROOT / "tests/checkpoints/0.2"
GAN = str(SAVED / "wgan_gp.ckpt")
SHORT = {"num_steps": 3, "step_size": 0.05}


class OwnNoise(Direct):
    """Noise from elsewhere than `rng`."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Add it."""
        return super().sample(num, y, rng) + torch.randn(num, 2)


class Deaf(Direct):
    """Samples that do not depend on their latents."""

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Return zeros."""
        return 0 * super().sample(num, y, rng)


def starts(simulator: TrainedSampler, num: int = 4) -> Tensor:
    return torch.randn(num, len(simulator.names), generator=torch.Generator().manual_seed(1))


def test_the_first_draw_is_given_and_others_are_common() -> None:
    z = torch.randn(3, 4)
    noise = starting_at(z, 0)
    assert row_noise(noise, z.device) is noise
    torch.testing.assert_close(noise.normal(500, 2, 2), z.view(3, 2, 2))
    common = noise.normal(3, 5)
    assert torch.equal(common[0], common[2])
    assert not torch.equal(common, noise.normal(3, 5))
    assert [noise.uniform(2).shape, noise.normal(500, 1).shape] == [(2,), (3, 1)]
    torch.testing.assert_close(starting_at(z, 0).uniform(3, 4), torch.special.ndtr(z))


def test_without_a_sampler_it_is_the_generator() -> None:
    simulator = TrainedSampler(GAN)
    z, G = starts(simulator), simulator.method.generator
    torch.testing.assert_close(simulator(simulator.from_latents(z)), G.push(G.latent_std * z))
    torch.testing.assert_close(simulator.parameters(torch.special.ndtr(z)), z, rtol=0, atol=1e-3)


def test_a_flow_without_noise_moves_the_latents_that_are_given() -> None:
    simulator = TrainedSampler(GAN, GradientFlow(**SHORT, noise=0.0, space="data"))
    z, method = starts(simulator), simulator.method
    x = method.generator.push(method.generator.latent_std * z)
    for _ in range(3):
        x = x.detach().requires_grad_(True)
        x = x + 0.05 * torch.autograd.grad(method.critic.network(x).sum(), x)[0]
    torch.testing.assert_close(simulator(z), x.detach())


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("wgan_gp", GradientFlow(**SHORT, noise=0.5)),
        ("wgan_gp", REPGAN(**SHORT, calibrate=False)),
        pytest.param("da_ebm", None, marks=pytest.mark.slow),
        *((name, None) for name in ("pcd", "improved_cd", "gradient_layers", "iwae", "sim_vae")),
    ],
    ids=lambda it: it if isinstance(it, str) else str(it).partition("(")[0],
)
def test_a_sample_is_a_function_of_its_start(name: str, sampler: Sampler | None) -> None:
    """Alone and in a batch it is the same; another seed of the noise gives another function if there is noise."""
    checkpoint = str(SAVED / f"{name}.ckpt")
    simulator = TrainedSampler(checkpoint, sampler)
    z = starts(simulator)
    x = simulator(z)
    torch.testing.assert_close(torch.cat([simulator(z[:1]), simulator(z[1:])]), x, rtol=1e-3, atol=1e-3)
    other = TrainedSampler(checkpoint, sampler, noise_seed=1)(z)
    assert torch.allclose(other, x) == (name in ("gradient_layers", "sim_vae"))


def distilled(latents: int = 2, event_shape: tuple[int, ...] = (2,)) -> Any:
    networks = {"latent_dim": latents, "event_shape": event_shape, "width": 8}
    return SimVAE(Generator(MLPDecoder(**networks)), Encoder(MLPEncoder(**networks)), decoder_iterations=2)


def test_simvae_distils_it_from_pairs_that_are_drawn_once() -> None:
    simulator = TrainedSampler(GAN, GradientFlow(**SHORT))
    calls: list[int] = []
    drawn = simulator.drawn
    simulator.drawn = lambda z: calls.append(len(z)) or drawn(z)  # type: ignore[func-returns-value]
    data = Simulated(simulator, batch_size=8, num_pairs=20)
    fit(distilled(len(simulator.names)), data, max_steps=4)
    assert calls == [2, 20]
    x, _, z = data.draw(0, 3)
    assert x.shape == (3, 8, 2)
    assert len(z.flatten(0, 1).unique(dim=0)) <= 20
    torch.testing.assert_close(simulator(z[0]), x[0])
    whole = simulated(num_pairs=16)
    ours = whole.draw(5, 1)
    whole.rank, whole.num_ranks = 1, 2
    assert all(torch.equal(a, b[:, 8:]) for a, b in zip(whole.draw(5, 1), ours, strict=True))


def test_wrong_shapes_are_rejected() -> None:
    data = Simulated(TrainedSampler(GAN), batch_size=8)
    own = data.latent_shape[0]
    with pytest.raises(UserError, match=rf"expected latents of shape \({own},\), one for every parameter"):
        fit(distilled(own + 1), data, max_steps=2)
    with pytest.raises(UserError, match=r"expected samples of shape|expected .*\(2,\)"):
        fit(distilled(own, (3,)), data, max_steps=2)


def test_checkpoints_and_samplers_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(UserError, match=r"^nowhere.ckpt: expected a checkpoint, got no file"):
        TrainedSampler("nowhere.ckpt")
    with pytest.raises(UserError, match=r"^TrainedSampler.checkpoint: expected a checkpoint or a run folder.*got last"):
        TrainedSampler("last")
    for sampler in (GradientFlow(), REPGAN()):
        with pytest.raises(UserError, match=rf"a critic for {type(sampler).__name__}, got MinibatchW2FE"):
            TrainedSampler(str(SAVED / "minibatch_w2_fe.ckpt"), sampler)
    for sampler, why in ((OwnNoise(), "got others from OwnNoise"), (Deaf(), "got the same sample from two by Deaf")):
        with pytest.raises(UserError, match=f"functions of their starting points, {why}"):
            TrainedSampler(GAN, sampler)


def test_generators_with_classes_or_a_source_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(GAN)
    monkeypatch.setattr("pt_flows.evaluation.trained.finished", lambda _: run)
    run.method.generator.network.num_classes = 3  # type: ignore[union-attr]
    with pytest.raises(UserError, match="expected a generator from normal noise alone, got one with classes"):
        TrainedSampler(GAN)
    run.method.generator.moves_data = True  # type: ignore[union-attr]
    with pytest.raises(UserError, match="got one that moves data"):
        TrainedSampler(GAN)
    del (method := build("SimVAE")).generator
    run = run._replace(method=method)
    with pytest.raises(UserError, match="expected a method with a generator or an energy, got SimVAE"):
        TrainedSampler(GAN)


@pytest.mark.slow
def test_the_command_line_distils_and_inverts(tmp_path: Path) -> None:
    """The name of the class alone, a sampler with arguments, and the inverse of the checkpoint."""
    recipe = str(ROOT / "configs/simulators/trained_toy.yaml")
    few = ["--trainer.max_steps", "20", "--model.decoder_iterations", "10", "--data.num_pairs", "20"]
    few += ["--data.batch_size", "4", "--evaluation.metrics", "[]", "--trainer.accelerator", "cpu"]
    assert main(["fit", "--config", recipe, "--data.simulator.checkpoint", GAN, *few]) == 0
    (folder,) = Path("runs").glob("*/*")
    assert main(["sample", str(folder), "--n", "5", "--out", "x.npz"]) == 0
    assert main(["invert", str(folder), "--npz", "x.npz", "--out", "z.csv"]) == 0
    assert Path("z.csv").read_text().splitlines()[1] == "z1,z2"
