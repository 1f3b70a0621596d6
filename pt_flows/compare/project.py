"""The content of a W&B project that a dashboard shows: logged keys, pictures and runs, online or from run folders."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pt_flows.compare.online import api, asking
from pt_flows.compare.runs import Run, find_runs
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import Direction, own_direction
from pt_flows.runs.described import MEDIA
from pt_flows.runs.options import wandb_key_configured

LEADING = ("fd_", "kid_", "w1_", "w2_", "sliced_w2_")
"""Beginnings of numbers about quality, as far as a project has any."""


@dataclass(frozen=True)
class Project:
    """The content of a project.

    Attributes:
        entity: Its owner in W&B; empty if it was read from run folders.
        name: Its name.
        metrics: Log keys of numbers.
        media: Log keys of pictures.
        runs: For each run its id, and its path for `pt-flows compare`.
        directions: Directions of numbers by log key, as far as passports or summaries tell them.
    """

    entity: str
    name: str
    metrics: Collection[str]
    media: Sequence[str]
    runs: dict[str, str]
    directions: Mapping[str, Direction] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Owner and name."""
        return f"{self.entity}/{self.name}".lstrip("/")

    def direction(self, key: str) -> Direction | None:
        """The better values of a number by its log key: as recorded, or else by its name."""
        return self.directions.get(key) or own_direction(key.removeprefix("eval/"))

    @property
    def qualities(self) -> list[str]:
        """Log keys of numbers about quality, the first one first; all numbers with a direction if there is none."""
        directed = sorted(key for key in self.metrics if key.startswith("eval/") and self.direction(key))
        leading = [key for start in LEADING for key in directed if key.startswith(f"eval/{start}")]
        return leading or directed

    @property
    def costs(self) -> list[str]:
        """Log keys that are the x axes of charts."""
        common = [key for key in ("iteration", "cost/images_seen", "cost/seconds") if key in self.metrics]
        return [*common, *self.begin("cost/evaluations_")]

    def begin(self, *starts: str) -> list[str]:
        """Log keys with one of some beginnings."""
        return sorted(key for key in self.metrics if key.startswith(starts))


def project_named(words: str, offline: bool) -> Project:
    """Read a project from W&B, or from the folder `runs` where nobody is logged in.

    Args:
        words: The name, with or without its owner.
        offline: Whether run folders do where nobody is logged in.

    Raises:
        UserError: It does not exist, has no run, or W&B does not respond.
    """
    entity, _, name = words.rpartition("/")
    if "/" in entity or not name:
        raise UserError(f"dashboard: expected PROJECT or ENTITY/PROJECT, got {words}. Correct it")
    found = local_project(name) if offline and not wandb_key_configured() else online_project(entity, name)
    if not found.qualities:
        advice = f"Train with --run.project {name} and an evaluation first"
        raise UserError(f"{found.path}: expected runs of pt_flows with evaluations, got none. {advice}")
    return found


def online_project(entity: str, name: str) -> Project:
    """Read a project from W&B: the summaries of all of its training runs.

    Raises:
        UserError: It does not exist, or W&B does not respond.
    """
    with asking(f"{entity}/{name}".lstrip("/"), "a W&B project that you can read", "Check its name and your rights"):
        client = api()
        entity = entity or str(client.default_entity)
        runs: list[Any] = [run for run in client.runs(f"{entity}/{name}", lazy=False) if run.job_type == "train"]
        summaries = [dict(run.summary) for run in runs]
        logged = {key for run in runs for key in (run.history_keys or {}).get("keys", {})}
    metrics = {key for known in summaries for key, value in known.items() if is_number(value)}
    told: dict[str, Direction] = {
        key: direction_of(value) for known in summaries for key, value in known.items() if direction_of(value)
    }
    media = [key for key in MEDIA if key in logged or any(key in known for known in summaries)]
    return Project(entity, name, metrics, media, {run.id: f"{entity}/{name}/{run.id}" for run in runs}, told)


def is_number(value: Any) -> bool:
    """Whether a value of a summary belongs to a logged number: itself, or its last and best value."""
    return isinstance(value, int | float) or (hasattr(value, "keys") and "last" in value.keys())  # noqa: SIM118


def direction_of(value: Any) -> Direction:
    """The better values of a number, which has only its best value beside the last one in a summary."""
    kept: set[str] = set(value.keys()) & {"min", "max"} if hasattr(value, "keys") else set()
    return "lower" if kept == {"min"} else "higher" if kept == {"max"} else ""


def local_project(name: str) -> Project:
    """Read the runs of a project from their folders under `runs`.

    Raises:
        UserError: There is no such folder.
    """
    root = Path("runs")
    if not root.is_dir():
        raise UserError(
            f"{name}: expected a folder runs, or a login in W&B, got neither. Run wandb login, or train first"
        )
    runs = [run for run in find_runs([str(root)], measured=False) if project_of(run) == name]
    drawn = {file.stem for run in runs for file in (run.folder / "pictures").glob("*.*")}
    media = [key for key in MEDIA if any(is_drawn(key, stem) for stem in drawn)]
    directions: dict[str, Direction] = {
        f"eval/{key}": direction for run in runs for passport, _ in run.records
        for key, direction in passport.directions.items()
    }  # fmt: skip
    metrics = {key for run in runs for row in run.rows for key in row}
    return Project("", name, metrics, media, {run.id: str(run.folder) for run in runs}, directions)


def is_drawn(key: str, stem: str) -> bool:
    """Whether a file of `pictures/` is sent under a log key."""
    patterns = {"samples": stem.isdigit(), "chains": stem.startswith("chains_"), "flow_animation": False}
    return patterns.get(key, stem == key)


def project_of(run: Run) -> str:
    """The W&B project in the configuration of a run."""
    return str((run.config.get("run") or {}).get("project", ""))
