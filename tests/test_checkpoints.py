"""Checkpoints of every version so far load, sample what they sampled, and go on (written by write_checkpoints.py)."""

import json
from pathlib import Path

import pytest
import torch
from problems import ROOT
from write_checkpoints import CONTINUED, LATEST, METHODS, continued, samples

import pt_flows
from pt_flows.evaluation.load import load_method
from pt_flows.loop.base import GenerativeModule

FILES = [
    pytest.param(file, id=f"{file.parent.name}/{file.stem}") for file in sorted(ROOT.glob("tests/checkpoints/*/*.ckpt"))
]
RUNS = [param for param in FILES if param.values[0].stem in CONTINUED]


def stored(checkpoint: Path) -> dict[str, list[list[float]]]:
    return json.loads((checkpoint.parent / "values.json").read_text())[checkpoint.stem]


def test_this_version_has_one_of_every_method() -> None:
    held = {type(load_method(file)) for file in LATEST.glob("*.ckpt")}
    assert len(held) == len(METHODS)
    assert held == {getattr(pt_flows.methods, name) for name in pt_flows.methods.__all__}
    assert sum(file.stat().st_size for file in LATEST.iterdir()) < 500_000


@pytest.mark.parametrize("checkpoint", FILES)
def test_samples_are_what_they_were(checkpoint: Path) -> None:
    wanted = torch.tensor(stored(checkpoint)["samples"])
    torch.testing.assert_close(torch.tensor(samples(load_method(checkpoint))), wanted, rtol=1e-4, atol=1e-5)
    module = GenerativeModule.load_from_checkpoint(checkpoint)
    torch.testing.assert_close(torch.tensor(samples(module)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpoint", RUNS)
def test_runs_go_on(checkpoint: Path) -> None:
    """With the weights, optimizers, chains and noise that they had."""
    wanted = torch.tensor(stored(checkpoint)["continued"])
    torch.testing.assert_close(torch.tensor(continued(checkpoint)), wanted, rtol=1e-3, atol=1e-4)
