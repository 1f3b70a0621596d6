"""Lightning's callbacks that monitor a metric. Here they act once per evaluation."""

from collections.abc import Iterator
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pt_flows.errors import UserError
from pt_flows.runs.described import MEASURED


def watchers(trainer: L.Trainer) -> Iterator[EarlyStopping | ModelCheckpoint]:
    """Yield the callbacks of a Trainer that monitor a metric."""
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            yield callback


def watch_evaluations(trainer: L.Trainer) -> None:
    """Let them act at the end of evaluations, not of epochs: the only epoch ends with the run."""
    for callback in watchers(trainer):
        if isinstance(callback, EarlyStopping):
            callback._check_on_train_epoch_end = False
        else:
            callback._save_on_train_epoch_end = False


def tell_watchers(trainer: L.Trainer, module: L.LightningModule, fresh: dict[str, float]) -> None:
    """Call the callbacks that monitor a number of this evaluation, as Lightning does after validation.

    Args:
        trainer: The trainer with the callbacks.
        module: The trained method.
        fresh: Numbers of this evaluation by log key. Training losses are always fresh.

    Raises:
        UserError: A callback monitors a number that is not logged.
    """
    known = trainer.callback_metrics
    for callback in watchers(trainer):
        if callback.monitor in fresh or (callback.monitor in known and not callback.monitor.startswith(MEASURED)):
            callback.on_validation_end(trainer, module)
        elif callback.monitor not in known and getattr(callback, "strict", True):
            name, numbers = type(callback).__name__, ", ".join(sorted(known))
            raise UserError(f"{name}.monitor: expected one of {numbers}, got {callback.monitor!r}. Name one of them")
