"""Records at the end of a run: the last numbers with their passports, in the run folder and in W&B."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.loggers import WandbLogger

from pt_flows.construction import plain
from pt_flows.errors import warn
from pt_flows.evaluation.passport import record_path, write_record
from pt_flows.evaluation.provenance import passport_of
from pt_flows.evaluation.subject import Subject
from pt_flows.runs.environment import environment
from pt_flows.runs.folder import describe_run


def record_run(trainer: L.Trainer, found: Sequence[tuple[Any, ...]]) -> None:
    """Write the numbers of the last evaluation with their passports, as `pt-flows evaluate` does.

    Args:
        trainer: The trainer, whose `default_root_dir` is the run folder.
        found: Subject, metrics, number of samples and numbers, for each subject and tier of the last evaluation.
    """
    if not trainer.is_global_zero or not found:
        return
    folder = Path(trainer.default_root_dir)
    last, data = folder / "checkpoints" / "last.ckpt", getattr(trainer, "datamodule", None)
    ckpt = last if last.is_file() else None
    if not (folder / "config.yaml").is_file():
        describe_python_run(folder, trainer, found[0][0], data)
    records = []
    for subject, metrics, num, numbers in found:
        passport = passport_of(subject, ckpt, num, 0, data, metrics[0].split, metrics, numbers)
        records.append(write_record(record_path(folder, passport, last), passport, numbers))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary["evaluations"] = json.dumps(records)


def describe_python_run(folder: Path, trainer: L.Trainer, subject: Subject, data: Any) -> None:
    """Write config.yaml and environment.json of a run that was built in Python, so that it can be compared.

    Args:
        folder: The run folder.
        trainer: The trainer with the number of iterations.
        subject: The trained method and its sampler.
        data: The data it was trained on.
    """
    method = subject.method
    try:
        sections = {"model": plain(method), "data": plain(data)}
    except TypeError:
        warn(
            f"{folder}: expected a method and data with importable classes, got others, so the run cannot be compared. "
            "Build optimizers with functools.partial, and define classes in modules"
        )
        return
    config = {"seed_everything": method.trained_seed, "trainer": {"max_steps": trainer.max_steps}} | sections
    recorded = environment(method.trained_seed) | {"sampler": subject.sampler_name}
    describe_run(folder, yaml.safe_dump(config, sort_keys=False), recorded)
