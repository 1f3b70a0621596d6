"""Several averages of weights: kept beside each other, measured side by side, resumed and exported."""

import math
from pathlib import Path

import pytest
import torch
from test_evaluate import train
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pt_flows.callbacks import Evaluate
from pt_flows.cli.main import main
from pt_flows.compare.groups import comparable
from pt_flows.compare.runs import read_run
from pt_flows.errors import UserError
from pt_flows.evaluation.load import finished
from pt_flows.evaluation.passport import read_record
from pt_flows.evaluation.sharing import load
from pt_flows.nets import MLPGenerator
from pt_flows.runs.checkpoint import read_checkpoint
from pt_flows.training.ema import EMA
from pt_flows.training.player import Player
from pt_flows.training.players import Generator

SEVERAL = ["--model.generator.ema_decay", "[0.9, 0.2, 0.0]", "--evaluation.weights", "[ema, raw, 'ema@0.2', 'ema@0.0']",
           "--evaluation.num_samples", "50", "--evaluation.every_n_iterations", "2"]  # fmt: skip
CONSTANT = [f"--model.{player}.lr_schedule.decay=constant" for player in ("generator", "critic")]


def test_averages_of_a_known_path() -> None:
    """The weight is t after iteration t, and every average the sum of its own weights times t."""
    network = nn.Linear(1, 1, bias=False)
    player = Player(network, ema_decay=[0.9, 0.3])
    expected = {0.9: network.weight.item(), 0.3: network.weight.item()}
    for t in range(1, 30):
        nn.init.constant_(network.weight, float(t))
        player.average(t)
        for decay, value in expected.items():
            beta = min(decay, (1 + t) / (10 + t))
            expected[decay] = beta * value + (1 - beta) * t
    found = {name: player.weighted(name).weight.item() for name in ("ema", "ema@0.9", "ema@0.3", "raw")}
    assert found == pytest.approx({"ema": expected[0.9], "ema@0.9": expected[0.9], "ema@0.3": expected[0.3], "raw": 29})
    assert player.weighted("ema") is player.weighted("ema@0.9")
    assert [name for name in ("ema", "ema@0.3", "ema@0.4") if player.keeps(name)] == ["ema", "ema@0.3"]
    with pytest.raises(UserError, match=r"weights: expected raw, ema or one of ema@0.9, ema@0.3, as player keeps, got"):
        player.weighted("ema@0.4")
    with pytest.raises(UserError, match=r"Generator.ema_decay: expected every item to be a number in \[0, 1\)"):
        Generator(MLPGenerator(), ema_decay=[0.9, 1.0])


def test_spectral_norm_follows_the_averaged_weights() -> None:
    """A mean of turning singular vectors is short, which would make the averaged weights long."""
    network = nn.Sequential(spectral_norm(nn.Linear(8, 8)))
    average = EMA(network, 0.99)
    for t in range(1, 400):
        u = torch.zeros(8)
        u[:2] = torch.tensor([math.cos(t / 40), math.sin(t / 40)])
        with torch.no_grad():
            network[0].parametrizations.weight.original.copy_(3 * torch.outer(u, u) + 0.3 * torch.eye(8))
        network(torch.zeros(1, 8))
        average.update(network, t)
    assert float(torch.linalg.matrix_norm(average.network[0].weight, 2)) == pytest.approx(1, abs=0.01)


def test_one_decay_leaves_checkpoints_as_they_were() -> None:
    one, listed = (Player(nn.Linear(1, 1), ema_decay=decay) for decay in (0.9, [0.9]))
    assert list(one.state_dict()) == list(listed.state_dict())
    assert not any("further" in name for name in one.state_dict())


def test_several_averages_are_measured_compared_and_exported(tmp_path: Path) -> None:
    folder = train("toy2d/w1_fe", tmp_path / "runs", 4, *SEVERAL)
    numbers = {
        passport.weights: found["w2_50"]
        for passport, found in map(read_record, (folder / "evaluations").glob("*.json"))
    }
    assert set(numbers) == {"ema", "raw", "ema@0.2", "ema@0.0"}
    assert numbers["ema@0.0"] == numbers["raw"]  # the average without memory
    assert len(set(numbers.values())) == 3
    rows = read_run(folder).rows
    last = {section: [row[f"{section}/w2_50"] for row in rows if f"{section}/w2_50" in row][-1]
            for section in ("eval", "eval_raw", "eval_ema@0.2")}  # fmt: skip
    assert last == pytest.approx(
        {"eval": numbers["ema"], "eval_raw": numbers["raw"], "eval_ema@0.2": numbers["ema@0.2"]}
    )
    groups, _ = comparable([str(folder)], "w2_50")
    curves = {group.runs[0].subject.weights: [value for _, value in group.runs[0].curve("w2_50")] for group in groups}
    assert {weights: len(curve) for weights, curve in curves.items()} == dict.fromkeys(numbers, 1)
    assert {weights: curve[-1] for weights, curve in curves.items()} == pytest.approx(numbers)
    assert main(["export", str(folder), "--out", str(tmp_path / "model"), "--weights", "ema@0.2"]) == 0
    method, loaded = finished(str(folder)).method, load(tmp_path / "model")
    z = torch.randn(5, *method.generator.network.latent_shape)
    assert torch.equal(loaded.generator.push(z, "ema"), method.generator.push(z, "ema@0.2"))
    assert not torch.equal(loaded.generator.push(z, "ema"), method.generator.push(z, "ema"))


@pytest.mark.slow
def test_several_averages_resume_bit_for_bit(tmp_path: Path) -> None:
    whole = train("toy2d/w1_fe", tmp_path / "whole", 6, *SEVERAL, *CONSTANT)
    half = train("toy2d/w1_fe", tmp_path / "half", 3, *SEVERAL, *CONSTANT)
    again = ["fit", "--config", str(half / "config.yaml"), "--trainer.max_steps", "6", "--ckpt_path", str(half)]
    assert main(again) == 0
    states = [read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"] for folder in (whole, half)]
    names = [name for name in states[0] if ".further." in name]
    assert names
    for name in names:
        assert torch.equal(states[0][name], states[1][name]), name


def test_weights_that_nobody_keeps_stop_the_run_at_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "--config", "toy2d/w1_fe", "--run.root", str(tmp_path), "--run.wandb", "disabled"]
    assert main([*arguments, "--evaluation.weights", "[ema, 'ema@0.2']"]) != 0
    assert "got ema@0.2, which no player keeps. Add it to the drawing player's ema_decay" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*"))
    with pytest.raises(
        UserError, match=r"Evaluate.weights: expected ema, raw or ema@ with a decay, such as ema@0.9999"
    ):
        Evaluate(weights="average")
