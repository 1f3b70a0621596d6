"""Checks of Lightning's settings for loops of epochs, which cannot work with endless data.

An epoch ends where `limit_train_batches` ends it, and nowhere else.
"""

from typing import Any, cast

import lightning as L
from lightning.pytorch import callbacks

from pt_flows.errors import UserError
from pt_flows.loop.clock import ends_with_epoch, forget_first_epoch, saving_rule

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
    forget_first_epoch(trainer)
    loop = trainer.fit_loop
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
        if isinstance(callback, callbacks.Timer) and ends_with_epoch(callback):
            raise UserError(f"{name}: interval: expected step, got epoch. Data are endless, an epoch never ends")
        if isinstance(callback, callbacks.ModelCheckpoint):
            _check_model_checkpoint(name, callback, evaluated, getattr(trainer, "datamodule", None))


def _check_model_checkpoint(name: str, callback: callbacks.ModelCheckpoint, evaluated: bool, data: Any) -> None:
    time_interval, steps, epochs = saving_rule(callback)
    if time_interval is not None:
        raise UserError(f"{name} cannot count time here; set its every_n_train_steps (iterations)")
    block = getattr(data, "iterations_per_block", 1)
    if steps % block:
        raise UserError(
            f"{name}: every_n_train_steps: expected a multiple of data.iterations_per_block ({block}), got {steps}"
        )
    if callback.monitor is not None and not steps and not evaluated:
        raise UserError(f"{name} acts once per evaluation, and there are none; set evaluation.metrics")
    if epochs > 1:
        raise UserError(
            f"{name}: every_n_epochs: expected none, got {epochs}. Data are endless; set "
            "every_n_train_steps (iterations), or monitor to save per evaluation"
        )


def check_schedulers(trainer: L.Trainer) -> None:
    """Check that no schedule is left to Lightning, which would not step it.

    Raises:
        UserError: Names the class, and what to do instead.
    """
    for config in trainer.lr_scheduler_configs:
        raise UserError(
            f"configure_optimizers: expected optimizers alone, got a {type(config.scheduler).__name__}. Use "
            "lr_schedule of the players"
        )
