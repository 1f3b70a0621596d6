"""A note in the run folder that training has failed, so that a comparison counts the seed."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from pt_flows.errors import DivergenceError
from pt_flows.runs.folder import FAILED


class Failure(L.Callback):
    """Writes `failed.txt` into the run folder if training diverges, and removes it if the run is continued."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the failure before a resume."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / FAILED).unlink(missing_ok=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the reason, here and in W&B's summary."""
        if not isinstance(exception, DivergenceError) or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        (Path(trainer.default_root_dir) / FAILED).write_text(f"{exception}\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary["failed"] = str(exception)
