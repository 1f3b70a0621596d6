"""Power-function averages of the weights during training, from which averages of other lengths are made afterwards."""

from pathlib import Path
from typing import Any, cast

import lightning as L

from pt_flows.bounds import Count
from pt_flows.callbacks.checkpoints import AtomicCheckpointIO
from pt_flows.callbacks.rounds import PersistentRounds
from pt_flows.callbacks.schedule import EveryIterations, as_method
from pt_flows.errors import UserError
from pt_flows.training.power import KEPT, PowerAverage

SNAPSHOTS = 20
"""Number of snapshots of a run, by default."""


class PowerAverages(EveryIterations):
    """Keeps two power-function averages of every player with an `ema_decay`, and writes them to `averages/` at times.

    After training, `--weights power@0.08` combines them to the average of that width (`training.power`). Checkpoints
    hold the two averages, so that a run continues bit for bit and each checkpoint can be the end of an average.

    Args:
        every_n_iterations: Iterations between two files; by default a twentieth of the run.
    """

    def __init__(self, every_n_iterations: Count | None = None) -> None:
        super().__init__(every_n_iterations or 0)
        self.kept: dict[str, dict[float, PowerAverage[Any]]] = {}
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there are averages to keep.

        Raises:
            UserError: There are none, or the run has rounds, returns to earlier states, or has no end.
        """
        if stage != "fit":
            return
        if not any(player.averages for player in as_method(pl_module).players.values()):
            raise UserError("PowerAverages: expected a player with an average, got none. Set the ema_decay of a player")
        if any(isinstance(callback, PersistentRounds) for callback in cast(Any, trainer).callbacks):
            raise UserError("PowerAverages: expected a run without PersistentRounds, got one with it. Omit either")
        if as_method(pl_module).rollback is not None:
            got = "one with on_divergence: roll_back, which would not restore the averages"
            raise UserError(f"PowerAverages: expected a run that stops if it diverges, got {got}. Omit either")
        if not self.every_n_iterations:
            if trainer.max_steps < 1:
                wanted = "expected a number, as the run has no max_steps"
                raise UserError(f"PowerAverages.every_n_iterations: {wanted}, got none. Set it")
            self.every_n_iterations = -(-trainer.max_steps // SNAPSHOTS)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, or continue. By now a checkpoint has been loaded, and later snapshots are of lost iterations.

        Raises:
            UserError: The run continues from a checkpoint without averages.
        """
        super().on_train_start(trainer, pl_module)
        method = as_method(pl_module)
        if method.iteration and self._loaded is None:
            got = f"a checkpoint of iteration {method.iteration} without them"
            raise UserError(f"PowerAverages: expected averages from the first iteration, got {got}. Start a new run")
        self.kept = {}
        for name, player in method.players.items():
            if player.ema is not None:
                self.kept[name] = {width: PowerAverage(player.ema.network, width) for width in KEPT}
                player.also_average = list(self.kept[name].values())
        if self._loaded is not None:
            for name, averages in self.kept.items():
                for width, average in averages.items():
                    average.network.load_state_dict(self._loaded[name][width])
            self._loaded = None
        if trainer.is_global_zero:
            for file in folder_of(trainer).glob("*.pt"):
                if file.stem.isdigit() and int(file.stem) > method.iteration:
                    file.unlink()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a snapshot when it is due, on the first process alone."""
        method = as_method(pl_module)
        if self.due(trainer, method) and trainer.is_global_zero and not cast(Any, trainer).fast_dev_run:
            file = folder_of(trainer) / f"{method.iteration:08d}.pt"
            AtomicCheckpointIO().save_checkpoint(self.state_dict(), file)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Follow the players no longer. The averages stay for a checkpoint that is saved after training."""
        for player in as_method(pl_module).players.values():
            player.also_average = []

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Follow the players no longer after an error, after which Lightning does not call `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights by player and width, with which a run continues. A snapshot holds the same."""
        kept = self.kept.items()
        return {"averages": {name: {w: a.network.state_dict() for w, a in of.items()} for name, of in kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them when training starts, where the networks are on their device."""
        self._loaded = state_dict["averages"]


def folder_of(trainer: L.Trainer) -> Path:
    """Return the folder of the snapshots."""
    return Path(trainer.default_root_dir) / "averages"
