"""Lightning's callbacks that watch a metric, which act once per evaluation here."""

from collections.abc import Iterator
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from pt_flows.errors import UserError


def watchers(trainer: L.Trainer) -> Iterator[EarlyStopping | ModelCheckpoint]:
    """The callbacks of a Trainer that watch a metric."""
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            yield callback


def watch_evaluations(trainer: L.Trainer) -> None:
    """Let them act where an evaluation ends, not where an epoch does: the only epoch ends with the run."""
    for callback in watchers(trainer):
        if isinstance(callback, EarlyStopping):
            callback._check_on_train_epoch_end = False
        else:
            callback._save_on_train_epoch_end = False


def tell_watchers(trainer: L.Trainer, module: L.LightningModule, fresh: dict[str, float]) -> None:
    """An evaluation is what validation is to Lightning: those whose metric is fresh act.

    Args:
        trainer: Whose callbacks.
        module: What is trained.
        fresh: The numbers of this evaluation by their log keys; training losses are always fresh.

    Raises:
        UserError: A callback watches a number that there is not.
    """
    known = trainer.callback_metrics
    for callback in watchers(trainer):
        if callback.monitor in fresh or (callback.monitor in known and not callback.monitor.startswith("eval/")):
            callback.on_validation_end(trainer, module)
        elif callback.monitor not in known and getattr(callback, "strict", True):
            raise UserError(
                f"{type(callback).__name__}: monitor: there is no number {callback.monitor!r}; there are "
                f"{', '.join(sorted(known))}"
            )
