"""Finished runs, read from run folders or from W&B."""

import csv
import glob
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pt_flows.compare.online import api, asking
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import Passport, SubjectKey, checked_record, own_direction, read_record
from pt_flows.runs.described import FLAT
from pt_flows.runs.folder import FAILED, read_config, say, tuned_in
from pt_flows.runs.options import wandb_key_configured
from pt_flows.runs.settings import as_text

Note = Callable[[str], None]
"""Takes a sentence about something that is skipped."""


@dataclass
class Run:
    """The content of a run folder, and the part of it that is compared.

    Attributes:
        folder: The folder.
        config: The configuration that it was last trained with.
        seed: Its training seed.
        rows: Rows of metrics.csv, numbers only.
        records: Passports and numbers in `evaluations/`.
        failure: Reason why training failed, if it did.
        parent: Path and hash of the checkpoint that it was started from, if there is one.
        sampler: Name of the sampler that drew during training; empty for the method's own one, None in older folders.
        subject: Weights and sampler that are compared; None for all.
        protocol: Protocol of the number that is compared; None for any.
        section: Section of the log that is about the subject; empty if there is none.
    """

    folder: Path
    config: dict[str, Any]
    seed: Any
    rows: list[dict[str, float]]
    records: list[tuple[Passport, dict[str, float]]] = field(default_factory=list)
    failure: str | None = None
    parent: dict[str, Any] | None = None
    sampler: str | None = None
    subject: SubjectKey | None = None
    protocol: dict[str, Any] | None = None
    section: str = "eval"

    @property
    def is_logged(self) -> bool:
        """Whether the log is about the subject."""
        return bool(self.section)

    def curve(self, key: str) -> list[tuple[dict[str, float], float]]:
        """Rows with a finite number, each with the costs known by then; none if the log is about other weights."""
        if not self.is_logged:
            return []
        costs: dict[str, float] = {}
        points = []
        for row in self.rows:
            costs |= {name: value for name, value in row.items() if name.startswith("cost/") or name == "iteration"}
            if math.isfinite(row.get(f"{self.section}/{key}", math.nan)):
                points.append((dict(costs), row[f"{self.section}/{key}"]))
        return points

    def latest(self, key: str) -> list[tuple[Passport, float]]:
        """The records of a number at the last iteration at which it was measured, one for each sampling seed.

        Two checkpoints of one iteration, such as last and best, hold the same weights.
        """
        measured = [
            (passport, numbers[key])
            for passport, numbers in self.records
            if key in numbers
            and self.subject in (None, passport.subject)
            and self.protocol in (None, passport.protocol(key))
        ]
        last = max((passport.iteration for passport, _ in measured), default=0)
        found = {
            (passport.subject, as_text(passport.protocol(key)), passport.sampling_seed): (passport, value)
            for passport, value in measured
            if passport.iteration == last
        }
        return list(found.values())

    def last(self, key: str) -> list[float]:
        """The last number: for every sampling seed if `evaluate` measured it, else the one of training."""
        if latest := self.latest(key):
            return [value for _, value in latest]
        return self.logged(key)

    def logged(self, key: str) -> list[float]:
        """The last number of the log; empty without any."""
        return [row[f"{self.section}/{key}"] for row in self.rows if f"{self.section}/{key}" in row][-1:]

    def evaluations_per_sample(self, key: str) -> float:
        """Evaluations by all networks that drawing one sample takes; NaN if no record tells them.

        Args:
            key: The number whose samples are meant.
        """
        costs = [passport.cost for passport, _ in self.latest(key)]
        told = [[num for name, num in cost.items() if name.startswith("sampling_")] for cost in costs]
        known = [sum(nums) for nums in told if nums]
        return fmean(known) if known else math.nan

    def failed(self, key: str) -> bool:
        """Whether training failed, or its last number is not finite."""
        return self.failure is not None or not all(map(math.isfinite, self.last(key)))

    @property
    def iteration(self) -> int:
        """The last iteration that was logged or measured; some runs have no log."""
        logged = [row.get("iteration", 0) for row in self.rows]
        return int(max([*logged, *(passport.iteration for passport, _ in self.records)], default=0))

    @property
    def id(self) -> str:
        """The last part of the folder's name, which is also W&B's id."""
        return self.folder.name.rsplit("-", 1)[-1]

    @property
    def measured(self) -> set[str]:
        """The names of all measured numbers."""
        logged = {name.removeprefix("eval/") for row in self.rows for name in row if name.startswith("eval/")}
        return logged | {key for _, numbers in self.records for key in numbers}

    @property
    def keys(self) -> set[str]:
        """All measured numbers that can be compared, which excludes floors and errors."""
        return {key for key in self.measured if "" not in (self.directions(key) or {own_direction(key)})}

    def directions(self, key: str) -> set[str]:
        """The directions of a number in the passports."""
        return {passport.directions[key] for passport, _ in self.records if key in passport.directions}

    @property
    def origins(self) -> set[str]:
        """Names of a run's training: its folder, the checkpoint that it was forked from, and the run of that one."""
        found = {str(self.folder.resolve())}
        if self.parent is not None:
            checkpoint = Path(self.parent.get("checkpoint", "")).resolve()
            found.add(str(self.parent.get("sha256")))
            if checkpoint.parent.name == "checkpoints":
                found.add(str(checkpoint.parent.parent))
        return found

    @property
    def tuned(self) -> str:
        """The tuning of the recipe; empty if nobody has recorded it."""
        return tuned_in(self.config)

    @property
    def method(self) -> str:
        """Name of the method's class."""
        return str(self.config["model"]["class_path"]).rsplit(".", 1)[-1]


def say_note(text: str) -> None:
    """Print a note."""
    say(f"note: {text}")


def find_runs(paths: Sequence[str], note: Note = say_note, measured: bool = True) -> list[Run]:
    """Runs that have measured anything or have failed, or all of them.

    Args:
        paths: Run folders, folders above them, patterns (`runs/*`), and W&B paths (entity/project/run). Other files and
            folders are skipped.
        note: Takes a sentence about everything that is skipped.
        measured: Whether runs without any number are skipped.

    Raises:
        UserError: A path does not exist, or there is no run at all.
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
            if run.keys or run.failure or not measured:
                runs[folder.resolve()] = run
            else:
                skipped.append(f"{folder} has measured nothing yet: skipped")
    if not runs:
        more = f" ({len(skipped) - 3} more like these)" if len(skipped) > 3 else ""
        raise UserError(f"runs: expected runs to compare, got none ({'; '.join(skipped[:3])}{more})")
    for text in dict.fromkeys(skipped):
        note(text)
    return list(runs.values())


def matches(given: str) -> list[Path]:
    """The paths that a path or a pattern stands for; a W&B path unchanged.

    Raises:
        UserError: No path matches.
    """
    path = Path(given)
    if path.exists():
        return [path]
    if found := sorted(glob.glob(given)):
        return [Path(name) for name in found]
    if len(path.parts) == 3 and not path.is_absolute() and not glob.has_magic(given):
        return [path]
    advice = "Give run folders, a folder above them, or W&B paths entity/project/run"
    raise UserError(f"{given}: expected a run folder, got no folder. {advice}")


def run_folders(top: Path) -> Iterator[Path]:
    """Folders with a config.yaml, at or below a folder, except inside run folders and W&B's own folders."""
    for where, folders, files in os.walk(top):
        folders[:] = [] if "config.yaml" in files else sorted(name for name in folders if name != "wandb")
        if "config.yaml" in files:
            yield Path(where)


def read_run(folder: Path, note: Note = say_note) -> Run:
    """Read a run folder; damaged rows and evaluations are skipped.

    Args:
        folder: The folder, with config.yaml and environment.json.
        note: Takes a sentence about everything that is skipped.

    Raises:
        UserError: The folder is half-written or damaged.
    """
    try:
        config = read_config(folder)
        str(config["model"]["class_path"])
        environment = json.loads((folder / "environment.json").read_text())
        seed, parent = environment["seed"], environment.get("parent")
        continued = sorted(folder.glob("environment-continued-*.json"))
        sampler = (json.loads(continued[-1].read_text()) if continued else environment).get("sampler")
        failure = (folder / FAILED).read_text().strip() if (folder / FAILED).is_file() else None
        file = folder / "metrics.csv"
        rows, damaged = read_rows(file.read_text(errors="replace")) if file.is_file() else ([], 0)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: expected {Path(error.filename).name}, got no such file") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: cannot be read as a run ({' '.join(str(error).split())})") from error
    if damaged:
        note(f"{file} has {damaged} damaged row{'s' * (damaged > 1)}: skipped")
    records = []
    for path in sorted((folder / "evaluations").glob("*.json")):
        try:
            records.append(read_record(path))
        except UserError as error:
            note(f"{error}: skipped")
    return Run(folder, config, seed, rows, records, failure, parent, sampler)


def read_rows(text: str) -> tuple[list[dict[str, float]], int]:
    """Rows of a metrics.csv, and the number of lines that are cut short, too long, or without numbers."""
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
    """Read a run from W&B.

    Args:
        path: The path entity/project/run.

    Raises:
        UserError: It cannot be reached, or is no run of pt_flows.
    """
    if not wandb_key_configured():
        raise UserError(f"{path}: expected a run folder, got no folder. To read it from W&B, run wandb login first")
    with asking(path, "a run folder or a W&B run", "Check the path"):
        run = api().run(path)
        config, history = dict(run.config), list(run.scan_history())
        records, failure = json.loads(run.summary.get("evaluations", "[]")), run.summary.get("failed")
    if "model" not in config or "environment" not in config:
        raise UserError(f"{path}: expected a W&B run of pt_flows, got a config without model and environment")
    environment = config.pop("environment")
    config = {key: value for key, value in config.items() if key not in FLAT}
    rows = [{k: float(v) for k, v in row.items() if isinstance(v, int | float)} for row in history]
    records = [checked_record(record, path) for record in records]
    parent, sampler = environment.get("parent"), environment.get("sampler")
    return Run(Path(path), config, environment["seed"], rows, records, failure, parent, sampler)
