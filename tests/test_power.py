"""Power-function averages: their mathematics, runs that keep them, and averages of other lengths made from these."""

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import build, data, fit
from test_cli import run_folder
from test_evaluate import train
from test_kills import in_a_process, inside_a_block, words
from torch import Tensor, nn

from pt_flows.callbacks import PersistentRounds, PowerAverages
from pt_flows.cli.main import main
from pt_flows.compare.groups import comparable
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.passport import read_record
from pt_flows.evaluation.published import flat_name
from pt_flows.evaluation.sharing import load
from pt_flows.runs.checkpoint import read_checkpoint
from pt_flows.training.power import KEPT, WIDEST, PowerAverage, combination, exponent_of, inner_product, width_of

CALLBACK = ["--trainer.callbacks", '[{"class_path": "PowerAverages"}]']
"""The callback with its default, a twentieth of the run."""


def profile(gamma: float, time: float, s: Tensor) -> Tensor:
    return torch.where(s <= time, (gamma + 1) * s**gamma / time ** (gamma + 1), 0.0)


def grid(time: float, num: int = 400_000) -> tuple[Tensor, float]:
    """Midpoints of [0, time] and their distance."""
    step = time / num
    return (torch.arange(num, dtype=torch.float64) + 0.5) * step, step


def integrals(width: float, time: int) -> Tensor:
    """The weights of all iterates of a run: integrals of the profile over every iteration."""
    ends = torch.arange(time + 1, dtype=torch.float64) / time
    return (ends ** (exponent_of(width) + 1)).diff()


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, WIDEST])
def test_a_profile_has_its_width(width: float) -> None:
    gamma = exponent_of(width)
    assert width_of(gamma) == pytest.approx(width, rel=1e-9)
    s, step = grid(1.0)
    p = profile(gamma, 1.0, s)
    mean = (s * p).sum() * step
    assert float(p.sum() * step) == pytest.approx(1, rel=1e-6)
    assert float((((s - mean) ** 2 * p).sum() * step).sqrt()) == pytest.approx(width, rel=1e-6)


def test_inner_products_are_integrals() -> None:
    pairs = [(0.05, 3.0, 0.1, 3.0), (0.05, 2.0, 0.2, 3.0), (0.1, 3.0, 0.05, 2.5), (0.25, 1.0, 0.05, 3.0)]
    s, step = grid(3.0)
    for width, time, other, end in pairs:
        gamma, other_gamma = exponent_of(width), exponent_of(other)
        found = inner_product(*torch.tensor([gamma, time, other_gamma, end], dtype=torch.float64))
        wanted = (profile(gamma, time, s) * profile(other_gamma, end, s)).sum() * step
        assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_the_update_gives_every_iterate_the_integral_of_the_profile() -> None:
    path = torch.randn(60, 3, dtype=torch.float64)
    network = nn.Linear(3, 1, bias=False).double()
    average = PowerAverage(network, 0.1)
    for t, weight in enumerate(path, 1):
        network.weight.data.copy_(weight)
        average.update(network, t)
        torch.testing.assert_close(average.network.weight[0].detach(), integrals(0.1, t) @ path[:t])


def test_an_average_of_another_width_is_a_combination_of_stored_ones() -> None:
    """The error of a path of independent steps is that of the profile, which is reported. Smooth paths have less."""
    time, every = 2_000, 100
    noise = torch.randn(time, 400, dtype=torch.float64)
    times = [t for t in range(every, time + 1, every) for _ in KEPT]
    widths = list(KEPT) * (time // every)
    for path, smooth in [(noise, False), (noise.cumsum(0), True)]:
        stored = torch.stack([integrals(w, t) @ path[:t] for w, t in zip(widths, times, strict=True)])
        for width, largest in {0.03: 0.03, 0.06: 0.003, 0.08: 0.002, 0.15: 0.006, 0.2: 0.02}.items():
            x, reported = combination(widths, times, width, time)
            wanted = integrals(width, time) @ path
            error = float((torch.tensor(x, dtype=torch.float64) @ stored - wanted).norm() / wanted.norm())
            assert sum(x) == pytest.approx(1)
            assert reported < largest
            assert error < (0.2 if smooth else 1.3) * reported
            if not smooth:
                assert error > 0.5 * reported
        for i, width in enumerate(KEPT):
            x, reported = combination(widths, times, width, time)
            assert reported < 1e-6
            assert x == pytest.approx([0.0] * (len(x) - 2) + [float(i == k) for k in range(2)], abs=1e-9)


def test_hundreds_of_stored_averages_are_no_harder() -> None:
    times = [float(t) for t in range(1, 801) for _ in KEPT]
    x, reported = combination(list(KEPT) * 800, times, 0.08, 800.0)
    assert reported < 1e-4
    assert sum(map(abs, x)) < 10


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_widths_without_a_profile(width: float) -> None:
    with pytest.raises(UserError, match=r"weights: expected a width above 0 and at most 0\.2887, got"):
        exponent_of(width)


# ------------------------------------------------------------------------------------------------------------- in runs


def snapshots(folder: Path) -> list[int]:
    return [int(file.stem) for file in sorted((folder / "averages").glob("*.pt"))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ["--data.iterations_per_block", "2", "--evaluation.num_samples", "50", "--evaluation.weights", "[ema, raw]"]
    return train("toy2d/w1_fe", tmp_path_factory.mktemp("runs"), 40, *CALLBACK, *more)


def test_numbers_of_a_width_have_its_name(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshots(trained) == list(range(2, 41, 2))
    for width in ("power@0.08", "power@0.1"):
        assert main(["evaluate", str(trained), "--n", "50", "--weights", width]) == 0
        printed = capsys.readouterr().out
        assert f"{width} of generator: 40 stored averages with an error of" in printed
    assert "error of 0.0 % of the profile" in printed
    records = [read_record(file) for file in (trained / "evaluations").glob("*.json")]
    numbers = {passport.weights: found["w2_50"] for passport, found in records}
    assert set(numbers) == {"ema", "raw", "power@0.08", "power@0.1"}
    assert len(set(numbers.values())) == 4
    names = {flat_name("w2_50", passport) for passport, _ in records}
    assert names == {f"evaluate/w2_50{end}" for end in ("", "/raw", "/power@0.08", "/power@0.1")}
    groups, _ = comparable([str(trained)], "w2_50")
    for width in ("power@0.08", "power@0.1"):
        assert sum(f"{width} weights" in group.name for group in groups) == 1
    assert main(["sample", str(trained), "--n", "20", "--weights", "power@0.08", "--out", "a.npz"]) == 0
    assert main(["export", str(trained), "--weights", "power@0.08", "--out", "model"]) == 0
    method, exported = finished(trained).method, load("model")
    z = torch.randn(5, *method.generator.network.latent_shape)
    assert torch.equal(exported.generator.push(z, "ema"), method.generator.push(z, "power@0.08"))


def test_a_kept_width_is_the_kept_average(trained: Path) -> None:
    method = finished(trained).method
    state = read_checkpoint(trained / "checkpoints/last.ckpt")["callbacks"]["PowerAverages"]["averages"]
    assert list(state) == ["generator"]
    for width in KEPT:
        found = method.generator.weighted(f"power@{width}").state_dict()
        for name, value in state["generator"][width].items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert method.generator.weighted("power@0.1") is method.generator.weighted("power@0.1")
    assert not method.critic.keeps("power@0.1")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("power@0.01", "expected an average of generator that stored ones give within 10 %, got power@0.01 from 40"),
        ("power@0.9", "weights: expected a width above 0 and at most 0.2887, got 0.9"),
        ("power@0.10", "or power@ with a width, such as power@0.08, got 'power@0.10'"),
    ],
)
def test_widths_that_cannot_be_made(
    weights: str, message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(trained), "--weights", weights, "--out", "a.npz"]) != 0
    assert message in capsys.readouterr().err


def test_a_damaged_snapshot_is_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = trained / "averages/00000010.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    try:
        assert main(["sample", str(trained), "--weights", "power@0.08", "--out", "a.npz"]) != 0
    finally:
        file.write_bytes(whole)
    assert "00000010.pt: expected averages of generator, got a file that cannot be read" in capsys.readouterr().err


def test_a_run_without_averages_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("toy2d/w1_fe", tmp_path, 2, "--evaluation.num_samples", "50")
    for command in (["evaluate", str(folder), "--n", "50"], ["export", str(folder), "--out", "model"]):
        assert main([*command, "--weights", "power@0.08"]) != 0
        told = capsys.readouterr().err
        assert "as generator keeps, got power@0.08. Train with the callback PowerAverages" in told
    assert not Path("model").exists()
    more = ["fit", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder), "--trainer.max_steps", "4"]
    assert main([*more, *CALLBACK]) != 0
    told = capsys.readouterr().err
    assert "expected averages from the first iteration, got a checkpoint of iteration 2 without them" in told


def test_runs_that_cannot_keep_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"PowerAverages\.every_n_iterations: expected at least 1, got 0"):
        PowerAverages(0)
    with pytest.raises(UserError, match=r"PowerAverages: expected a run without PersistentRounds"):
        fit(build("WGANGP"), data(), 4, callbacks=[PowerAverages(), PersistentRounds(2, monitor="loss_D")])
    with pytest.raises(UserError, match=r"expected a run that stops if it diverges, got one with on_divergence"):
        fit(build("DAEBM-released"), data(), 4, callbacks=[PowerAverages()])
    method = build("WGANGP")
    for player in method.players.values():
        player.ema = None
    with pytest.raises(UserError, match=r"PowerAverages: expected a player with an average, got none"):
        fit(method, data(), 4, callbacks=[PowerAverages()])
    with pytest.raises(UserError, match=r"every_n_iterations: expected a number, as the run has no max_steps, got"):
        fit(build("WGANGP"), data(), -1, callbacks=[PowerAverages()])
    arguments = ["fit", "--config", "toy2d/w1_fe", "--evaluation.weights", "[ema, 'power@0.08']"]
    assert main([*arguments, "--run.wandb", "disabled"]) != 0
    assert "got power@0.08, which is made after training. Measure it afterwards" in capsys.readouterr().err


def contents(folder: Path) -> dict[str, Any]:
    found = {file.name: torch.load(file, weights_only=True) for file in sorted((folder / "averages").glob("*.pt"))}
    found["last"] = read_checkpoint(folder / "checkpoints/last.ckpt")["callbacks"]["PowerAverages"]
    return {
        f"{file} {player} {width} {name}": value
        for file, content in found.items()
        for player, states in content["averages"].items()
        for width, state in states.items()
        for name, value in state.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_and_resumed_run_writes_the_same_averages(ranks: int) -> None:
    """Bit for bit, and nothing of lost iterations stays. With two ranks, the second one is killed."""
    every = ["--trainer.callbacks", '[{"class_path": "PowerAverages", "init_args": {"every_n_iterations": 4}}]']
    arguments = partial(words, "w2_fe", ranks)
    assert in_a_process(arguments("whole", *every)) == 0
    code = in_a_process(arguments("killed", *every), partial(inside_a_block, 38, ranks - 1))
    assert code == -signal.SIGKILL if ranks == 1 else code != 0
    folder = run_folder("killed")
    (folder / "averages/00000999.pt").write_bytes(b"of lost iterations")
    assert in_a_process(arguments("killed", *every, "--ckpt_path", "last")) == 0
    whole, again = contents(run_folder("whole")), contents(folder)
    assert whole.keys() == again.keys()
    assert len({name.partition(" ")[0] for name in whole}) == 15
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
