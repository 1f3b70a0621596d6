"""Persistent rounds of a run."""

import lightning as L

from pt_flows.callbacks.schedule import as_method
from pt_flows.training.rounds import Rounds


class PersistentRounds(Rounds, L.Callback):
    """Trains a method in rounds from one start, each repelled by the solutions of the earlier ones (`training.rounds`).

    After the last round the method has the weights of the best one, so that `last.ckpt`, evaluation and samples are
    those of it. Checkpoints hold the start and the archive: a run continues inside a round bit for bit, and the files
    grow by the size of the method with every round.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, or continue. By now a checkpoint has been loaded."""
        method = as_method(pl_module)
        self.begin(method, trainer.max_steps)
        method.rounds = self

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the method as it is without rounds."""
        method = as_method(pl_module)
        method.rounds = None
        for player in method.players.values():
            player.penalty = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the method after an error, too, after which Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")
