"""Checkpoints of every version so far load, draw the same samples, and continue (written by write_checkpoints.py).

Those of 0.1 are converted by `pt-flows upgrade` first.
"""

import json
from pathlib import Path

import pytest
import torch
from problems import ROOT
from write_checkpoints import CONTINUED, LATEST, METHODS, continued, samples

import pt_flows
from pt_flows.cli.main import main
from pt_flows.evaluation.load import finished
from pt_flows.loop.method import Method

FILES = [
    pytest.param(file, id=f"{file.parent.name}/{file.stem}") for file in sorted(ROOT.glob("tests/checkpoints/*/*.ckpt"))
]
RUNS = [
    pytest.param(*param.values, id=param.id, marks=() if param.id == "0.2/w1_fe" else pytest.mark.slow)
    for param in FILES
    if param.values[0].stem in CONTINUED  # pyright: ignore[reportAttributeAccessIssue]
]


def stored(checkpoint: Path) -> dict[str, list[list[float]]]:
    return json.loads((checkpoint.parent / "values.json").read_text())[checkpoint.stem]


def current(checkpoint: Path) -> Path:
    """The checkpoint as this version reads it, with its configuration, if there is one, in the same folder."""
    if checkpoint.parent.name != "0.1":
        return checkpoint
    for file in (checkpoint, checkpoint.with_suffix(".yaml")):
        if file.is_file():
            assert main(["upgrade", str(file), "--out", f"upgraded/{file.name}"]) == 0
    return Path("upgraded", checkpoint.name).absolute()


def test_this_version_has_one_of_every_method() -> None:
    held = {type(finished(file).method) for file in LATEST.glob("*.ckpt")}
    assert len(held) == len(METHODS)
    assert held == {getattr(pt_flows.methods, name) for name in pt_flows.methods.__all__}
    assert sum(file.stat().st_size for file in LATEST.iterdir()) < 500_000


@pytest.mark.parametrize("checkpoint", FILES)
def test_samples_are_what_they_were(checkpoint: Path) -> None:
    wanted, checkpoint = torch.tensor(stored(checkpoint)["samples"]), current(checkpoint)
    torch.testing.assert_close(torch.tensor(samples(finished(checkpoint).method)), wanted, rtol=1e-4, atol=1e-5)
    module = Method.load_from_checkpoint(checkpoint)
    torch.testing.assert_close(torch.tensor(samples(module)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpoint", RUNS)
def test_runs_continue(checkpoint: Path) -> None:
    """Weights, optimizers, chains and noise are restored."""
    wanted = torch.tensor(stored(checkpoint)["continued"])
    torch.testing.assert_close(torch.tensor(continued(current(checkpoint))), wanted, rtol=1e-3, atol=1e-4)
