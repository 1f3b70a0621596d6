"""Runs that are wanted, and the run folders in which they are found."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pt_flows.compare.runs import read_rows
from pt_flows.errors import UserError
from pt_flows.runs.folder import FAILED, experiment_of, read_config, recorded_config
from pt_flows.runs.lock import is_locked
from pt_flows.runs.settings import as_text, defining_settings

State = Literal["missing", "begun", "running", "finished", "failed"]
"""A run: without a checkpoint, with one, in another process, complete, or diverged."""


@dataclass(frozen=True)
class Wanted:
    """A run that is wanted. A run folder with this configuration and seed is this run.

    Attributes:
        name: Its name in messages and file names.
        words: Arguments of `fit`, with seed and `run.root`.
        config: Its complete configuration.
    """

    name: str
    words: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.config["seed_everything"]

    @property
    def iterations(self) -> int:
        """The length of the run."""
        return self.config["trainer"]["max_steps"]

    @property
    def place(self) -> Path:
        """The folder of the run folder."""
        paths = (self.config[key]["class_path"] for key in ("data", "model"))
        return Path(self.config["run"]["root"]) / experiment_of(*paths)

    @property
    def identity(self) -> tuple[str, int]:
        """The part of the configuration that defines the run, as text, and the seed."""
        return as_text(defining_settings(self.config)), self.seed

    def seeded(self, seed: int, name: str) -> "Wanted":
        """The same run with another seed and name."""
        words = (*self.words, "--seed_everything", str(seed))
        return Wanted(name, words, {**self.config, "seed_everything": seed})


@dataclass(frozen=True)
class Found:
    """The state of a wanted run.

    Attributes:
        state: The state.
        folder: Its run folder; None if it is missing.
        iteration: The last iteration in its log.
        reason: Why it failed.
    """

    state: State
    folder: Path | None = None
    iteration: int = 0
    reason: str = ""


def found(wanted: Sequence[Wanted]) -> list[Found]:
    """Find the states of runs. A failed run counts before a finished one: no seed is tried until it works.

    Args:
        wanted: The runs.
    """
    identities = [run.identity for run in wanted]
    rank = ("missing", "begun", "running", "finished", "failed")
    states = dict.fromkeys(identities, Found("missing"))
    for place in dict.fromkeys(run.place for run in wanted):
        for config in sorted(place.glob("*/config.yaml")):
            identity = identity_of(config.parent)
            if identity in states:
                state = state_of(config.parent)
                if rank.index(state.state) >= rank.index(states[identity].state):
                    states[identity] = state
    return [states[identity] for identity in identities]


def identity_of(folder: Path) -> tuple[str, int] | None:
    """The identity of the run in a folder; None for a fork or a folder that cannot be read."""
    latest = recorded_config(folder)
    return _identity(folder, latest.stat().st_mtime_ns) if latest else None


@lru_cache(maxsize=4096)
def _identity(folder: Path, written: int) -> tuple[str, int] | None:
    try:
        config = read_config(folder)
        environment = json.loads((folder / "environment.json").read_text())
    except (UserError, OSError, ValueError):
        return None
    if environment.get("parent"):
        return None
    return as_text(defining_settings(config)), config.get("seed_everything", 0)


def state_of(folder: Path) -> Found:
    """The state of the run in a folder."""
    iteration = int(last_row(folder).get("iteration", 0))
    if is_locked(folder):
        return Found("running", folder, iteration)
    if (folder / FAILED).is_file():
        return Found("failed", folder, iteration, (folder / FAILED).read_text().strip())
    if is_finished(folder, iteration):
        return Found("finished", folder, iteration)
    names = ("last", "previous")
    saved = any((folder / "checkpoints" / f"{name}.ckpt").is_file() for name in names)
    return Found("begun", folder, iteration) if saved else Found("missing")


def is_finished(folder: Path, iteration: int) -> bool:
    """Whether a run has reached its last iteration and has recorded its last numbers, if it measures any."""
    config = read_config(folder)
    planned, evaluation = config["trainer"]["max_steps"], config.get("evaluation") or {}
    if evaluation.get("metrics") or evaluation.get("full_metrics"):
        measured = (path.name.partition("-")[0] for path in (folder / "evaluations").glob("*.json"))
        return any(name.isdigit() and int(name) >= planned for name in measured)
    return iteration >= planned and (folder / "checkpoints" / "last.ckpt").is_file()


def last_row(folder: Path) -> dict[str, float]:
    """The last number of every column of metrics.csv in its last kilobytes; empty without a log."""
    try:
        with (folder / "metrics.csv").open("rb") as file:
            header = file.readline()
            file.seek(max(len(header), file.seek(0, 2) - 8192))
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    whole = [line for line in lines if line.count(b",") == header.count(b",")]
    rows, _ = read_rows((header + b"\n".join([*whole, b""])).decode(errors="replace"))
    return {key: value for row in rows for key, value in row.items()}


def curve(folder: Path, key: str) -> list[tuple[int, float]]:
    """Iterations and values of a measured number in metrics.csv, finite ones only."""
    try:
        rows, _ = read_rows((folder / "metrics.csv").read_text(errors="replace"))
    except OSError:
        return []
    name = f"eval/{key}"
    return [(int(row["iteration"]), row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]


def counted(states: Iterable[str]) -> str:
    """Numbers of runs by their states.

    Example:
        >>> counted(["finished", "missing", "finished"])
        '2 finished, 1 missing'
    """
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{num} {state}" for state, num in counts.items())
