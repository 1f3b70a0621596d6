"""The loggers of a run: its CSV file and W&B."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pt_flows.runs.described import MEASURED, MEDIA
from pt_flows.runs.metrics_csv import MetricsCSV
from pt_flows.runs.options import RunOptions, quiet_offline, wandb_mode

SUMMARIES = {"higher": "last,max", "lower": "last,min"}
"""Values of a number that W&B's summary keeps, by its direction."""


def loggers(folder: Path, options: RunOptions, experiment: str, resumed_at: int, seed: Any = None) -> list[Any]:
    """Return the CSV logger of the run folder, and the W&B logger unless it is disabled.

    Args:
        folder: The run folder.
        options: The options of the run.
        experiment: Default of the name and the group in W&B.
        resumed_at: Iteration of the checkpoint that the run continues from; 0 for a new run.
        seed: Seed of the run, for its default name in W&B.
    """
    mode = wandb_mode(options.wandb)
    chosen: list[Any] = [MetricsCSV(folder, resumed_at)]
    if mode != "disabled":
        if mode == "offline":
            quiet_offline()
        run_id = folder.name.rsplit("-", 1)[-1]
        seeded = "" if seed is None else f"-seed{seed}"
        chosen.append(
            IterationWandbLogger(
                project=options.project,
                name=options.name or f"{experiment}{seeded}-{run_id[:4]}",
                group=options.group or experiment,
                tags=options.tags,
                version=run_id,
                job_type="train",
                save_dir=str(folder),
                offline=mode == "offline",
                mode=mode,
                log_model=False,
            )
        )
    return chosen


class IterationWandbLogger(WandbLogger):
    """W&B with the iteration as the x axis of every chart.

    Attributes:
        directions: "higher", "lower" or "" by log key, for those that are known: the better values of a number.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns about it, whatever its value
        self._summarised: set[str] = set()
        self.directions: dict[str, str] = {}

    @property
    def experiment(self) -> Any:
        """The W&B run. Its axes are defined when it starts."""
        fresh = self._experiment is None
        run = super().experiment
        if fresh and hasattr(run, "define_metric"):
            run.define_metric("iteration")
            for pattern in ("train/*", "eval/*", "eval_*", "cost/*", *MEDIA):
                run.define_metric(pattern, step_metric="iteration")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log with the iteration in the row. The summary keeps the last measured value and the best one."""
        for key in metrics:
            if key.startswith(MEASURED) and key not in self._summarised:
                summary = SUMMARIES.get(self.directions.get(key, ""), "last,min,max")
                self.experiment.define_metric(key, step_metric="iteration", summary=summary)
                self._summarised.add(key)
        super().log_metrics(dict(metrics) if step is None else {**metrics, "iteration": step}, step)
