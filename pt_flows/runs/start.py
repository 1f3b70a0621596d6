"""The start of a run, after all checks and before the first file."""

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.loggers import Logger

from pt_flows.runs.described import flat_config
from pt_flows.runs.elastic import launch
from pt_flows.runs.environment import environment
from pt_flows.runs.folder import describe_run, make_run_folder, say
from pt_flows.runs.lock import RunLock


class RunStart(L.Callback):
    """Makes the run folder, locks it and describes the run, just before the first iteration.

    A start that fails a check therefore leaves neither a folder nor a W&B run.

    Args:
        folder: The run folder. It exists already if the run continues.
        lock: Its lock. It is held already if the run continues.
        config_yaml: The complete configuration.
        seed: Seed of the run.
        parent: Record of the checkpoint that a new run starts from.
        sampler: Name of the sampler of the evaluations, with all arguments; empty for the method's own one.
        damaged: The last checkpoint, if it cannot be read. It is renamed, so that it does not replace the previous one.
        loggers: Loggers that join the run now, because they write files when they start.
    """

    def __init__(
        self,
        folder: Path,
        lock: RunLock,
        config_yaml: str,
        seed: Any,
        parent: dict[str, Any] | None,
        sampler: str,
        damaged: Path | None,
        loggers: list[Logger],
    ) -> None:
        self.folder, self.lock, self.config_yaml, self.seed = folder, lock, config_yaml, seed
        self.parent, self.sampler, self.damaged, self.loggers = parent, sampler, damaged, loggers

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the run, unless it is a `fast_dev_run`, which leaves no files."""
        if getattr(trainer, "fast_dev_run", False):
            return
        recorded = environment(self.seed) | {"sampler": self.sampler} | ({"parent": self.parent} if self.parent else {})
        recorded |= {"launch": job} if (job := launch()) else {}
        if trainer.is_global_zero:
            self.open_folder()
            describe_run(self.folder, self.config_yaml, recorded)
        say(f"run folder: {self.folder}")
        config = yaml.safe_load(self.config_yaml)
        flat = flat_config(config, self.seed, num_parameters(pl_module), self.parent)
        trainer.loggers = [*trainer.loggers, *self.loggers]
        for logger in trainer.loggers:
            logger.log_hyperparams(config | {"environment": recorded} | flat)

    def open_folder(self) -> None:
        """Make and lock the folder of a new run; rename a damaged checkpoint of a continued one."""
        if not self.folder.is_dir():
            make_run_folder(self.folder)
        if not self.lock.is_held:
            self.lock.acquire(self.folder)
        if self.damaged is not None and self.damaged.is_file():
            self.damaged.replace(self.damaged.with_suffix(".damaged"))


def num_parameters(method: Any) -> int:
    """Return the number of parameters of all networks of a method, without those of moving averages."""
    return sum(p.numel() for network in method.networks.values() for p in network.parameters())
