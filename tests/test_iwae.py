"""Importance-weighted autoencoders: the bound on models that have closed forms, likelihoods, data and mistakes."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import ROOT, Adam, build, data, fit, write_digits
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pt_flows.cli.main import main
from pt_flows.contracts import BoundsLikelihood, Encodes, MapsLatents, Samples
from pt_flows.data import MNIST, TwoDomains
from pt_flows.errors import UserError
from pt_flows.evaluation.engine import measured, prepare_metrics
from pt_flows.evaluation.evaluate import default_metrics, prepared
from pt_flows.evaluation.subject import Subject
from pt_flows.functional.importance import importance_bound
from pt_flows.methods import IWAE
from pt_flows.methods.latent import iwae as iwae_file
from pt_flows.metrics import LikelihoodBound
from pt_flows.nets import ConvDecoder, MLPDecoder, MLPEncoder, MLPGenerator
from pt_flows.nets.latent import SMALLEST_STD, GaussianEncoder, LikelihoodDecoder
from pt_flows.training.players import Encoder, Generator

DIM, LATENTS, STD = 3, 2, 0.5
SGD = partial(torch.optim.SGD, lr=1.0)


@pytest.fixture
def float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear_model(**arguments: Any) -> IWAE:
    """x = W z + b + STD ε with orthogonal columns of W, so that the posterior has independent coordinates."""
    torch.manual_seed(0)
    net = nn.Linear(LATENTS, DIM)
    nn.init.orthogonal_(net.weight)
    net.weight.data *= torch.tensor([1.0, 0.4])
    decoder = LikelihoodDecoder(net, (DIM,), LATENTS, "gaussian", STD, "global")
    encoder = GaussianEncoder(nn.Linear(DIM, 2 * LATENTS), (DIM,), LATENTS)
    return IWAE(Generator(decoder, SGD, ema_decay=None), Encoder(encoder, SGD, ema_decay=None), **arguments)


def parameters(module: IWAE) -> tuple[Tensor, Tensor, Tensor]:
    net: Any = module.decoder.net
    return net.weight, net.bias, module.decoder.log_std.exp()  # pyright: ignore[reportCallIssue]


def evidence(module: IWAE, x: Tensor) -> Tensor:
    """The exact log p(x)."""
    W, b, std = parameters(module)
    return MultivariateNormal(b, W @ W.T + std**2 * torch.eye(DIM)).log_prob(x)


def posterior(module: IWAE, x: Tensor) -> MultivariateNormal:
    """The exact p(z|x)."""
    W, b, std = parameters(module)
    precision = torch.eye(LATENTS) + W.T @ W / std**2
    return MultivariateNormal(torch.linalg.solve(precision, W.T @ (x - b).T / std**2).T, precision_matrix=precision)


def with_exact_posterior(module: IWAE) -> IWAE:
    W, b, std = (p.detach() for p in parameters(module))
    variance = 1 / (1 + (W * W).sum(0) / std**2)
    net: Any = module.encoder.network.net
    mean = variance[:, None] * W.T / std**2
    net.weight.data = torch.cat([mean, torch.zeros_like(mean)])
    net.bias.data = torch.cat([-mean @ b, (variance.sqrt() - SMALLEST_STD).expm1().log()])
    return module


def bound(module: IWAE, x: Tensor, num: int, seed: int = 0) -> Tensor:
    return module.likelihood_bound(x, num, torch.Generator().manual_seed(seed), "raw")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num", [1, 7])
def test_with_the_exact_posterior_the_bound_is_the_log_likelihood(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = with_exact_posterior(linear_model()), torch.randn(5, DIM)
    torch.testing.assert_close(bound(module, x, num), evidence(module, x), rtol=0, atol=1e-9)
    monkeypatch.setattr(iwae_file, "ROWS", 3)  # fewer than the importance samples of one x
    torch.testing.assert_close(bound(module, x, num), evidence(module, x), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_bound_rises_with_the_number_of_samples_to_the_log_likelihood() -> None:
    module, x = linear_model(), torch.randn(1, DIM).expand(1_500, DIM)
    exact = evidence(module, x[:1]).item()
    means, errors = [], []
    for num in (1, 4, 16, 128):
        values = bound(module, x, num)
        means.append(values.mean().item())
        errors.append(values.std().item() / math.sqrt(len(x)))
    gaps = [b - a for a, b in zip(means, means[1:], strict=False)]
    assert all(gap > 3 * error for gap, error in zip(gaps, errors, strict=False)), (means, errors)
    assert means[-1] < exact + 3 * errors[-1]
    assert exact - means[-1] < 0.02 < exact - means[0]


@pytest.mark.usefixtures("float64")
def test_with_one_sample_value_and_gradient_are_those_of_the_evidence_lower_bound() -> None:
    """Points ±√n e_i integrate quadratics of standard normal noise exactly, and log w is one."""
    module, x = linear_model(), torch.randn(4, DIM)
    points = math.sqrt(LATENTS) * torch.cat([torch.eye(LATENTS), -torch.eye(LATENTS)])
    log_p, log_ratio = module.log_weights(x, points.expand(4, -1, -1), module.decoder, module.encoder.network)

    mean, std = module.encoder.network(x).unbind(1)
    q = MultivariateNormal(mean, torch.diag_embed(std**2))
    closed = evidence(module, x) - kl_divergence(q, posterior(module, x))

    torch.testing.assert_close((log_p + log_ratio).mean(1), closed, rtol=0, atol=1e-10)
    trained = [*module.decoder.parameters(), *module.encoder.network.parameters()]
    ours = torch.autograd.grad((log_p + log_ratio).mean(), trained)
    for got, wanted in zip(ours, torch.autograd.grad(closed.mean(), trained), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_an_iteration_is_one_step_of_both_players_up_the_bound() -> None:
    module, x = linear_model(num_importance_samples=3), torch.randn(4, DIM)
    module.configure_optimizers()
    trained = [*module.decoder.parameters(), *module.encoder.network.parameters()]
    before = [p.detach().clone() for p in trained]
    module.noise.seek(0)
    xi = module.noise.normal(4, 3, LATENTS)
    value = importance_bound(sum(module.log_weights(x, xi, module.decoder, module.encoder.network))).mean()
    slopes = torch.autograd.grad(value, trained)

    module.noise.seek(0)
    terms = module.iterate([(x, torch.zeros(4, dtype=torch.int64))])

    assert terms["bound"].item() == pytest.approx(value.item())
    assert 1 < terms["effective_size"].item() < 3
    for now, old, slope in zip(trained, before, slopes, strict=True):
        torch.testing.assert_close(now, old + slope)


def test_the_bound_is_float32_under_autocast() -> None:
    module = build("IWAE", images=True)
    x, xi = torch.rand(2, 3, 32, 32), torch.randn(2, 3, 3)
    exact = sum(module.log_weights(x, xi, module.decoder, module.encoder.network))
    with torch.autocast("cpu", torch.bfloat16):
        assert module.decoder(xi[:, 0]).dtype == torch.bfloat16
        log_w = sum(module.log_weights(x, xi, module.decoder, module.encoder.network))
    assert log_w.dtype == torch.float32
    torch.testing.assert_close(log_w, exact, rtol=0.02, atol=0)


@pytest.mark.slow
def test_more_importance_samples_train_a_better_model() -> None:
    """The claim of the paper, on the ring of eight, whose latents have posteriors that are not Gaussian."""
    found = []
    for num in (1, 8):
        module = build("IWAE", seed=0, num_importance_samples=num)
        fit(module, data(batch_size=128), max_steps=800)
        found.append(measured_bound(module))
    assert found[1] > found[0] + 0.05, found


def measured_bound(module: Any, metric: LikelihoodBound | None = None) -> float:
    metric = metric or LikelihoodBound()
    prepare_metrics([metric], data(), 10, torch.device("cpu"))
    return measured([metric], [], module)[metric.key]


# --------------------------------------------------------------------------------------------- likelihoods and samples


def test_bernoulli_pixels_are_minus_one_and_one() -> None:
    decoder = MLPDecoder(event_shape=(1, 2, 2), likelihood="bernoulli", width=8)
    z = torch.randn(20_000, 2) * 0 + torch.randn(2)
    p = decoder.net(z[:1]).sigmoid()
    torch.testing.assert_close(decoder(z[:1]), 2 * p - 1)
    x = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]]]])
    wanted = torch.where(x == 1, p, 1 - p).log().sum().reshape(1)
    torch.testing.assert_close(decoder(z[:1], x), wanted)
    drawn = decoder.draw(decoder(z), torch.randn(20_000, 1, 2, 2))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), decoder(z[:1])[0], rtol=0, atol=0.03)
    assert decoder.supports(x).all()
    assert not decoder.supports(0.9 * x).any()


@pytest.mark.parametrize(("kind", "shape"), [(None, ()), ("global", ()), ("per_output", (3, 8, 8))])
def test_gaussian_decoders_have_the_standard_deviations_they_say(kind: Any, shape: tuple[int, ...]) -> None:
    decoder = ConvDecoder(image_size=8, width=4, std=0.2, learned_std=kind)
    assert decoder.log_std.shape == shape
    assert [name for name, _ in decoder.named_parameters() if "std" in name] == (["log_std"] if kind else [])
    z, x = torch.randn(2, 32), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(decoder(z, x), Normal(decoder(z), 0.2).log_prob(x).flatten(1).sum(1))
    torch.testing.assert_close(decoder.draw(decoder(z), x), decoder(z) + 0.2 * x)


@pytest.mark.parametrize("denoise", [True, False])
def test_samples_are_means_or_draws(denoise: bool) -> None:
    module = build("IWAE", denoise=denoise)
    assert isinstance(module, MapsLatents)
    assert isinstance(module, Samples)
    means = module.generator.sample(500, rng=torch.Generator().manual_seed(0))
    noise = module.sample(500, rng=torch.Generator().manual_seed(0)) - means
    assert noise.std().item() == pytest.approx(0.0 if denoise else 0.1, rel=0.05)


def test_codes_are_means_of_the_encoder() -> None:
    module, x = build("IWAE"), torch.randn(1_001, 2)
    assert isinstance(module, Encodes)
    codes = module.encode(x, "raw")
    assert not codes.requires_grad
    torch.testing.assert_close(codes, module.encoder.network(x)[:, 0].detach())


# ------------------------------------------------------------------------------------------------------------- metric


def test_the_metric_is_the_mean_bound_and_its_name_tells_how_it_was_measured() -> None:
    module, metric = build("IWAE"), LikelihoodBound(num_importance_samples=5, num_real=250)
    assert isinstance(module, BoundsLikelihood)
    found = measured_bound(module, metric)
    assert metric.key == "log_likelihood_iw5_250_test"
    assert metric.directions() == {metric.key: "higher"}
    assert found == measured_bound(module, LikelihoodBound(5, 250))  # fixed noise
    x = data().reference("test", 250)
    again = module.likelihood_bound(x, 5, torch.Generator().manual_seed(1))
    assert found == pytest.approx(again.mean().item(), abs=5 * again.std().item() / math.sqrt(250))
    assert measured([metric], [], build("WGANGP")) == {}
    metric.use_split("train")
    assert metric.key == "log_likelihood_iw5_250_train"


def test_runs_and_evaluate_measure_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    metric = "[{class_path: LikelihoodBound, init_args: {num_importance_samples: 3, num_real: 50}}]"
    flags = [
        "--trainer.max_steps",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--data.batch_size",
        "8",
        "--run.wandb",
        "disabled",
    ]
    flags += ["--evaluation.metrics", metric, "--evaluation.num_samples", "8", "--pictures.num_images", "1"]
    flags += ["--model.generator.network.width", "8", "--model.encoder.network.width", "8"]
    assert main(["fit", "--config", str(ROOT / "configs/toy2d/iwae.yaml"), *flags]) == 0
    (folder,) = Path("runs").glob("*/*")
    assert "eval/log_likelihood_iw3_50_test" in (folder / "metrics.csv").read_text()
    capsys.readouterr()
    flags = ["--metrics", "LikelihoodBound", "--metrics.num_importance_samples", "2", "--n", "8"]
    assert main(["evaluate", str(folder), *flags]) == 0
    assert "log_likelihood_iw2_1k_test" in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "split"), [(None, "test"), ("train", "train")])
def test_evaluate_bounds_the_likelihood_of_test_data_unless_asked_otherwise(asked: Any, split: str) -> None:
    (metric,) = [m for m in default_metrics(Subject(build("IWAE")), data(), "test") if isinstance(m, LikelihoodBound)]
    prepared([metric], data(), 10, asked, "train", torch.device("cpu"))
    assert metric.key == f"log_likelihood_iw500_1k_{split}"
    assert not any(isinstance(m, LikelihoodBound) for m in default_metrics(Subject(build("WGANGP")), data(), "test"))


# --------------------------------------------------------------------------------------------------------------- data


def test_binarised_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    write_digits(Path("digits"))
    monkeypatch.setenv("PT_FLOWS_DATA", "digits")
    grey, still, dynamic = (MNIST(image_size=28, batch_size=40, binarise=b) for b in (None, "threshold", "dynamic"))
    for split in ("train", "test"):
        images = grey.reference(split)
        assert torch.equal(still.reference(split), torch.where(images > 127, 255, 0).to(torch.uint8))
        drawn = dynamic.reference(split)
        assert set(drawn.unique().tolist()) == {0, 255}
        assert torch.equal(drawn, dynamic.reference(split))
        assert (drawn.double() - images).mean().abs() < 4 * 127.5 / math.sqrt(images.numel())
        assert not torch.equal(drawn, still.reference(split))
        assert torch.equal((dynamic.labelled(split)[0] > 0).sum(), (dynamic.arrays(split)[0] * 0 + drawn > 0).sum())
    assert set(dynamic.held_out(20)[0].unique().tolist()) == {-1.0, 1.0}
    (x, y, _), (again, *_), (later, *_) = (dynamic.draw(i, 1) for i in (0, 0, 1))
    assert torch.equal(x, again)
    order = [images[0].argsort() for images in (y, dynamic.draw(1, 1)[1])]
    assert x.shape == (1, 40, 1, 28, 28)
    assert not torch.equal(x[0, order[0]], later[0, order[1]])
    assert set(dynamic.sample(3, torch.Generator()).unique().tolist()) == {-1.0, 1.0}


# ----------------------------------------------------------------------------------------------------------- mistakes


def autoencoder(decoder: Any = None, encoder: Any = None, ema: float | None = 0.9, **arguments: Any) -> IWAE:
    pair = decoder or MLPDecoder(width=8), encoder or MLPEncoder(width=8)
    return IWAE(Generator(pair[0], Adam, ema_decay=0.9), Encoder(pair[1], Adam, ema_decay=ema), **arguments)


MISTAKES: list[tuple[Any, str]] = [
    (lambda: autoencoder(num_importance_samples=0), r"IWAE\.num_importance_samples: expected at least 1, got 0"),
    (lambda: autoencoder(MLPGenerator()), "expected a decoder with a likelihood, such as MLPDecoder, got MLPGenerator"),
    (lambda: autoencoder(MLPDecoder(3)), r"model\.encoder\.network: expected latents of shape \(3,\), .* got \(2,\)"),
    (lambda: autoencoder(MLPDecoder(event_shape=(3,))), r"model\.encoder\.network: expected samples of shape \(3,\)"),
    (lambda: autoencoder(ema=None), r"model\.encoder\.ema_decay: expected an average .* got ema_decay None beside 0.9"),
    (lambda: MLPDecoder(likelihood="bernoulli", learned_std="global"), "learned_std: expected none with a bernoulli"),
    (lambda: MLPDecoder(std=0.0), r"MLPDecoder\.std: expected a number above 0, got 0\.0"),
    (lambda: LikelihoodBound(num_importance_samples=0), "num_importance_samples: expected at least 1, got 0"),
    (lambda: fit(autoencoder(MLPDecoder(likelihood="bernoulli")), data(), 1), "data: expected .* -1 and 1 .* got "),
    (lambda: fit(autoencoder(), TwoDomains(data(), data()), 1), r"data\.source: expected none, as latents of IWAE"),
    (
        lambda: fit(autoencoder(encoder=MLPGenerator()), data(), 1),
        r"MLPGenerator: expected .* \(16, 2, 2\), got ",
    ),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES)
def test_mistakes_are_sentences(mistake: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mistake()
