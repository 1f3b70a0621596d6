"""Fixtures: nothing leaves the machine, nothing is written outside temporary folders."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["WANDB_MODE"] = "disabled"
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_SILENT"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

if threading.current_thread() is threading.main_thread():  # nohup and background jobs ignore these two
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import lightning as L
import torch


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reference statistics go to $PT_FLOWS_CACHE where CI sets it, else to a folder of this session."""
    os.environ.setdefault("PT_FLOWS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder of its own and seed 0 for every test."""
    monkeypatch.chdir(tmp_path)
    L.seed_everything(0, verbose=False)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def cifar_root() -> Path:
    """Folder of the real CIFAR-10, or skip."""
    root = Path(os.environ.get("PT_FLOWS_DATA", ""))
    if not (root / "cifar-10-batches-py" / "data_batch_1").is_file():
        pytest.skip("no CIFAR-10: set PT_FLOWS_DATA to the folder that holds cifar-10-batches-py")
    return root
