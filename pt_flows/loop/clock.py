"""The clock: Lightning counts iterations. This is the only file with undocumented names of Lightning.

Lightning's `global_step` counts the steps of its optimizer wrappers, and its loggers count batches. Neither is the
iteration of a paper: a critic takes several steps, an integrator writes parameters itself, and a batch is a block of
several iterations. Methods use the raw optimizers, which Lightning does not count, and call `tick` once per iteration.
So `max_steps`, checkpoints, loggers, `self.log`, `LearningRateMonitor` and progress bars all count the outer loop.
"""

import os
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from pt_flows.contracts import Batch
from pt_flows.training.requirements import check_block


def ask_cheaply_for_devices() -> None:
    """Let torch's optimizers ask the runtime for a GPU where there is none: a microsecond in place of 130.

    They ask in every step. Lightning has set them to open the driver library each time, for which it has no reason
    without a driver.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def tick(trainer: L.Trainer, iteration: int) -> None:
    """Set Lightning's `global_step` to the number of iterations done."""
    total = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
    total.ready = total.completed = iteration


class Clock(L.Callback):
    """Sets Lightning's counters to the iteration, before any other callback reads them."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Move to the front of all callbacks."""
        callbacks = cast(list[L.Callback], cast(Any, trainer).callbacks)
        callbacks.remove(self)
        callbacks.insert(0, self)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Continue counting from the method's iteration."""
        ask_cheaply_for_devices()
        tick(trainer, cast(Any, pl_module).iteration)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Number the rows that Lightning writes for this block. Its own convention is N - 1 after N iterations.

        A block that reaches or passes a multiple of `log_every_n_steps` writes one row, for the last such multiple.
        Lightning's monitor reads the learning rates of that iteration.
        """
        method = cast(Any, pl_module)
        check_block(batch, method.minibatches_per_iteration)
        before, interval = method.iteration, method.log_interval
        after = before + len(batch[0])
        passed = after // interval * interval
        row = (passed if passed > before else after) - 1
        trainer.fit_loop.epoch_loop._batches_that_stepped = row
        method.set_rates(method.progress_at(row))


def synchronises_batch_norm(trainer: L.Trainer) -> bool:
    """Whether `sync_batchnorm` is on."""
    return getattr(trainer.strategy, "_layer_sync", None) is not None


def ends_with_epoch(timer: Timer) -> bool:
    """Whether a Timer checks the time at the end of epochs only."""
    return timer._interval == "epoch"


def saving_rule(callback: ModelCheckpoint) -> tuple[Any, int, int]:
    """Return the intervals at which a ModelCheckpoint saves: time, steps, epochs."""
    return callback._train_time_interval, callback._every_n_train_steps, callback._every_n_epochs


def forget_first_epoch(trainer: L.Trainer) -> None:
    """Drop the one epoch that Lightning demands if `min_steps` is set."""
    loop = trainer.fit_loop
    if loop.min_steps and loop.min_epochs == 1:
        loop.min_epochs = 0
