"""Run folders: one for each run, continued on request only.

    runs/<data>-<model>/<date>-<time>-<id>/
        config.yaml                    the complete configuration; `pt-flows fit --config` runs it again
        environment.json               seed, command, git commit, versions, device
        config-continued-<date>.yaml   the configuration of a continuation, if it differs; likewise environment.json
        metrics.csv                    every logged number
        evaluations/                   every measured number with its passport (the provenance record of a number)
        pictures/                      grids or densities
        checkpoints/                   last.ckpt, previous.ckpt and best.ckpt
        failed.txt                     the reason, if training failed
        wandb/                         the files that W&B uploads

The id is also the run id of W&B, so that a continued run continues its charts. An agent of a sweep sets it.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from pt_flows.errors import UserError
from pt_flows.files import remove_partials, replacing
from pt_flows.progress import is_quiet

RUN_DIR_VARIABLE = "PT_FLOWS_RUN_DIR"
"""Environment variable with the run folder, for the processes that Lightning launches."""
FAILED = "failed.txt"
"""Name of the file with the reason of a failure."""


def rank() -> int:
    """Return the number of this process in its job: Lightning's, or the launcher's before Lightning is imported."""
    from lightning_utilities.core.rank_zero import rank_zero_only  # slow, and not every command needs it

    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    launched = next((os.environ[name] for name in names if name in os.environ), "0")
    return getattr(rank_zero_only, "rank", int(launched))


def say(text: str) -> None:
    """Print a line about the work to standard output, from the first process alone, and not with --quiet."""
    if rank() == 0 and not is_quiet():
        print(text, flush=True)


def experiment_of(data: str, model: str) -> str:
    """Return the name of the folder of all runs of a method on a data set.

    Args:
        data: Class path of the data.
        model: Class path of the method.

    Example:
        >>> experiment_of("pt_flows.data.toy2d.Toy2D", "W1FE")
        'toy2d-w1fe'
    """
    return "-".join(path.rsplit(".", 1)[-1] for path in (data, model)).lower()


def new_run_folder(root: Path, experiment: str) -> Path:
    """Return a new name for a run folder. The folder is made when training begins.

    Processes that Lightning launches receive the name in an environment variable. Those of `torchrun` and SLURM do not
    need it, because only the first process writes.
    """
    if rank() > 0:
        return Path(os.environ.get(RUN_DIR_VARIABLE) or root / experiment)
    folder = root / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{new_id(root / experiment)}"
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def new_id(folder: Path) -> str:
    """Return the id of a new run: the one that an agent of a W&B sweep has set, unless a run has it, or a random one.

    Args:
        folder: The folder of all runs of the experiment.
    """
    given = os.environ.get("WANDB_RUN_ID", "")
    is_free = re.fullmatch(r"\w+", given) is not None and not list(folder.glob(f"*-{given}"))
    return given if is_free else secrets.token_hex(4)


def make_run_folder(folder: Path) -> None:
    """Make the folder that `new_run_folder` has named.

    Raises:
        UserError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        got = f"{error.strerror!r}. Name another folder"
        raise UserError(f"run.root: expected a writable place for {folder}, got {got}") from error


def run_folder_of(checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint, if it lies in one."""
    folder = checkpoint.absolute().parent.parent
    files = ("config.yaml", "environment.json", "metrics.csv")  # one of them is enough
    inside = checkpoint.parent.name == "checkpoints" and any((folder / name).is_file() for name in files)
    return folder if inside else None


def recorded_config(folder: Path) -> Path | None:
    """Return the file with the latest configuration of a run folder, if there is one."""
    continued = sorted(folder.glob("config-continued-*.yaml"))
    first = folder / "config.yaml"
    return continued[-1] if continued else first if first.is_file() else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read the latest configuration of a run folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = recorded_config(folder)
    if path is None:
        raise UserError(f"{folder}: expected a run folder with config.yaml, got none. Give another run folder")
    try:
        config = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # ten times faster in C
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: expected YAML, got a damaged file ({reason}). Restore it") from error
    if not isinstance(config, dict) or not {"model", "data"} <= config.keys():
        raise UserError(f"{path}: expected a configuration with model and data, got another file. Restore it")
    return config


def tuned_in(config: Mapping[str, Any]) -> str:
    """Return how the recipe of a configuration was tuned; empty if it was not, or if nobody has recorded it."""
    return str((config.get("run") or {}).get("tuned") or "")


def describe_run(folder: Path, config_yaml: str, recorded: dict[str, Any]) -> None:
    """Write config.yaml and environment.json. A continued run keeps its first ones.

    Temporary files of killed processes are removed, except in `evaluations/`: another process may be writing there.

    Args:
        folder: The run folder. This process holds its lock.
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
