"""Sweeps of W&B, against a server of the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_dashboard import FIT, logged_out, server  # noqa: F401  fixtures
from wandb_server import WandbServer

from pt_flows.cli.main import main

SWEEP = {
    "method": "random",
    "metric": {"name": "eval/w2_64.min", "goal": "minimize"},
    "parameters": {"model.critic.steps": {"values": [2, 3]}, "model.step_size": {"min": 0.5, "max": 1.0}},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "sweep.yaml: expected a sweep file, got one that cannot be read"),
        ([], "expected the key parameters with keys of fit, got none"),
        (SWEEP | {"program": "train.py"}, "expected no program, which this command sets, got one. Remove it"),
        (SWEEP, "W&B: expected a login, got none. Run wandb login. Without an account: pt-flows tune CONFIG"),
    ],
)
@pytest.mark.usefixtures("logged_out")
def test_mistakes_before_a_sweep_are_one_sentence(
    content: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("sweep.yaml").write_text(yaml.safe_dump(content))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.endswith("See docs/tuning.md\n")
    assert error.count("\n") == 1


def test_a_mistaken_key_is_found_before_a_sweep_is_made(
    server: WandbServer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"model.step_sze": {"value": 2}}}))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    assert "there is no key model.step_sze; did you mean model.step_size?" in capsys.readouterr().err
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"model": {"parameters": {}}}}))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    assert "parameters.model: expected value, values, or min and max" in capsys.readouterr().err
    assert server.queries == []


@pytest.mark.slow
def test_a_sweep_trains_with_the_values_of_the_server(server: WandbServer) -> None:  # noqa: F811
    """W&B's own agent starts every run, and the configuration of each has the proposed values."""
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    server.proposals = [{"model.critic.steps": n, "model.step_size": 0.5 * n} for n in (2, 3)]
    command = [sys.executable, "-m", "pt_flows", "sweep", "sweep.yaml", *FIT[1:], "--trainer.max_steps", "5"]
    done = subprocess.run([*command, "--run.project", "ring"], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wandb agent ring/s1" in done.stdout
    kept = yaml.safe_load(server.sweep["config"])
    assert kept["parameters"].keys() == SWEEP["parameters"].keys()
    folders = sorted(Path("runs").glob("*/*/config.yaml"), key=lambda file: file.stat().st_mtime)
    models = [yaml.safe_load(file.read_text())["model"]["init_args"] for file in folders]
    assert [(model["critic"]["steps"], model["step_size"]) for model in models] == [(2, 1.0), (3, 1.5)]
    assert {run["project"] for run in server.runs.values()} == {"ring"}
    assert sorted(server.runs) == ["run0", "run1"]
    assert all("eval/w2_50" in run["summary"] for run in server.runs.values()), server.runs
