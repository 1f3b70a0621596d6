"""Records of a run at its end: its last numbers with their passports, in the run folder and in W&B."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from pt_flows.evaluation.passport import passport_of, record_path, write_record
from pt_flows.evaluation.subject import Subject


def record_run(trainer: L.Trainer, subject: Subject, found: list[tuple[Any, dict[str, float]]]) -> None:
    """Write the numbers of training's last evaluation with their passports, as `evaluate` would.

    Args:
        trainer: Has the run folder, as `default_root_dir`, the data and the loggers.
        subject: The subject that was measured.
        found: Metrics that were measured together, with the number of samples, and their numbers.
    """
    if not trainer.is_global_zero or not found:
        return
    folder = Path(trainer.default_root_dir)
    last, data = folder / "checkpoints" / "last.ckpt", getattr(trainer, "datamodule", None)
    ckpt = last if last.is_file() else None
    records = []
    for (metrics, num), numbers in found:
        passport = passport_of(subject, ckpt, num, 0, data, metrics[0].split, metrics)
        records.append(write_record(record_path(folder, passport, last), passport, numbers))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary["evaluations"] = json.dumps(records)
