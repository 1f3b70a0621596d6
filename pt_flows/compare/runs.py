"""What finished runs have left behind: run folders are found and read, from the disk or from W&B."""

import csv
import glob
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pt_flows.callbacks.failure import FAILED
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import Passport, checked_record, read_record
from pt_flows.runs.folder import say
from pt_flows.runs.options import wandb_key_configured

Note = Callable[[str], None]
"""Takes a sentence about something that is skipped."""


@dataclass
class Run:
    """The content of a run folder.

    Attributes:
        folder: Where it is.
        config: Its configuration.
        seed: Its training seed.
        rows: Of metrics.csv, numbers only.
        records: Of `evaluations/`: passports and numbers.
        failure: Why training failed, if it did.
    """

    folder: Path
    config: dict[str, Any]
    seed: Any
    rows: list[dict[str, float]]
    records: list[tuple[Passport, dict[str, float]]] = field(default_factory=list)
    failure: str | None = None

    def curve(self, key: str) -> list[tuple[dict[str, float], float]]:
        """Rows with a finite number, each with the costs known by then."""
        costs: dict[str, float] = {}
        points = []
        for row in self.rows:
            costs |= {name: value for name, value in row.items() if name.startswith("cost/") or name == "iteration"}
            if math.isfinite(row.get(f"eval/{key}", math.nan)):
                points.append((dict(costs), row[f"eval/{key}"]))
        return points

    def last(self, key: str) -> list[float]:
        """The last number: of every sampling seed where `evaluate` measured it, else that of training."""
        measured = [(passport.iteration, numbers[key]) for passport, numbers in self.records if key in numbers]
        if measured:
            latest = max(iteration for iteration, _ in measured)
            return [value for iteration, value in measured if iteration == latest]
        return [row[f"eval/{key}"] for row in self.rows if f"eval/{key}" in row][-1:]

    def failed(self, key: str) -> bool:
        """Whether training failed, or its last number is not finite."""
        return self.failure is not None or not all(map(math.isfinite, self.last(key)))

    @property
    def iteration(self) -> int:
        """The last iteration that was logged."""
        return int(max((row.get("iteration", 0) for row in self.rows), default=0))

    @property
    def id(self) -> str:
        """The last part of the folder's name, which is W&B's id, too."""
        return self.folder.name.rsplit("-", 1)[-1]

    @property
    def keys(self) -> set[str]:
        """All numbers that were measured, without floors and errors."""
        found = {name.removeprefix("eval/") for row in self.rows for name in row if name.startswith("eval/")}
        found |= {key for _, numbers in self.records for key in numbers}
        return {key for key in found if not key.endswith(("_floor", "_error", "modes_of"))}


def say_note(text: str) -> None:
    """Print a note."""
    say(f"note: {text}")


def find_runs(paths: Sequence[str], note: Note = say_note) -> list[Run]:
    """Runs that have measured anything or have failed.

    Args:
        paths: Run folders, folders above them, patterns (`runs/*`), and W&B paths (entity/project/run). Other files and
            folders are skipped.
        note: Takes a sentence about everything that is skipped.

    Raises:
        UserError: A path that does not exist, or no run at all.
    """
    runs: dict[Path, Run] = {}
    skipped: list[str] = []
    for path in (found for given in paths for found in matches(given)):
        if not path.exists():
            runs[path] = online_run(str(path))
            continue
        folders = list(run_folders(path)) if path.is_dir() else []
        if not folders:
            skipped.append(f"{path} {'holds no run' if path.is_dir() else 'is no run folder'}: skipped")
        for folder in folders:
            try:
                run = runs.get(folder.resolve()) or read_run(folder, note)
            except UserError as error:
                skipped.append(f"{error}: skipped")
                continue
            if run.keys or run.failure:
                runs[folder.resolve()] = run
            else:
                skipped.append(f"{folder} has measured nothing yet: skipped")
    if not runs:
        more = f" ({len(skipped) - 3} more like these)" if len(skipped) > 3 else ""
        raise UserError(f"there is no run to compare; {'; '.join(skipped[:3])}{more}")
    for text in dict.fromkeys(skipped):
        note(text)
    return list(runs.values())


def matches(given: str) -> list[Path]:
    """The paths that a path or a pattern stands for; a W&B path as it is.

    Raises:
        UserError: Nothing is there.
    """
    path = Path(given)
    if path.exists():
        return [path]
    if found := sorted(glob.glob(given)):
        return [Path(name) for name in found]
    if len(path.parts) == 3 and not path.is_absolute() and not glob.has_magic(given):
        return [path]
    raise UserError(
        f"there is no run folder {given}; give run folders, a folder above them, or W&B paths entity/project/run"
    )


def run_folders(top: Path) -> Iterator[Path]:
    """Folders with a config.yaml, at or below a folder; not what lies inside a run folder or is W&B's own."""
    for where, folders, files in os.walk(top):
        folders[:] = [] if "config.yaml" in files else sorted(name for name in folders if name != "wandb")
        if "config.yaml" in files:
            yield Path(where)


def read_run(folder: Path, note: Note = say_note) -> Run:
    """A run folder; damaged rows and evaluations are skipped.

    Args:
        folder: Holds config.yaml and environment.json.
        note: Takes a sentence about everything that is skipped.

    Raises:
        UserError: It is half-written or damaged.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        str(config["model"]["class_path"])
        seed = json.loads((folder / "environment.json").read_text())["seed"]
        failure = (folder / FAILED).read_text().strip() if (folder / FAILED).is_file() else None
        file = folder / "metrics.csv"
        rows, damaged = read_rows(file.read_text(errors="replace")) if file.is_file() else ([], 0)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {Path(error.filename).name}") from error
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder} cannot be read as a run ({' '.join(str(error).split())})") from error
    if damaged:
        note(f"{file} has {damaged} damaged row{'s' * (damaged > 1)}: skipped")
    records = []
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            records.append(read_record(path))
        except UserError as error:
            note(f"{error}: skipped")
    return Run(folder, config, seed, rows, records, failure)


def read_rows(text: str) -> tuple[list[dict[str, float]], int]:
    """Rows of a metrics.csv, and how many lines are damaged: cut short, too long, or without numbers."""
    whole, _, cut = text.rpartition("\n")
    rows: list[dict[str, float]] = []
    damaged = int(bool(cut))
    reader = csv.reader(io.StringIO(whole.replace("\0", " ")))
    columns = next(reader, [])
    if columns and "iteration" not in columns:
        return [], damaged + whole.count("\n") + 1
    for cells in reader:
        try:
            row = {key: float(value) for key, value in zip(columns, cells, strict=True) if value}
        except ValueError:
            damaged += 1
            continue
        rows.append(row)
    return rows, damaged


def online_run(path: str) -> Run:
    """A run from W&B: what its run folder has sent there.

    Args:
        path: entity/project/run.

    Raises:
        UserError: It cannot be reached, or is no run of pt_flows.
    """
    import wandb
    from wandb.errors import Error

    if not wandb_key_configured():
        raise UserError(f"there is no run folder {path}, and to read it from W&B you must log in first: wandb login")
    try:
        run: Any = wandb.Api().run(path)
        config, history = dict(run.config), list(run.scan_history())
        records, failure = json.loads(run.summary.get("evaluations", "[]")), run.summary.get("failed")
    except (Error, ValueError, OSError) as error:
        raise UserError(
            f"there is no run folder {path}, and W&B has no such run that can be read ({str(error).splitlines()[0]})"
        ) from error
    if "model" not in config or "environment" not in config:
        raise UserError(f"the W&B run {path} was not made by pt_flows: its config has no model and environment")
    seed = config.pop("environment")["seed"]
    rows = [{k: float(v) for k, v in row.items() if isinstance(v, int | float)} for row in history]
    return Run(Path(path), config, seed, rows, [checked_record(record, path) for record in records], failure)
