"""What of Lightning counts epochs, and so can not work where data are endless: refused before anything is drawn.

An epoch ends where `limit_train_batches` ends it, and nowhere else.
"""

from typing import Any, cast

import lightning as L
from lightning.pytorch import callbacks
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pt_flows.errors import UserError

END = "set max_steps (iterations), max_time, or with max_epochs limit_train_batches (blocks of an epoch)"
COUNT_EPOCHS: dict[type[L.Callback], str] = {
    callbacks.StochasticWeightAveraging: "every method averages its weights: model.ema_decay",
    callbacks.WeightAveraging: "every method averages its weights: model.ema_decay",
    callbacks.GradientAccumulationScheduler: "a step of a method takes its whole minibatch: data.batch_size",
    callbacks.BatchSizeFinder: "set data.batch_size",
    callbacks.LearningRateFinder: "compare runs of several learning rates with pt-flows compare",
    callbacks.BaseFinetuning: "set requires_grad of the networks before the run, and continue with pt-flows fork",
    callbacks.ModelPruning: "prune the networks of a checkpoint",
    callbacks.SpikeDetection: "a loss that is not finite stops a run by itself",
}
"""Lightning's callbacks for loops of epochs and one optimizer, and what to do instead."""


def has_epochs(trainer: L.Trainer) -> bool:
    """Whether an epoch ends before the run does."""
    return isinstance(trainer.limit_train_batches, int)


def check_endings(trainer: L.Trainer) -> None:
    """Refuse ways to end a run that never come, and those that leave nothing to train.

    Raises:
        UserError: Names the setting, and what ends a run.
    """
    given: Any = trainer
    if given.overfit_batches:
        raise UserError("trainer.overfit_batches is not supported: data are drawn afresh; take a small data set")
    if trainer.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches: expected 1.0 or a number of blocks, got 0. It trains nothing")
    if has_epochs(trainer):
        return
    if isinstance(trainer.max_epochs, int) and trainer.max_epochs >= 0:
        raise UserError(f"trainer.max_epochs: expected -1, got {trainer.max_epochs}. Data are endless: {END}")
    loop = trainer.fit_loop
    if loop.min_steps and loop.min_epochs == 1:  # Lightning adds this epoch to min_steps
        loop.min_epochs = 0
    if loop.min_epochs:
        raise UserError(
            f"trainer.min_epochs: expected none, got {loop.min_epochs}. Data are endless: set min_steps (iterations)"
        )


def check_callbacks(trainer: L.Trainer) -> None:
    """Refuse callbacks that would never act, or act on the wrong thing.

    Raises:
        UserError: Names the callback, and what to do instead.
    """
    all_callbacks = cast(list[L.Callback], cast(Any, trainer).callbacks)
    evaluated = any(getattr(callback, "tiers", None) for callback in all_callbacks)
    for callback in all_callbacks:
        name = f"trainer.callbacks: {type(callback).__name__}"
        for kind, instead in COUNT_EPOCHS.items():
            if isinstance(callback, kind):
                raise UserError(f"{name} is not supported: it is for epochs of one optimizer; {instead}")
        if has_epochs(trainer):
            continue
        if isinstance(callback, callbacks.EarlyStopping) and not evaluated:
            raise UserError(f"{name} acts once per evaluation, and there are none; set evaluation.metrics")
        if isinstance(callback, callbacks.Timer) and callback._interval == "epoch":
            raise UserError(f"{name}: interval: expected step, got epoch. Data are endless, an epoch never ends")
        if isinstance(callback, callbacks.ModelCheckpoint):
            _check_model_checkpoint(name, callback, evaluated, getattr(trainer, "datamodule", None))


def _check_model_checkpoint(name: str, callback: callbacks.ModelCheckpoint, evaluated: bool, data: Any) -> None:
    if callback._train_time_interval is not None:
        raise UserError(f"{name} can not count time here; set its every_n_train_steps (iterations)")
    block = getattr(data, "iterations_per_block", 1)
    if callback._every_n_train_steps % block:
        raise UserError(
            f"{name}: every_n_train_steps: expected a multiple of data.iterations_per_block ({block}), got "
            f"{callback._every_n_train_steps}"
        )
    if callback.monitor is not None and not callback._every_n_train_steps and not evaluated:
        raise UserError(f"{name} acts once per evaluation, and there are none; set evaluation.metrics")
    if callback._every_n_epochs > 1:
        raise UserError(
            f"{name}: every_n_epochs: expected none, got {callback._every_n_epochs}. Data are endless; set "
            "every_n_train_steps (iterations), or monitor to save per evaluation"
        )


def check_schedulers(trainer: L.Trainer) -> None:
    """Refuse schedules that wait for a metric: each is stepped once per iteration, and without one.

    Raises:
        UserError: Names the class, and what to do instead.
    """
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, ReduceLROnPlateau):
            raise UserError(
                f"configure_optimizers: expected schedules that are stepped once per iteration, got "
                f"{type(config.scheduler).__name__}. Use lr_decay, or a LambdaLR"
            )
