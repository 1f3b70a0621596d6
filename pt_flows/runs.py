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

import csv
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
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from pt_flows.contracts import UserError
from pt_flows.files import replacing

WandbMode = Literal["auto", "online", "offline", "disabled"]
PACKAGES = ("pt-flows", "torch", "torchvision", "lightning", "torchmetrics", "wandb", "numpy")
RUN_DIR_VARIABLE = "PT_FLOWS_RUN_DIR"
"""Tells processes that a launcher starts which folder the first one made."""


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
    """A fresh folder for a run, made by its first process.

    Processes that Lightning launches are told which one it is. Those of `torchrun` and SLURM are not, and need not be:
    the first process alone writes.
    """
    if cast(Any, rank_zero_only).rank > 0:
        return Path(os.environ.get(RUN_DIR_VARIABLE) or root / experiment)
    folder = root / experiment / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"run.root: can not make the run folder {folder} ({error.strerror})") from error
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def find_checkpoint(ckpt_path: str, root: Path, experiment: str) -> Path:
    """The checkpoint that `--ckpt_path` means: a file, a run folder, or `last` / `best` of the newest run.

    Raises:
        UserError: There is none; says where it was looked for.
    """
    path = Path(ckpt_path)
    if ckpt_path in ("last", "best"):
        folder = root / experiment
        found = list(folder.glob(f"*/checkpoints/{ckpt_path}.ckpt"))
        if not found:
            raise UserError(
                f"ckpt_path: {ckpt_path}: no run under {folder} has checkpoints/{ckpt_path}.ckpt; start without "
                "--ckpt_path, or name a checkpoint file"
            )
        return max(found, key=lambda file: file.stat().st_mtime)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise UserError(f"ckpt_path: there is no checkpoint {path}; give a .ckpt file, a run folder, last or best")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package, read with torch's `weights_only` guard.

    Raises:
        UserError: Not a file, damaged, or written by something else.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give a .ckpt file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and foreign files
        raise UserError(
            f"{path} can not be read as a checkpoint ({str(error).splitlines()[0][:120]}); it is damaged, cut "
            "short or of another program: take another one, such as best.ckpt beside it"
        ) from error
    if not isinstance(checkpoint, dict) or "pt_flows" not in checkpoint:
        raise UserError(
            f"{path} is not a checkpoint of pt_flows: it holds no pt_flows record; take one from a run folder"
        )
    return checkpoint


def open_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint to go on from and its content: the one before, with a note, where a run's last one is damaged.

    Raises:
        UserError: As for `read_checkpoint`, and there is none before.
    """
    try:
        return path, read_checkpoint(path)
    except UserError as error:
        previous = path.with_name("previous.ckpt")
        if path.name != "last.ckpt" or not previous.is_file():
            raise
        content = read_checkpoint(previous)
        say(f"note: {error}. Going on from {previous}, iteration {content['pt_flows']['iteration']}")
        return previous, content


def run_folder_of(checkpoint: Path) -> Path | None:
    """The run folder a checkpoint lies in, if it lies in one."""
    folder = checkpoint.absolute().parent.parent
    return folder if checkpoint.parent.name == "checkpoints" and (folder / "config.yaml").is_file() else None


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
        if path.is_file() and path.read_text() != text:
            path = folder / f"{path.stem}-continued-{datetime.now():%Y%m%d-%H%M%S}{path.suffix}"
        path.write_text(text)


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
            for pattern in ("train/*", "eval/*", "cost/*", "samples"):
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


class MetricsCSV(Logger):
    """`metrics.csv` in the run folder: a row per logging call, a column per number; a continued run appends.

    Args:
        folder: The run folder.
        resumed_at: Rows after this iteration belong to work that is done again, and are dropped.
    """

    def __init__(self, folder: Path, resumed_at: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        rows = [row for row in self._rows() if int(row["iteration"]) <= resumed_at]
        self.columns = list(dict.fromkeys(["iteration", *(key for row in rows for key in row)]))
        if rows:
            self._write(rows)

    @property
    def name(self) -> str:
        """What Lightning calls this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """None: the folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row; it is on disk when this returns."""
        row = {"iteration": step or 0, **{key: float(value) for key, value in metrics.items()}}
        if new := [key for key in row if key not in self.columns]:
            self.columns += new
            self._write([*self._rows(), row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
