"""Evaluation over several processes, schedules in blocks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from problems import build, data, fit
from torch.backends import cuda, cudnn

from pt_flows.callbacks import ChainPicture, Evaluate, FlowPicture, Pictures
from pt_flows.callbacks.evaluate import measured
from pt_flows.callbacks.schedule import EveryIterations
from pt_flows.contracts import UserError
from pt_flows.metrics import ExactWasserstein, ModeCoverage
from pt_flows.runs import RunOptions, loggers


class Keep(L.Callback):
    """Write the first process's numbers to a file, which outlives a forked process."""

    def __init__(self, evaluate: Evaluate, path: Path) -> None:
        self.evaluate, self.path = evaluate, path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.evaluate.latest))


@pytest.mark.parametrize("num_samples", [300, 700])
def test_two_processes_measure_the_same_number(num_samples: int, tmp_path: Path) -> None:
    """With 300 samples, one chunk, the second process has none of its own."""
    found = []
    for name, ranks in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        evaluate = Evaluate([ExactWasserstein(), ModeCoverage()], num_samples, every_n_iterations=0)
        path = tmp_path / f"{name}{num_samples}.json"
        fit(
            build("W1FE"), data(), max_steps=2, callbacks=[evaluate, Keep(evaluate, path)], precision="64-true", **ranks
        )
        found.append(json.loads(path.read_text()))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-6), key


def test_samples_are_measured_in_full_precision() -> None:
    """However a run trains: its generator and its metrics see neither TensorFloat-32 nor autocast."""
    module, seen = build("W1FE"), []
    settings = lambda: (cudnn.allow_tf32, cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu"))

    def batches() -> Iterator[torch.Tensor]:
        seen.append(settings())
        yield torch.randn(16, 2)

    metric = ModeCoverage()
    metric.prepare(data(), 16)
    cuda.matmul.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            measured([metric], batches(), module, "ema")
            assert settings() == (True, True, True)
    finally:
        cuda.matmul.allow_tf32 = False
    assert seen == [(False, False, False)]


def test_schedules_act_once_where_a_block_passes_a_multiple() -> None:
    class Acts(EveryIterations):
        at: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if self.due(trainer, pl_module):
                self.at.append(pl_module.iteration)

    acts = Acts(7)
    fit(build("WGANGP"), data(iterations_per_block=5), max_steps=23, callbacks=[acts])
    assert acts.at == [10, 15, 23]  # 7, 14 and 21 lie in these blocks; 23 is the end
    with pytest.raises(UserError, match="every_n_iterations must be 0 or more"):
        EveryIterations(-1)


def test_every_picture_reaches_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a flow which is stopped early."""
    import wandb

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            trainer.should_stop = pl_module.iteration >= 3

    for name in ("WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # another test may have made it read the environment
    options = RunOptions(wandb="offline")
    for name, steps, callbacks in (
        ("W1FE", 9, [FlowPicture(0, 8, animate=True), Stop()]), ("PCD", 2, [ChainPicture(1), Pictures(0)])
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        settings = {"default_root_dir": str(folder), "logger": loggers(folder, options, name, 0)}
        fit(build(name), data(iterations_per_block=1), max_steps=steps, callbacks=callbacks, min_steps=1, **settings)
        wandb.finish()
    wandb.teardown()  # the next one shall read it again
    found = sorted(file.name.rsplit("_", 2)[0] for file in tmp_path.glob("*/wandb/offline-run-*/files/media/*/*"))
    assert found == ["chains", "chains", "flow", "flow_animation", "samples"]
