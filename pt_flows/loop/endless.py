"""Checks of Lightning's settings for loops of epochs, which cannot work with endless data.

Only `limit_train_batches` ends an epoch.
"""

from typing import Any, cast

import lightning as L
from lightning.pytorch import callbacks

from pt_flows.errors import UserError
from pt_flows.loop.clock import ends_with_epoch, forget_first_epoch, saving_rule

END = "Set max_steps (iterations), max_time, or with max_epochs limit_train_batches (blocks of an epoch)"
NO_EVALUATION = "expected evaluations, after which it acts, got none. Set evaluation.metrics"
COUNT_EPOCHS: dict[type[L.Callback], str] = {
    callbacks.StochasticWeightAveraging: "Set ema_decay of the players instead",
    callbacks.WeightAveraging: "Set ema_decay of the players instead",
    callbacks.GradientAccumulationScheduler: "Set data.batch_size: a step takes its whole minibatch",
    callbacks.BatchSizeFinder: "Set data.batch_size",
    callbacks.LearningRateFinder: "Compare runs of several learning rates with pt-flows compare",
    callbacks.BaseFinetuning: "Set requires_grad of the networks before the run, and continue with pt-flows fork",
    callbacks.ModelPruning: "Prune the networks of a checkpoint",
    callbacks.SpikeDetection: "Omit it: a loss that is not finite stops a run by itself",
}
"""Lightning's callbacks for loops of epochs and one optimizer, each with advice."""


def has_epochs(trainer: L.Trainer) -> bool:
    """Whether an epoch ends before the run does."""
    return isinstance(trainer.limit_train_batches, int)


def check_endings(trainer: L.Trainer) -> None:
    """Check that the run can end, and that it trains.

    Raises:
        UserError: It cannot; the error names the setting.
    """
    given: Any = trainer
    if given.overfit_batches:
        got = given.overfit_batches
        raise UserError(f"trainer.overfit_batches: expected 0, got {got}. Data are drawn afresh: use a small data set")
    if trainer.limit_train_batches == 0:
        raise UserError("trainer.limit_train_batches: expected 1.0 or a number of blocks, got 0. It trains nothing")
    if has_epochs(trainer):
        return
    if isinstance(trainer.max_epochs, int) and trainer.max_epochs >= 0:
        raise UserError(f"trainer.max_epochs: expected -1, as data are endless, got {trainer.max_epochs}. {END}")
    forget_first_epoch(trainer)
    if epochs := trainer.fit_loop.min_epochs:
        raise UserError(f"trainer.min_epochs: expected none, as data are endless, got {epochs}. Set min_steps")


def check_callbacks(trainer: L.Trainer) -> None:
    """Check that every callback would act, and act on the right thing.

    Raises:
        UserError: One would not; the error names it.
    """
    all_callbacks = cast(list[L.Callback], cast(Any, trainer).callbacks)
    evaluated = any(getattr(callback, "tiers", None) for callback in all_callbacks)
    for callback in all_callbacks:
        name = f"trainer.callbacks.{type(callback).__name__}"
        for kind, advice in COUNT_EPOCHS.items():
            if isinstance(callback, kind):
                raise UserError(f"{name}: expected no callback for epochs of one optimizer, got one. {advice}")
        if has_epochs(trainer):
            continue
        if isinstance(callback, callbacks.EarlyStopping) and not evaluated:
            raise UserError(f"{name}: {NO_EVALUATION}")
        if isinstance(callback, callbacks.Timer) and ends_with_epoch(callback):
            raise UserError(f"{name}.interval: expected step, as data are endless, got epoch. Set it to step")
        if isinstance(callback, callbacks.ModelCheckpoint):
            _check_model_checkpoint(name, callback, evaluated, getattr(trainer, "datamodule", None))


def _check_model_checkpoint(name: str, callback: callbacks.ModelCheckpoint, evaluated: bool, data: Any) -> None:
    time_interval, steps, epochs = saving_rule(callback)
    if time_interval is not None:
        raise UserError(f"{name}.train_time_interval: expected none, got {time_interval}. Set every_n_train_steps")
    block = getattr(data, "iterations_per_block", 1)
    if steps % block:
        wanted = f"a multiple of data.iterations_per_block ({block})"
        raise UserError(f"{name}.every_n_train_steps: expected {wanted}, got {steps}")
    if callback.monitor is not None and not steps and not evaluated:
        raise UserError(f"{name}: {NO_EVALUATION}")
    if epochs > 1:
        advice = "Set every_n_train_steps (iterations), or monitor to save per evaluation"
        raise UserError(f"{name}.every_n_epochs: expected none, as data are endless, got {epochs}. {advice}")


def check_schedulers(trainer: L.Trainer) -> None:
    """Check that no schedule is left to Lightning, which would not step it.

    Raises:
        UserError: One is; the error names its class.
    """
    for config in trainer.lr_scheduler_configs:
        got = type(config.scheduler).__name__
        raise UserError(f"configure_optimizers: expected optimizers alone, got a {got}. Use lr_schedule of the players")
