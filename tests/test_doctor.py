"""The command that looks at a machine."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pt_flows.cli import doctor
from pt_flows.cli.main import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no data, no compiler of the user's choice."""
    monkeypatch.chdir(tmp_path)
    for name in ("PT_FLOWS_DATA", "CXX", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_report_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("program", "python", "packages", "devices", "compiler", "disk", "data", "W&B", "recipes"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name
    assert "1. data: no data set is there" in text


def test_machine_without_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data/cifar-10-batches-py").mkdir(parents=True)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "CIFAR10 in data (the default" in text
    assert text.endswith("no problems found\n")


def test_wrong_package_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["torch>=99", "not-a-package-of-anybody>=1", 'optuna>=99; extra == "tune"', "pyyaml>=6"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert re.search(r'1. torch: expected >=99, got \S+. Run pip install "torch>=99"', text)
    assert re.search(r"2. not-a-package-of-anybody: expected >=1, got none.", text)
    assert "optuna" not in text


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("PT_FLOWS_DATA", "/nowhere", r"PT_FLOWS_DATA: expected a folder, got /nowhere"),
        ("PT_FLOWS_DATA", __file__, r"PT_FLOWS_DATA: expected a folder, got .*, which is a file"),
        (
            "PT_FLOWS_CACHE",
            f"{__file__}/cache",
            r"PT_FLOWS_CACHE: expected a folder, got .*, which is a file or in one",
        ),
        ("OMP_NUM_THREADS", "-3", r"OMP_NUM_THREADS: expected a whole number of at least 1, got '-3'"),
        ("WANDB_MODE", "of", r"WANDB_MODE: expected online, offline or disabled, got 'of'"),
        ("CXX", "no-compiler", r"CXX: expected a compiler, got no-compiler"),
    ],
)
def test_wrong_settings_are_problems(
    setting: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(setting, value)
    assert main(["doctor"]) == 0
    assert re.search(problem, capsys.readouterr().out)


def test_offline_by_choice_is_not_for_want_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert doctor.wandb_state()[0].startswith("offline;") or doctor.wandb_state()[0] == "offline"


def test_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=1e9))
    assert re.search(r"expected 2 GB for checkpoints, got 1.0", doctor.disk()[1])


def test_gpu_that_torch_cannot_use_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    assert "cannot use the GPU that nvidia-smi shows" in doctor.devices()[1]


def test_runs_that_wait_for_their_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part: Any = tmp_path / "runs/toy/run/wandb/offline-run-1"
    part.mkdir(parents=True)
    text, problem = doctor.wandb_state()
    assert "offline: no API key" in text
    assert not problem
    monkeypatch.setenv("WANDB_MODE", "online")
    text, problem = doctor.wandb_state()
    assert "1 recorded parts" in text
    assert "Run wandb sync" in problem


def test_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "all"]) == 2
    assert "doctor: expected no arguments, got all" in capsys.readouterr().err
