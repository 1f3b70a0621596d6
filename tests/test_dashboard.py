"""W&B online against a server of the tests: training, resuming, evaluation, comparison, and the dashboard."""

import base64
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from test_compare import fake_run, recorded
from torchvision.io import read_image
from wandb_server import WandbServer, wandb_server

from pt_flows.callbacks import Pictures
from pt_flows.cli.main import main
from pt_flows.compare.online import asking
from pt_flows.compare.runs import find_runs
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import checked_record
from pt_flows.evaluation.published import flat_numbers, readable_records
from pt_flows.runs.described import FLAT, flat_config

FIT = ["fit", "--config", "toy2d/w1_fe", "--trainer.accelerator", "cpu", "--evaluation.num_samples", "50",
       "--evaluation.every_n_iterations", "5", "--pictures.every_n_iterations", "5", "--trainer.log_every_n_steps", "5",
       "--trainer.enable_progress_bar", "false"]  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A server, and an account on it with all of W&B's files in the folder of the test."""
    import wandb

    wandb.teardown()  # another test may have made it read the environment
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("HOME", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield running
        wandb.teardown()


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def run_folder() -> Path:
    """The newest run folder."""
    return max(Path("runs").glob("*/*/config.yaml"), key=lambda file: file.stat().st_mtime).parent


def recorded_run(seed: int, project: str = "ring") -> Path:
    """A run folder with an evaluation, written by hand."""
    folder = fake_run(Path(f"runs/toy2d-w1fe/2026-{seed:08x}"), seed, "W1FE", [2.0, 1.0 + seed], step_size=1.0)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"run": {"project": project}}))
    (folder / "pictures").mkdir()
    (folder / "pictures" / "00000100.png").touch()
    return folder


@pytest.mark.usefixtures("logged_out")
def test_a_specification_of_run_folders(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a login a dry run describes the folders of the project, and needs no server."""
    folders = [recorded_run(seed) for seed in range(4)]
    recorded_run(9, "another")
    words = ["dashboard", "ring", "--baseline", str(folders[1]), "--report", "--dry-run", "spec.json"]
    assert main(words) == 0
    assert "wrote spec.json: 4 runs, 1 numbers about quality" in capsys.readouterr().out
    spec = json.loads(Path("spec.json").read_text())
    text = json.dumps(spec["workspace"])
    (runs,) = spec["workspace"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["method.value", "group.value"]
    assert base64.b64encode(b"Run:v1:00000001:ring:").decode() in text
    names = [part["name"] for part in spec["workspace"]["section"]["panelBankConfig"]["sections"]]
    assert [name.partition(":")[0] for name in names] == ["Quality", "Samples", "Settings"]
    text = json.dumps(spec["report"])
    assert "| W1FE " in text
    assert all(f"{seed:08x}" in text for seed in range(4))
    assert "00000009" not in text
    assert main(["dashboard", "ring", "--baseline", "12345678", "--dry-run", "spec.json"]) == 2
    assert "--baseline: expected a run of ring (00000000, " in capsys.readouterr().err


@pytest.mark.usefixtures("logged_out")
def test_without_a_login_one_sentence_names_the_local_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "ring"]) == 2
    said = "error: W&B: expected a login, got none. Run wandb login. Without an account: pt-flows watch runs, "
    assert capsys.readouterr().err == said + "pt-flows report runs, pt-flows compare runs. See docs/dashboards.md\n"
    assert main(["dashboard", "ring", "--dry-run", "a.json"]) == 2
    assert "ring: expected a folder runs, or a login in W&B, got neither" in capsys.readouterr().err
    assert main(["dashboard", "me/ring/a", "--dry-run", "a.json"]) == 2
    assert "expected PROJECT or ENTITY/PROJECT, got me/ring/a" in capsys.readouterr().err


def test_a_server_that_denies_or_goes_away(server: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "nothing"]) == 2
    error = "nothing: expected a W&B project that you can read, got 'Could not find project nothing'"
    assert error in capsys.readouterr().err
    server.projects.add("ring")
    assert main(["dashboard", "me/ring"]) == 2
    assert "me/ring: expected runs of pt_flows with evaluations, got none" in capsys.readouterr().err
    summary = {"iteration": 5, "cost/seconds": 1.0, "eval/w2_1k": {"last": 1.0, "min": 1.0}}
    server.runs["12345678"] = {"project": "ring", "jobType": "train", "history": [], "summary": summary, "config": {}}
    server.forbidden = "upsertView"
    assert main(["dashboard", "ring"]) == 2
    error = capsys.readouterr().err
    assert "me/ring: expected the right to save a workspace there, got " in error
    assert "permission denied" in error
    assert error.count("\n") == 1
    server.forbidden, server.away = "nothing", "upsertView"
    assert main(["dashboard", "ring"]) == 2
    error = capsys.readouterr().err
    assert f"W&B: expected a response from {server.url}, got none (EOF). Try again later" in error
    assert not Path("runs/dashboards.json").exists()


def test_flat_keys_tell_configurations_and_forks() -> None:
    config: dict[str, Any] = {"model": {"class_path": "a.W1FE", "init_args": {"k": 1}}, "data": {"class_path": "Toy2D"}}
    first = flat_config(config | {"seed_everything": 1, "run": {"name": "x"}}, 1, 10, None)
    other = flat_config(config | {"seed_everything": 2}, 2, 10, None)
    assert first == other | {"seed": 1}
    assert (first["method"], first["dataset"], first["num_parameters"]) == ("W1FE", "Toy2D", 10)
    config["model"] = {"class_path": "a.W1FE", "init_args": {"k": 2}}
    parent = {"checkpoint": "runs/toy2d-w1fe/2026-1a2b3c4d/checkpoints/last.ckpt", "iteration": 7, "sha256": "0"}
    fork = flat_config(config, 1, 10, parent)
    assert (fork["parent"], fork["parent_iteration"]) == ("1a2b3c4d", 7)
    assert fork["group"] != first["group"]
    assert flat_config(config, 1, 10, parent | {"checkpoint": "saved.ckpt"})["parent"] == "saved.ckpt"
    assert fork.keys() == set(FLAT)


def test_numbers_of_a_summary_tell_weights_and_samplers_apart() -> None:
    """A number is the mean over sampling seeds at the last iteration."""
    folder = Path("run")
    for iteration, seed, value in ((5, 0, 9.0), (10, 0, 1.0), (10, 1, 3.0)):
        recorded(folder, {"w2_1k": value}, iteration=iteration, sampling_seed=seed)
    recorded(folder, {"w2_1k": 4.0}, weights="raw")
    recorded(folder, {"w2_1k": 5.0}, weights="raw", sampler="REPGAN(num_steps=9, x=1)")
    records = [checked_record(record, "") for record in readable_records(folder)]
    assert flat_numbers(records) == {
        "evaluate/w2_1k": 2.0, "evaluate/w2_1k/raw": 4.0, "evaluate/w2_1k/raw-REPGAN_num_steps=9_x=1": 5.0
    }  # fmt: skip


def test_real_images_are_drawn_beside_samples() -> None:
    """The picture has the training images in the range and the layout of samples; toys have none of their own."""
    levels = torch.tensor([0, 85, 170, 255], dtype=torch.uint8)
    images = levels.view(4, 1, 1, 1).expand(4, 1, 64, 64)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(event_shape=(1, 64, 64), up_to=lambda *_: images))
    assert Pictures(num_images=4).draw_real(trainer, Path("pictures/real.png"))
    drawn = read_image("pictures/real.png")
    assert drawn[0, 30, [30, 100]].tolist() == [0, 85]
    assert drawn[0, 100, [30, 100]].tolist() == [170, 255]
    trainer.datamodule.event_shape = (2,)
    assert not Pictures().draw_real(trainer, Path("none.png"))


@pytest.mark.slow
def test_the_whole_way_online(server: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, resuming, evaluating, a dashboard and its update, and a comparison that reads the run back."""
    assert main([*FIT, "--trainer.max_steps", "5", "--seed_everything", "3"]) == 0
    folder = run_folder()
    run_id = folder.name.rsplit("-", 1)[-1]
    assert main([*FIT, "--trainer.max_steps", "10", "--seed_everything", "3", "--ckpt_path", "last"]) == 0
    assert list(server.runs) == [run_id]
    run = server.runs[run_id]
    check_run(run, run_id)
    assert main(["evaluate", str(folder), "--n", "40"]) == 0
    assert f"/me/pt_flows/runs/{run_id}" in capsys.readouterr().out
    assert run["summary"]["evaluate/w2_40"] > 0
    assert run["summary"]["eval/w2_50"]["last"] > 0  # earlier values stay
    assert run["exit"] == 0

    for _ in range(2):
        assert main(["dashboard", "pt_flows", "--report", "--baseline", str(folder)]) == 0
        out = capsys.readouterr().out
        assert re.search(rf"workspace: {server.url}/me/pt_flows\?nw=\w+\n", out)
        assert f"report: {server.url}/me/pt_flows/reports/" in out
        assert len(server.views) == 2, "the second call updates the views of the first"
    workspace, report = (json.loads(view["spec"]) for view in server.views.values())
    check_logged(workspace, run)
    check_logged(report, run)
    assert "| W1FE " in json.dumps(report)
    assert run_id in json.dumps(report)

    server.views.clear()
    assert main(["dashboard", "pt_flows"]) == 2
    assert "expected a saved view of W&B, got none. Remove its line from runs/dashboards" in capsys.readouterr().err
    assert main(["dashboard", "pt_flows", "--url", "nowhere"]) == 2
    assert "nowhere: expected a saved view of W&B, got none" in capsys.readouterr().err

    assert main(["compare", f"me/pt_flows/{run_id}", "--metric", "w2_50"]) == 0
    assert "| W1FE " in capsys.readouterr().out
    online, local = find_runs([f"me/pt_flows/{run_id}", str(folder)])
    assert (online.seed, online.records, online.parent) == (local.seed, local.records, local.parent)
    assert online.curve("w2_50") == local.curve("w2_50")
    assert not online.config.keys() & set(FLAT)


def check_run(run: dict[str, Any], run_id: str) -> None:
    """Check the description, the rows and the summary of a run of ten iterations."""
    config = {key: value["value"] for key, value in run["config"].items()}
    assert {"method": "W1FE", "dataset": "Toy2D", "seed": 3}.items() <= config.items()
    assert config["num_parameters"] == 33_666 + 33_537
    assert re.fullmatch("[0-9a-f]{8}", config["group"])
    assert (run["jobType"], run["displayName"]) == ("train", f"toy2d-w1fe-seed3-{run_id[:4]}")
    evaluations = [row for row in run["history"] if "eval/w2_50" in row]
    assert [row["iteration"] for row in evaluations] == [5, 10]
    for row in evaluations:
        assert {"cost/seconds", "cost/images_seen", "cost/evaluations_critic", "eval/w2_50_floor"} <= row.keys()
    captions = [row["samples"]["caption"] for row in run["history"] if "samples" in row]
    assert captions == ["iteration 5, ema weights", "iteration 10, ema weights"]
    assert set(run["summary"]["eval/w2_50"]) == {"last", "min"}
    assert set(run["summary"]["eval/modes"]) == {"last", "max"}


def check_logged(spec: Any, run: dict[str, Any]) -> None:
    """Check that every key in a specification is one that the run has logged."""
    text = json.dumps(spec)
    logged = {key for row in run["history"] for key in row}
    named = set(re.findall(r'"(?:summary:|summary_metrics\.)?((?:eval|train|cost)/[^"]+|iteration)"', text))
    assert {"iteration", "eval/w2_50", "eval/w2_50_floor", "cost/evaluations_generator", "eval/w2_50.min"} <= named
    assert {re.sub(r"\.(last|min|max)$", "", key) for key in named} <= logged
    for key in named - logged:
        name, _, part = key.rpartition(".")
        assert part in run["summary"][name]
    media = {key for keys in re.findall(r'"mediaKeys": (\[[^]]*\])', text) for key in json.loads(keys)}
    assert media == {"samples"} <= logged
    assert {*re.findall(r"config:(\w+)", text), "method", "group"} <= run["config"].keys()


@pytest.mark.slow
def test_numbers_of_an_offline_run_sync_with_it(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of `evaluate` repeats the summary of training, because it replaces that on the server."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main([*FIT, "--trainer.max_steps", "5"]) == 0
    folder = run_folder()
    assert main(["evaluate", str(folder), "--n", "40"]) == 0
    parts = sorted(map(str, folder.glob("wandb/offline-run-*")))
    assert len(parts) == 2
    command = [str(Path(sys.executable).with_name("wandb")), "sync", *parts]
    subprocess.run(command, capture_output=True, timeout=120, check=True, env=os.environ | {"WANDB_MODE": "online"})
    (run,) = server.runs.values()
    assert run["jobType"] == "train"
    assert run["summary"]["evaluate/w2_40"] > 0
    assert run["summary"]["eval/w2_50"]["last"] > 0
    assert run["summary"]["cost/seconds"] > 0


@pytest.mark.slow
def test_a_failed_run_is_marked_as_failed(server: WandbServer) -> None:
    broken = ["--model.critic.optimizer.init_args.lr", "1e30", "--evaluation.every_n_iterations", "0"]
    assert main([*FIT, "--trainer.max_steps", "50", *broken]) == 1
    (run,) = server.runs.values()
    assert run["exit"] == 1
    assert re.search("is (nan|inf)", run["summary"]["failed"])


def test_a_full_disk_is_no_failure_of_wandb(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a.json"))
    with pytest.raises(OSError, match="No space left"), asking("me/toys", "a project", "Check its name"):
        raise full
    with (
        pytest.raises(UserError, match="me/toys: expected a project"),
        asking("me/toys", "a project", "Check its name"),
    ):
        raise ValueError("no such project")
