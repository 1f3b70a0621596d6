"""The moment when a run begins: everything has been checked, and nothing has been written yet."""

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.loggers import Logger

from pt_flows.runs.environment import environment
from pt_flows.runs.folder import describe_run, make_run_folder, say
from pt_flows.runs.lock import RunLock


class RunStart(L.Callback):
    """Makes the run folder, locks it and describes the run, just before the first iteration.

    So a start that is refused leaves nothing behind, neither a folder nor a W&B run.

    Args:
        folder: The run folder; it is there already where a run continues.
        lock: Held already where a run continues.
        config_yaml: The complete configuration.
        seed: Of the run.
        parent: The checkpoint that a new run starts from.
        damaged: The last checkpoint, if it cannot be read; it is moved aside, or it would replace the one before it.
        loggers: Loggers that join the run now, because they write when they begin.
    """

    def __init__(
        self,
        folder: Path,
        lock: RunLock,
        config_yaml: str,
        seed: Any,
        parent: dict[str, Any] | None,
        damaged: Path | None,
        loggers: list[Logger],
    ) -> None:
        self.folder, self.lock, self.config_yaml, self.seed = folder, lock, config_yaml, seed
        self.parent, self.damaged, self.loggers = parent, damaged, loggers

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin, except with `fast_dev_run`, which leaves no run."""
        if getattr(trainer, "fast_dev_run", False):
            return
        recorded = environment(self.seed) | ({"parent": self.parent} if self.parent else {})
        if trainer.is_global_zero:
            self.open_folder()
            describe_run(self.folder, self.config_yaml, recorded)
        say(f"run folder: {self.folder}")
        trainer.loggers = [*trainer.loggers, *self.loggers]
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config_yaml) | {"environment": recorded})

    def open_folder(self) -> None:
        """Make and lock the folder of a new run; set a damaged checkpoint of an old one aside."""
        if not self.folder.is_dir():
            make_run_folder(self.folder)
        if not self.lock.is_held:
            self.lock.acquire(self.folder)
        if self.damaged is not None and self.damaged.is_file():
            self.damaged.replace(self.damaged.with_suffix(".damaged"))
