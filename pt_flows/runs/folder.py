"""Run folders: one per run, never reused by accident, continued on purpose.

    runs/<data>-<model>/<date>-<time>-<id>/
        config.yaml                    the complete configuration; `pt-flows fit --config` runs it again
        environment.json               seed, command, git commit, versions, device
        config-continued-<date>.yaml   the configuration of a continuation, if it differs; so does environment.json
        metrics.csv                    every number that was logged
        evaluations/                   every measured number with its passport, its record of provenance
        pictures/                      grids or densities
        checkpoints/                   last.ckpt, previous.ckpt and best.ckpt
        failed.txt                     why training failed, if it did
        wandb/                         the files that W&B uploads

The id is W&B's run id too, so a continued run goes on in the same place of the dashboard.
"""

import json
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from pt_flows.errors import UserError
from pt_flows.files import remove_partials, replacing

RUN_DIR_VARIABLE = "PT_FLOWS_RUN_DIR"
"""Tells processes that a launcher starts which folder the first one made."""
FAILED = "failed.txt"
"""File of a run folder that says why training failed."""


def rank() -> int:
    """Number of this process among those of a job: Lightning's, or before Lightning is imported the launcher's."""
    from lightning_utilities.core.rank_zero import rank_zero_only  # takes a while, and not every command asks

    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    launched = next((os.environ[name] for name in names if name in os.environ), "0")
    return getattr(rank_zero_only, "rank", int(launched))


def say(text: str) -> None:
    """Tell the user, on standard output, from the first process."""
    if rank() == 0:
        print(text, flush=True)


def new_run_folder(root: Path, experiment: str) -> Path:
    """The name of a fresh folder for a run, which is made when training begins.

    Processes that Lightning launches are told which one it is. Those of `torchrun` and SLURM are not, and need not be:
    the first process alone writes.
    """
    if rank() > 0:
        return Path(os.environ.get(RUN_DIR_VARIABLE) or root / experiment)
    folder = root / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def make_run_folder(folder: Path) -> None:
    """Make the folder that `new_run_folder` has named.

    Raises:
        UserError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"run.root: cannot make the run folder {folder} ({error.strerror})") from error


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder a checkpoint lies in, if it lies in one."""
    folder = checkpoint.absolute().parent.parent
    files = ("config.yaml", "environment.json", "metrics.csv")  # a run that has lost one of them is still a run
    inside = checkpoint.parent.name == "checkpoints" and any((folder / name).is_file() for name in files)
    return folder if inside else None


def recorded_config(folder: Path) -> Path | None:
    """The configuration that a run folder was last trained with, if it has one."""
    continued = sorted(folder.glob("config-continued-*.yaml"))
    first = folder / "config.yaml"
    return continued[-1] if continued else first if first.is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `recorded_config`.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = recorded_config(folder)
    if path is None:
        raise UserError(f"{folder}: expected a run folder with config.yaml, got none. Give another run folder")
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: expected YAML, got a damaged file ({str(error).splitlines()[0]}). Restore it"
        ) from error
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise UserError(f"{path}: expected a configuration with model and data, got another file. Restore it")
    return config


def describe_run(folder: Path, config_yaml: str, recorded: dict[str, Any]) -> None:
    """Write config.yaml and environment.json; a continued run keeps what it was started with.

    Files that a killed process of this run left half-written are removed. `evaluations/` is left alone: another process
    may be writing there.

    Args:
        folder: The run folder, which this process holds the lock of.
        config_yaml: The complete configuration.
        recorded: Content of environment.json.
    """
    for place in (folder, folder / "checkpoints"):
        remove_partials(place)
    started = {"config.yaml": config_yaml, "environment.json": json.dumps(recorded, indent=2) + "\n"}
    for name, text in started.items():
        path = folder / name
        latest = [path, *sorted(folder.glob(f"{path.stem}-continued-*{path.suffix}"))][-1]
        if latest.is_file() and latest.read_bytes() == text.encode():
            continue
        if path.is_file():
            path = folder / f"{path.stem}-continued-{datetime.now():%Y%m%d-%H%M%S-%f}{path.suffix}"
        with replacing(path) as partial:
            partial.write_text(text)
