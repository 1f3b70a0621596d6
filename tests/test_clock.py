"""Lightning's counters, loggers and monitors count iterations, whatever the size of a block."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from problems import data, fit

from pt_flows import Critic, Method, Schedule
from pt_flows.contracts import Batch, Terms
from pt_flows.nets import MLPCritic

TOTAL = 300


class Logging(Method):
    """A user's method that logs in Lightning's way, and takes three optimizer steps per iteration."""

    def __init__(self) -> None:
        super().__init__()
        adam = partial(torch.optim.Adam, lr=0.5)
        self.critic = Critic(MLPCritic(width=4), adam, Schedule(decay="linear"))

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        ((x, _),) = minibatches
        self.log("done", float(self.iteration + 1))
        for _ in range(3):
            self.critic.step(self.critic(x).square().mean())
        return {"rate": torch.tensor(self.critic.lr)}


class Wrapped(Logging):
    """The same with Lightning's optimizer, which counts its own steps."""

    def iterate(self, minibatches: Sequence[Batch]) -> Terms:
        terms = super().iterate(minibatches)
        optimizer: Any = self.optimizers()
        optimizer.step()
        return terms


def rows(logger: CSVLogger, key: str) -> dict[int, float]:
    """Values of a column by the step of their row."""
    with Path(logger.log_dir, "metrics.csv").open() as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def run(cls: type[Logging], block: int, total: int, root: Path, **arguments: Any) -> tuple[Any, CSVLogger]:
    logger = CSVLogger(root)
    checkpoints = ModelCheckpoint(root / "kept", every_n_train_steps=100, save_top_k=-1)
    trainer = fit(
        cls(), data(iterations_per_block=block), max_steps=total, logger=logger, log_every_n_steps=50,
        enable_checkpointing=True, callbacks=[LearningRateMonitor("step"), checkpoints], **arguments,
    )  # fmt: skip
    return trainer, logger


@pytest.mark.slow
@pytest.mark.parametrize("cls", [Logging, Wrapped])
@pytest.mark.parametrize("block", [1, 10, 100])
def test_rows_and_files_are_numbered_by_iterations(cls: type[Logging], block: int, tmp_path: Path) -> None:
    """Lightning numbers the row after N iterations N - 1; the journal's row after N iterations is N."""
    trainer, logger = run(cls, block, TOTAL, tmp_path)
    assert trainer.global_step == trainer.lightning_module.iteration == TOTAL
    steps = list(range(max(50, block), TOTAL + 1, max(50, block)))
    assert rows(logger, "done") == {n - 1: n for n in steps}
    assert rows(logger, "lr-Adam") == {n - 1: pytest.approx(0.5 * (1 - (n - 1) / TOTAL)) for n in steps}
    assert list(rows(logger, "train/rate")) == list(range(50, TOTAL + 1, 50))
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {f"epoch=0-step={n}.ckpt" for n in (100, 200, 300)}


def test_a_block_that_passes_a_multiple_writes_one_row(tmp_path: Path) -> None:
    """The row has the number of the multiple, and the value of the block's last iteration."""
    logger = CSVLogger(tmp_path)
    fit(Logging(), data(iterations_per_block=40), max_steps=130, logger=logger, log_every_n_steps=50)
    assert rows(logger, "done") == {49: 80, 99: 120}


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 10, 100])
def test_a_resumed_run_continues_the_count(block: int, tmp_path: Path) -> None:
    run(Logging, block, 200, tmp_path / "first")
    (kept,) = (tmp_path / "first/kept").glob("*step=200.ckpt")
    trainer, logger = run(Logging, block, 400, tmp_path / "second", ckpt_path=kept)
    assert trainer.global_step == trainer.lightning_module.iteration == 400
    steps = list(range(200 + max(50, block), 401, max(50, block)))
    assert rows(logger, "done") == {n - 1: n for n in steps}
    assert rows(logger, "lr-Adam") == {n - 1: pytest.approx(0.5 * (1 - (n - 1) / 400)) for n in steps}
    assert {path.name.partition("-")[2] for path in (tmp_path / "second/kept").iterdir()} == {
        f"step={n}.ckpt" for n in (300, 400)
    }


def test_steps_do_not_look_for_a_driver_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's setting makes torch's optimizers count devices through the driver library in every step."""
    counted: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: counted.append(1) or 0)
    counts = []
    for total in (2, 20):
        counted.clear()
        monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        fit(Logging(), data(), max_steps=total)
        counts.append(len(counted))
    assert counts[0] == counts[1]
