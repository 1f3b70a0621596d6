"""Bookkeeping of a run: the log and the costs begin and end with it, and resumed runs keep the configured rates."""

from typing import Any

import lightning as L

from pt_flows.training.noise import run_seed
from pt_flows.training.optimizers import keep_what_fits


class Bookkeeper(L.Callback):
    """Begins and ends the books of a method."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin the log and the count of costs, and drop states of optimizers that do not fit."""
        method: Any = pl_module
        method.trained_seed = run_seed()
        method.journal.begin(method)
        method.cost.unwatch()  # of a run that failed
        method.cost.watch(method.networks)
        for player in method.players.values():
            player.keep_settings()  # callbacks may have chosen kernels
        for note in keep_what_fits(method.loaded_optimizers, trainer.optimizers):
            method.print(f"note: {note}")
        method.loaded_optimizers = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the learning rates of a checkpoint by the configured ones."""
        method: Any = pl_module
        for player in method.players.values():
            player.restore_settings()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the iterations after the last full interval."""
        method: Any = pl_module
        method.flush()
        method.cost.unwatch()
