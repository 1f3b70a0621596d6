"""Fixtures: no test uses the network or writes outside temporary folders."""

import math
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """Keep reference statistics in $PT_FLOWS_CACHE if CI sets it, else in a folder of this session."""
    os.environ.setdefault("PT_FLOWS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run every test in its own folder and with seed 0."""
    monkeypatch.chdir(tmp_path)
    L.seed_everything(0, verbose=False)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def no_moments_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip moments that serve a warning alone and take twenty seconds for 3,072 values."""
    from pt_flows.methods.energies import da_ebm, moments

    def quick(data: Any, data_noise: float, event_shape: tuple[int, ...], needed: bool) -> Any:
        skipped = not needed and math.prod(event_shape) > 1_024
        return None if skipped else moments.moments(data, data_noise, event_shape, needed)

    monkeypatch.setattr(da_ebm, "moments", quick)


@pytest.fixture
def cifar_root() -> Path:
    """Return the folder of the real CIFAR-10; skip the test if there is none."""
    root = Path(os.environ.get("PT_FLOWS_DATA", ""))
    if not (root / "cifar-10-batches-py" / "data_batch_1").is_file():
        pytest.skip("no CIFAR-10: set PT_FLOWS_DATA to the folder that holds cifar-10-batches-py")
    return root
