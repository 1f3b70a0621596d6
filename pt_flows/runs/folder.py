"""Run folders: one per run, never reused by accident, continued on purpose.

    runs/<data>-<model>/<date>-<time>-<id>/
        config.yaml        the complete configuration; `pt-flows fit --config` runs it again
        environment.json   seed, command, git commit, versions, device
        metrics.csv        every number that was logged
        pictures/          grids or densities
        checkpoints/       last.ckpt, previous.ckpt and best.ckpt
        wandb/             what W&B syncs

The id is W&B's run id too, so a continued run goes on in the same place of the dashboard.
"""

import json
import netrc
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

import torch
import yaml
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.runs.metrics_csv import MetricsCSV

WandbMode = Literal["auto", "online", "offline", "disabled"]
PACKAGES = ("pt-flows", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy")
RUN_DIR_VARIABLE = "PT_FLOWS_RUN_DIR"
"""Tells processes that a launcher starts which folder the first one made."""
FAILED = "failed.txt"
"""File of a run folder that says why training failed."""


class RunOptions:
    """Where a run is kept and how W&B shows it.

    Args:
        root: Folder of all runs.
        name: Name in W&B; default `<data>-<model>`.
        project: W&B project.
        group: W&B group; give the runs of one comparison the same.
        tags: W&B tags.
        wandb: "auto" takes $WANDB_MODE where it is set; else it goes online where an API key is configured and offline
            elsewhere.
    """

    def __init__(
        self,
        root: str = "runs",
        name: str | None = None,
        project: str = "pt_flows",
        group: str | None = None,
        tags: list[str] | None = None,
        wandb: WandbMode = "auto",
    ) -> None:
        self.root, self.name, self.project = Path(root), name, project
        self.group, self.tags = group, tags
        self.wandb: WandbMode = wandb


@rank_zero_only
def say(text: str) -> None:
    """Tell the user, on standard output, from one process."""
    print(text, flush=True)


def new_run_folder(root: Path, experiment: str) -> Path:
    """The name of a fresh folder for a run, which is made when training begins.

    Processes that Lightning launches are told which one it is. Those of `torchrun` and SLURM are not, and need not be:
    the first process alone writes.
    """
    if cast(Any, rank_zero_only).rank > 0:
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


@rank_zero_only
def describe_run(folder: Path, config_yaml: str, recorded: dict[str, Any]) -> None:
    """Write config.yaml and environment.json; a continued run keeps what it was started with.

    What a killed process left half-written is removed.
    """
    for partial in folder.rglob("*.partial"):
        partial.unlink(missing_ok=True)
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


def environment(seed: Any) -> dict[str, Any]:
    """What is needed to say which code made a number."""
    return {
        "seed": seed,
        "command": sys.argv,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() or "cpu",
    }


def package_version(name: str) -> str | None:
    """Installed version, None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the working directory, with a + where files differ from it; None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def loggers(folder: Path, options: RunOptions, experiment: str, resumed_at: int) -> list[Any]:
    """The CSV file of the run folder, and W&B unless disabled."""
    mode = wandb_mode(options.wandb)
    chosen: list[Any] = [MetricsCSV(folder, resumed_at)]
    if mode != "disabled":
        if mode == "offline":  # no lookup of any host, and no pages of advice about uploading
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            os.environ.setdefault("WANDB_SILENT", "true")
        chosen.append(
            IterationWandbLogger(
                project=options.project,
                name=options.name or experiment,
                group=options.group or experiment,
                tags=options.tags,
                version=folder.name.rsplit("-", 1)[-1],
                save_dir=str(folder),
                offline=mode == "offline",
                mode=mode,
                log_model=False,
            )
        )
    return chosen


def wandb_mode(wanted: WandbMode) -> Literal["online", "offline", "disabled"]:
    """Where W&B writes: decided without a prompt and without the network."""
    if wanted != "auto":
        return wanted
    if (given := os.environ.get("WANDB_MODE")) in ("online", "offline", "disabled"):
        return given
    return "online" if wandb_key_configured() else "offline"


def wandb_key_configured() -> bool:
    """Whether `wandb login` was done here: an API key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class IterationWandbLogger(WandbLogger):
    """W&B with the iteration as the x axis of every chart."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever its value
        self._summarised: set[str] = set()

    @property
    def experiment(self) -> Any:
        """The W&B run; axes are defined when it starts."""
        fresh = self._experiment is None
        run = super().experiment
        if fresh and hasattr(run, "define_metric"):
            run.define_metric("iteration")
            for pattern in ("train/*", "eval/*", "cost/*", "samples", "flow*", "chains"):
                run.define_metric(pattern, step_metric="iteration")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log with the iteration in the row; of measured numbers the summary keeps last, least and largest."""
        for key in metrics:
            if key.startswith("eval/") and key not in self._summarised:
                self.experiment.define_metric(key, step_metric="iteration", summary="last,min,max")
                self._summarised.add(key)
        super().log_metrics(dict(metrics) if step is None else {**metrics, "iteration": step}, step)
