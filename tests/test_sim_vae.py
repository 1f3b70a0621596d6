"""SimVAE: both stages, its claims, its metrics, and the command that inverts given observations."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from problems import ROOT, bend, build, data, fit, simulated, weights
from torch import Tensor, nn

from pt_flows.cli.main import main
from pt_flows.contracts import EncoderNet, GeneratorNet
from pt_flows.data import Simulated
from pt_flows.data.simulators import BoxPlot, FunctionSimulator, RLCCircuit, Simulator
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.loop.method import Method
from pt_flows.methods import SimVAE
from pt_flows.metrics import InvariantR2, MutualInformation, SimulationError
from pt_flows.metrics.inverse import r_squared
from pt_flows.nets import MLPDecoder, MLPEncoder, MLPGenerator
from pt_flows.training.players import Encoder, Generator
from pt_flows.training.schedules import Schedule

Adam = partial(torch.optim.Adam, lr=1e-3)
Fast = partial(torch.optim.Adam, lr=2e-2)
Plain = partial(torch.optim.SGD, lr=1.0)
COSINE = Schedule(decay="cosine")


class LinearDecoder(GeneratorNet):
    """A matrix."""

    def __init__(self, num_latents: int, num_outputs: int) -> None:
        super().__init__()
        self.latent_shape, self.event_shape = (num_latents,), (num_outputs,)
        self.net = nn.Linear(num_latents, num_outputs, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class LinearEncoder(EncoderNet):
    """A matrix, and no noise to speak of."""

    def __init__(self, num_latents: int, num_outputs: int) -> None:
        super().__init__()
        self.latent_shape, self.event_shape = (num_latents,), (num_outputs,)
        self.net = nn.Linear(num_outputs, num_latents, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.net(x)
        return torch.stack([mean, torch.full_like(mean, 1e-3)], 1)


class Latents(Simulator):
    """A simulator whose parameters are the latents."""

    def __init__(self, num: int, function: Any) -> None:
        self.names, self.function = tuple(f"z{i}" for i in range(num)), function

    def parameters(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9)).float()

    def simulate(self, parameters: Tensor) -> Tensor:
        return self.function(parameters)


def networks(decoder: GeneratorNet, encoder: EncoderNet, optimizer: Any = Adam) -> tuple[Generator, Encoder]:
    return (
        Generator(decoder, optimizer, COSINE, ema_decay=None),
        Encoder(encoder, optimizer, COSINE, ema_decay=None),
    )


def inferred(method: SimVAE, source: Simulated, num: int = 1_000) -> tuple[Tensor, Tensor]:
    """True and inferred latents of test observations."""
    x, z = source.pairs("test", num)
    return z, method.encode(x, "raw")


def test_a_linear_simulator_is_inverted() -> None:
    A = torch.linalg.qr(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))[0]
    source = Simulated(Latents(3, lambda p: p @ A.T), batch_size=64, iterations_per_block=50)
    players = networks(LinearDecoder(3, 5), LinearEncoder(3, 5), Plain)
    method = SimVAE(*players, decoder_iterations=100, latent_noise=False, latent_bound=1e3)
    fit(method, source, max_steps=200)
    torch.testing.assert_close(method.generator.network.net.weight.detach(), A, rtol=0, atol=1e-3)
    z, found = inferred(method, source)
    assert all(r_squared(a, b) > 0.999 for a, b in zip(z.T, found.T, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "mean"), [("observation", 1.0), ("latent", 0.0)])
def test_of_two_branches_one_is_found_and_regression_finds_their_mean(target: Any, mean: float) -> None:
    """Observations |z|: the encoder through the decoder finds z or -z, the regression of z finds 0."""
    torch.manual_seed(0)
    source = Simulated(Latents(1, lambda p: p.abs()), batch_size=64, iterations_per_block=50)
    shapes: Any = {"event_shape": (1,), "latent_dim": 1, "width": 16}
    players = networks(MLPDecoder(**shapes), MLPEncoder(**shapes), Fast)
    method = SimVAE(*players, decoder_iterations=250, encoder_target=target)
    fit(method, source, max_steps=400)
    z, found = inferred(method, source)
    inner = (z.abs() > 0.5) & (z.abs() < 2)
    assert float((found.abs() / z.abs())[inner].mean()) == pytest.approx(mean, abs=0.15)


# ---------------------------------------------------------------------------------------------------------- stages


def test_stages_are_isolated_and_the_simulator_sees_no_gradients() -> None:
    """A NumPy function simulates; stage one moves the decoder alone, stage two the encoder alone."""
    seen: list[bool] = []

    def simulate(p: Tensor) -> np.ndarray:
        seen.append(torch.is_grad_enabled() or p.requires_grad)
        return np.round(np.asarray(p), 1)

    source = Simulated(FunctionSimulator(simulate, {"a": (0.0, 1.0), "b": (0.0, 1.0)}), batch_size=8)
    method = build("SimVAE", decoder_iterations=3)
    decoder, encoder = method.generator.network, method.encoder.network
    moments: list[list[Tensor]] = []
    copy = lambda net: [p.detach().clone() for p in net.parameters()]
    iterate = method.iterate

    def watched(minibatches: Any) -> Any:
        moments.append(copy(decoder) + copy(encoder))
        return iterate(minibatches)

    method.iterate = watched
    fit(method, source, max_steps=6)
    moments.append(copy(decoder) + copy(encoder))
    num = len(copy(decoder))
    for t, (before, after) in enumerate(zip(moments, moments[1:], strict=False)):
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert (any(moved[:num]), any(moved[num:])) == (t < 3, t >= 3)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("stop", [2, 4, 6], ids=["first", "between", "second"])
def test_resume_in_every_stage_is_bit_for_bit(stop: int, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"decoder_iterations": 4, "lr_schedule": COSINE}
    whole, half, resumed = (build("SimVAE", **arguments) for _ in range(3))
    fit(whole, simulated(), max_steps=8)

    def stopping(minibatches: Any) -> Any:
        if half.iteration == stop:
            half.trainer.save_checkpoint(tmp_path / "half.ckpt")
        return iterate(minibatches)

    iterate = half.iterate
    half.iterate = stopping
    fit(half, simulated(), max_steps=8)
    fit(resumed, simulated(), max_steps=8, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_rates_decay_over_each_stage() -> None:
    method = build("SimVAE", decoder_iterations=2, lr_schedule=Schedule(decay="linear"))
    seen = []
    iterate = method.iterate

    def watched(minibatches: Any) -> Any:
        terms = iterate(minibatches)
        player = method.generator if method.iteration < 2 else method.encoder
        seen.append(player.lr / 1e-3)
        return terms

    method.iterate = watched
    fit(method, simulated(), max_steps=6)
    assert seen == pytest.approx([1, 0.5, 1, 0.75, 0.5, 0.25])


def test_latents_stay_where_the_decoder_was_trained() -> None:
    method = build("SimVAE", latent_bound=2.0)
    with torch.no_grad():
        for p in method.encoder.network.parameters():
            p.mul_(100)
    assert float(method.encode(100 * torch.randn(50, 2), "raw").abs().max()) <= 2


def test_likelihood_is_the_discrepancy_of_decoders_alone() -> None:
    fit(build("SimVAE", discrepancy="likelihood"), simulated(), max_steps=2)
    with pytest.raises(UserError, match=r"model\.discrepancy: expected squared .*, got likelihood for MLPGenerator\."):
        SimVAE(Generator(MLPGenerator()), Encoder(MLPEncoder()), discrepancy="likelihood")


def test_wrong_data_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    other = Simulated(FunctionSimulator(lambda p: p[:, :2], dict.fromkeys("abc", (0.0, 1.0))))
    with pytest.raises(UserError, match=r"network: expected latents of shape \(3,\), one for every .*, got \(2,\)"):
        fit(build("SimVAE"), other, max_steps=2)
    method = build("SimVAE", decoder_iterations=5)
    method.takes_latents = False  # so that `fit` does not exchange the data
    with pytest.raises(UserError, match=r"expected data of a simulator, .* such as Simulated, got Toy2D"):
        fit(method, data(), max_steps=2)
    fit(build("SimVAE", decoder_iterations=5), simulated(), max_steps=2)
    assert "trains the decoder alone" in capsys.readouterr().out


def test_other_methods_train_on_observations() -> None:
    method = build("WGANGP")
    fit(method, simulated(), max_steps=2)
    assert method.iteration == 2


# --------------------------------------------------------------------------------------------------------- metrics


def measured(metric: Any, source: Simulated, encode: Any, push: Any = None) -> dict[str, float]:
    metric.prepare(source, 10)
    if push is not None:
        metric.update_map(push)
    metric.update_encoder(encode)
    metric.update(torch.zeros(1))
    return metric.compute()


def test_metrics_of_a_perfect_inverse() -> None:
    source = Simulated(FunctionSimulator(bend, {"a": (-1.0, 1.0), "b": (-1.0, 1.0)}))

    def encode(x: Tensor) -> Tensor:
        a, b = x.double().T
        u = (torch.stack([a, b - 0.5 * a.square()], 1) + 1) / 2
        return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))

    mig = measured(metric := MutualInformation(num_real=1_000), source, encode)
    assert list(mig) == [*(f"mig_20bins_1k_test{end}" for end in ("", "_truth")),
                         "mi_a_20bins_1k_test", "mi_b_20bins_1k_test"]  # fmt: skip
    assert (
        mig["mig_20bins_1k_test"]
        == pytest.approx(mig["mig_20bins_1k_test_truth"], abs=1e-3)
        == pytest.approx(0.94, abs=0.03)
    )
    assert metric.matrix.shape == (2, 2)
    assert metric.directions() == {"mig_20bins_1k_test": "higher", "mig_20bins_1k_test_truth": "",
                                   "mi_a_20bins_1k_test": "higher", "mi_b_20bins_1k_test": "higher"}  # fmt: skip
    r2 = measured(r2_metric := InvariantR2(num_real=500), source, encode)
    assert [*r2] == ["r2_500_test", "r2_a_500_test", "slope_a_500_test", "r2_b_500_test", "slope_b_500_test"]
    assert all(value == pytest.approx(1, abs=1e-5) for value in r2.values())
    push = lambda z: source.observe(z) + 1
    errors = measured(error_metric := SimulationError(num_real=500), source, encode, push)
    assert errors["resimulated_error_500_test"] == pytest.approx(0, abs=1e-9)
    variance = float(source.pairs("test", 500)[0].var(0, correction=0).sum())
    assert errors["emulated_error_500_test"] == pytest.approx(2 / variance, rel=1e-4)
    for key in ("r2_500_test", "slope_a_500_test", "resimulated_error_500_test"):
        told = r2_metric.directions() if key in r2 else error_metric.directions()
        assert told[key] == own_direction(key)


def test_metrics_of_a_circuit_rank_invariants_alone() -> None:
    """An inverse that finds other parameters with the same output is perfect in f0 and Q, and not in R, L and C."""
    source = Simulated(simulator := RLCCircuit())
    true = simulator.from_latents(source.pairs("test", 500)[1])
    others = simulator.equivalent(true, torch.Generator().manual_seed(5)).log()
    ends = simulator.parameters(torch.tensor([[0.0], [1.0]]).expand(-1, 3)).log()
    z = torch.special.ndtri(((others - ends[0]) / (ends[1] - ends[0])).double().clamp(1e-9, 1 - 1e-9))
    r2 = InvariantR2(num_real=500)
    numbers = measured(r2, source, lambda x: z)
    assert numbers["r2_500_test"] == pytest.approx(1, abs=1e-3)
    assert numbers["slope_Q_500_test"] == pytest.approx(1, abs=1e-3)
    assert all(numbers[f"r2_{name}_500_test"] < 0.8 for name in "RLC")
    ranked = {key for key, direction in r2.directions().items() if direction == "higher"}
    assert ranked == {"r2_500_test", "r2_f0_500_test", "r2_Q_500_test"}
    errors = measured(SimulationError(num_real=500), source, lambda x: z)
    assert errors["resimulated_error_500_test"] < 1e-4
    mig = MutualInformation(num_real=500)
    assert measured(mig, source, lambda x: z)["mig_20bins_500_test_truth"] < 0.3
    assert set(mig.directions().values()) == {""}


def test_metrics_reject_other_data_and_names() -> None:
    for metric in (MutualInformation(), InvariantR2(), SimulationError()):
        with pytest.raises(UserError, match="expected data of a simulator, such as Simulated, got Toy2D"):
            metric.prepare(data(), 10)
    for names in (["a"], ["a", "c"]):
        with pytest.raises(UserError, match=r"MutualInformation\.names: expected at least two of a, b, got"):
            MutualInformation(num_real=10, names=names).prepare(simulated(), 10)
    metric = MutualInformation(num_real=10)
    metric.update(torch.zeros(1))
    assert metric.compute() == {}  # of methods that infer no parameters


# ----------------------------------------------------------------------------------------------------- command line


SMALL = ["--trainer.max_steps", "4", "--trainer.accelerator", "cpu", "--data.batch_size", "4",
         "--run.wandb", "disabled", "--model.decoder_iterations", "2", "--evaluation.num_samples", "4",
         "--evaluation.metrics", "[]", "--data.num_reference", "4"]  # fmt: skip


@pytest.fixture(scope="module")
def circuit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the circuit."""
    root = tmp_path_factory.mktemp("circuit")
    recipe = str(ROOT / "configs/simulators/rlc_circuit.yaml")
    assert main(["fit", "--config", recipe, *SMALL, "--run.root", str(root)]) == 0
    return str(next(root.glob("*/*/checkpoints/last.ckpt")))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the box."""
    root = tmp_path_factory.mktemp("boxes")
    recipe = str(ROOT / "configs/simulators/box_plot.yaml")
    nets = [f"--model.{player}.network.{key}" for player in ("generator", "encoder") for key in ("image_size", "width")]
    few = [word for pair in zip(nets, ["16", "4"] * 2, strict=True) for word in pair]
    sizes = [*few, "--data.simulator.image_size", "16"]
    assert main(["fit", "--config", recipe, *SMALL, *sizes, "--run.root", str(root)]) == 0
    return str(next(root.glob("*/*/checkpoints/last.ckpt")))


@pytest.mark.slow
def test_invert_writes_parameters_with_a_passport(circuit: str, capsys: pytest.CaptureFixture[str]) -> None:
    x, _ = Simulated(RLCCircuit()).pairs("test", 5)
    np.savez("x.npz", samples=x.numpy())
    assert main(["invert", circuit, "--npz", "x.npz", "--out", "p.csv"]) == 0
    assert "5 observations, RLCCircuit at SimVAE's parameters: p.csv" in capsys.readouterr().out
    comment, header, *_ = Path("p.csv").read_text().splitlines()
    passport = json.loads(comment.removeprefix("# "))
    assert (passport["method"], passport["iteration"], passport["num_samples"]) == ("SimVAE", 4, 5)
    assert header == "R,L,C"
    table = np.genfromtxt("p.csv", delimiter=",", skip_header=2)
    assert main(["invert", circuit, "--npz", "x.npz", "--out", "p.npz"]) == 0
    with np.load("p.npz") as found:
        np.testing.assert_allclose(found["parameters"], table, rtol=1e-5)
        assert list(found["names"]) == ["R", "L", "C"]
        assert json.loads(str(found["passport"]))["reference"] == passport["reference"]
    method: Any = Method.load_from_checkpoint(circuit)
    np.testing.assert_allclose(table, RLCCircuit().from_latents(method.encode(x)).numpy(), rtol=1e-5)


@pytest.mark.slow
def test_invert_reads_images_and_draws_them(boxes: str) -> None:
    images = Simulated(BoxPlot(16)).reference("test", 3)
    Path("images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(f"images/{i}.png")
    np.savez("x.npz", samples=images.permute(0, 2, 3, 1).numpy())
    assert main(["invert", boxes, "--images", "images", "--out", "a.csv"]) == 0
    assert main(["invert", boxes, "--npz", "x.npz", "--out", "b.csv"]) == 0
    assert Path("a.csv").read_text().splitlines()[1:] == Path("b.csv").read_text().splitlines()[1:]
    assert main(["invert", boxes, "--images", "images", "--out", "a.png"]) == 0
    width, height = Image.open("a.png").size
    assert width == pytest.approx(height, abs=20)  # three columns, three rows


def test_invert_rejects_what_does_not_fit(circuit: str, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("images").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("images/0.png")
    np.savez("wrong.npz", samples=np.zeros((2, 5), np.float32))
    np.savez("ints.npz", samples=np.zeros((2, 48), np.int64))
    np.savez("nan.npz", samples=np.full((2, 48), np.nan))
    Path("text.npz").write_text("text")
    cases = {
        ("wrong.npz",): r"observations of shape (48,), as the encoder takes, got 2 of shape (5,)",
        ("ints.npz",): "expected floats (N, *event), got int64 of shape (2, 48)",
        ("nan.npz",): "expected finite values, got others",
        ("text.npz",): "expected an array file, got none that can be read",
        ("wrong.npz", "--images", "images"): "expected --images or --npz, got both",
        ("nan.npz", "--out", "x.png"): "--out: expected .csv or .npz for observations of shape (48,), got .png",
    }
    for words, why in cases.items():
        assert main(["invert", circuit, "--npz", *words]) == 2
        assert why in capsys.readouterr().err, words
    assert main(["invert", boxes, "--images", "images"]) == 2
    assert (
        "observations of shape (1, 16, 16), as the encoder takes, got 1 of shape (1, 8, 8)" in capsys.readouterr().err
    )
    assert main(["invert", circuit]) == 2
    assert "expected --images or --npz, got neither" in capsys.readouterr().err
    assert main(["invert", circuit, "--images", "images"]) == 2
    assert "expected --npz for observations of shape (48,), got images" in capsys.readouterr().err


def test_evaluate_measures_the_inverse(circuit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", circuit, "--n", "20"]) == 0
    out = capsys.readouterr().out
    assert all(
        name in out for name in ("mig_20bins_5k_test ", "r2_f0_5k_test", "slope_Q_5k_test", "resimulated_error_1k")
    )


def test_a_function_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the docs, as a user's module."""
    page = (ROOT / "docs/simulators.md").read_text()
    (tmp_path / "my_simulators.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "spring.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    assert main(["fit", "--config", str(tmp_path / "spring.yaml"), *SMALL]) == 0
    ckpt = next(Path("runs").glob("*/*/checkpoints/last.ckpt"))
    np.savez("x.npz", samples=np.zeros((2, 32)))
    assert main(["invert", str(ckpt), "--npz", "x.npz"]) == 0
    assert Path("parameters.csv").read_text().splitlines()[1] == "stiffness,damping"


# ---------------------------------------------------------------------------------------------------------- claims


def trained(source: Simulated, num_outputs: int, steps: int) -> SimVAE:
    """Two networks with two layers of 128 units, equally many iterations for both stages."""
    shapes: Any = {"event_shape": (num_outputs,), "latent_dim": source.latent_shape[0], "width": 128}
    players = networks(MLPDecoder(**shapes, activation="silu"), MLPEncoder(**shapes, activation="silu"))
    method = SimVAE(*players, decoder_iterations=steps)
    fit(method, source, max_steps=2 * steps)
    return method


@pytest.mark.long
def test_latents_of_a_smooth_simulator_are_found() -> None:
    """Fourier features of four latents: R² above 0.97 each, and the error is bounded by that of the decoder."""
    torch.manual_seed(0)
    B = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) / 2
    source = Simulated(Latents(4, lambda p: (p @ B).tanh()), batch_size=256, iterations_per_block=50)
    method = trained(source, 32, 2_000)
    z, found = inferred(method, source, 2_000)
    assert min(r_squared(a, b) for a, b in zip(z.T, found.T, strict=True)) > 0.97
    correlation = torch.corrcoef(torch.cat([z, found], 1).T)[:4, 4:]
    assert float(correlation.diagonal().min()) > 0.99
    assert float((correlation - correlation.diagonal().diag()).abs().max()) < 0.05
    x, _ = source.pairs("test", 2_000)
    with torch.no_grad():
        G = method.generator.network
        decoder, encoder = ((G(codes) - x).square().mean() for codes in (z, found))
    assert float(encoder) > 0.1 * float(decoder)  # no encoder is far better than its decoder


@pytest.mark.long
def test_circuit_gives_f0_and_q_but_not_its_parts() -> None:
    """R² of log f0 and log Q above 0.99, of log R, L and C singly below 0.8."""
    torch.manual_seed(0)
    source = Simulated(RLCCircuit(), batch_size=256, iterations_per_block=50)
    method = trained(source, 48, 2_000)
    z, found = (source.simulator.from_latents(part) for part in inferred(method, source, 2_000))
    log_r2 = lambda a, b: r_squared(a.log(), b.log())
    true, again = source.simulator.invariants(z), source.simulator.invariants(found)
    assert all(log_r2(true[key], again[key]) > 0.99 for key in ("f0", "Q"))
    assert all(log_r2(a, b) < 0.8 for a, b in zip(z.T, found.T, strict=True))
