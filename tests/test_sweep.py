"""Sweeps of W&B, against a server of the tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_dashboard import FIT, logged_out, server  # noqa: F401  fixtures
from wandb_server import WandbServer

from pt_flows.cli.main import main
from pt_flows.runs.folder import RUN_DIR_VARIABLE, new_run_folder

SWEEP = {
    "method": "random",
    "metric": {"name": "eval/w2_64.min", "goal": "minimize"},
    "parameters": {"model.critic.steps": {"values": [2, 3]}, "model.step_size": {"min": 0.5, "max": 1.0}},
}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "sweep: expected a file, got sweep.yaml (No such file or directory). Check the path"),
        ([], "sweep.yaml: expected keys with values, got a sequence. Write, for example, method: random"),
        ({"method": "grid"}, "sweep.yaml: parameters: expected a value, got none. Add it"),
        (SWEEP | {"parameters": {}}, "sweep.yaml: parameters: expected keys of fit, got none. Add, for example, model"),
        (SWEEP | {"program": "a.py"}, "sweep.yaml: program: expected no such key, because this command sets it, got"),
        (SWEEP | {"metod": "grid"}, "got another key. Did you mean method?"),
        (SWEEP | {"metric": {"name": "eval/w2_64.min", "goal": "min"}}, "metric.goal: expected one of minimize, max"),
        (
            SWEEP | {"metric": {"name": "w2_64", "goal": "minimize"}},
            "metric.name: expected a number of the log, got w2_",
        ),
        (
            {key: SWEEP[key] for key in ("parameters",)} | {"method": "bayes"},
            "sweep.yaml: metric: expected a value, got",
        ),
        (
            SWEEP | {"parameters": {"model.step_size": {"min": 1.0, "max": 0.1}}},
            "sweep.yaml: parameters.model.step_size: expected min below max, got ",
        ),
        (SWEEP | {"method": "gird"}, "sweep.yaml: method: expected one of bayes, grid, random, got gird. Correct it"),
        (
            SWEEP | {"parameters": {"model.step_size": {"min": "low", "max": 1}}},
            "sweep.yaml: parameters.model.step_size.min: expected a number, got low. Correct it",
        ),
        (
            SWEEP | {"parameters": {"model.step_size": {"valus": [1]}}},
            "sweep.yaml: parameters.model.step_size.valus: expected one of the keys distribution, value, values, ",
        ),
        (
            SWEEP | {"parameters": {"model.step_size": {"values": []}}},
            'model.step_size: expected value, values, or min and max, got {"values": []}. Write, for example, {val',
        ),
        (
            SWEEP | {"parameters": {"model": {"parameters": {}}}},
            "sweep.yaml: parameters.model: expected a dotted key of fit, got parameters inside it. Write model.NAME",
        ),
        ("method: grid\nmethod: random\n", "sweep.yaml: expected method once, got it in line 1 and again in line 2."),
        (SWEEP, "W&B: expected a login, got none. Run wandb login. Without an account: pt-flows tune CONFIG"),
    ],
)
@pytest.mark.usefixtures("logged_out")
def test_mistakes_before_a_sweep_are_one_sentence(
    content: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("sweep.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.endswith("See docs/tuning.md\n")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_mistaken_key_is_found_before_a_sweep_is_made(
    server: WandbServer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"model.step_sze": {"value": 2}}}))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    assert "there is no key model.step_sze; did you mean model.step_size?" in capsys.readouterr().err
    assert server.queries == []


def test_a_run_has_the_id_of_its_agent_unless_another_run_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, "")
    named = lambda: new_run_folder(Path("runs"), "toy2d-w1fe").name.split("-")[2:]
    monkeypatch.setenv("WANDB_RUN_ID", "abc12xyz")
    assert named() == ["abc12xyz"]
    Path("runs/toy2d-w1fe/20261126-120000-abc12xyz").mkdir(parents=True)
    assert re.fullmatch("[0-9a-f]{8}", *named())
    for other in ("a/b", "two-parts", ""):
        monkeypatch.setenv("WANDB_RUN_ID", other)
        assert re.fullmatch("[0-9a-f]{8}", *named())


@pytest.mark.slow
def test_a_sweep_trains_with_the_values_of_the_server(server: WandbServer) -> None:  # noqa: F811
    """W&B's own agent starts every run, and the configuration of each has the proposed values."""
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    server.proposals = [{"model.critic.steps": n, "model.step_size": 0.5 * n} for n in (2, -1, 3)]
    command = [sys.executable, "-m", "pt_flows", "sweep", "sweep.yaml", *FIT[1:], "--trainer.max_steps", "5"]
    done = subprocess.run([*command, "--run.project", "ring"], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wandb agent ring/s1" in done.stdout
    assert "note: 1 of 3 runs failed. Their errors are above, and in failed.txt of those that diverged" in done.stdout
    kept = yaml.safe_load(server.sweep["config"])
    assert kept["parameters"].keys() == SWEEP["parameters"].keys()
    folders = sorted(Path("runs").glob("*/*/config.yaml"), key=lambda file: file.stat().st_mtime)
    models = [yaml.safe_load(file.read_text())["model"]["init_args"] for file in folders]
    assert [(model["critic"]["steps"], model["step_size"]) for model in models] == [(2, 1.0), (3, 1.5)]
    assert {run["project"] for run in server.runs.values()} == {"ring"}
    assert sorted(server.runs) == sorted(file.parent.name.split("-")[-1] for file in folders) == ["run0", "run2"]
    assert all("eval/w2_50" in run["summary"] for run in server.runs.values()), server.runs


@pytest.mark.slow
def test_a_sweep_whose_runs_all_fail_exits_with_1(
    server: WandbServer,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The server proposes a value that no run accepts."""
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    server.proposals = [{"model.step_size": -1.0}, {"model.step_size": -2.0}]
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 1
    error = capfd.readouterr().err
    said = "error: sweep: expected runs that end, got 2 of 2 that failed. Their errors are above, and in failed.txt of"
    assert said in error
    assert error.count("model.step_size: expected a number above 0, got -") == 2


@pytest.mark.slow
def test_every_value_is_checked_before_a_sweep_is_made(
    server: WandbServer,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"parameters": {"model.step_size": {"values": [1.0, -1.0]}}}))
    assert main(["sweep", "sweep.yaml", *FIT[1:]]) == 2
    assert "sweep.yaml, values 2: model.step_size: expected a number above 0, got -1" in capsys.readouterr().err
    assert server.queries == []
