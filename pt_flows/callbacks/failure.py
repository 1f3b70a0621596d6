"""A file that records a failed training, so that comparisons count its seed."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from pt_flows.errors import DivergenceError
from pt_flows.runs.folder import FAILED


class Failure(L.Callback):
    """Writes `failed.txt` to the run folder if training diverges, and removes it if the run continues."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the record of a failure before this run was resumed."""
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / FAILED).unlink(missing_ok=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the reason to the file and to W&B's summary."""
        if not isinstance(exception, DivergenceError) or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        (Path(trainer.default_root_dir) / FAILED).write_text(f"{exception}\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary["failed"] = str(exception)
