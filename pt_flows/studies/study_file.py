"""The content of a study: arms, data, seeds, budget, numbers and wanted verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pt_flows.studies.options import flags
from pt_flows.studies.space import Space, parsed_space, read_space

Unit = Literal["iterations", "evaluations", "seconds"]
BASE = "model.base"
"""Key of the checkpoint on which the runs of an arm begin; in DA-EBM the word for a density under the energy."""


def begins_upon(value: Any) -> bool:
    """Whether a value of `model.base` is a checkpoint, and no word of DA-EBM."""
    return value not in (None, "none", "gaussian")


@dataclass(frozen=True)
class Budget:
    """The length of a run.

    Attributes:
        unit: Iterations, samples evaluated by networks, or seconds of training.
        amount: Their number.
    """

    unit: Unit
    amount: float

    def __str__(self) -> str:
        return f"{self.amount:,.15g} {self.unit}"


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: Its name in tables and verdicts.
        configs: Its recipe, one or several files.
        changes: Keys of `pt-flows fit` with the values that replace those of the recipe.
        sampler: The sampler that it is measured with; None for the method's own one.
        space: The search space for tuning, a file or its content; None for an arm that is not tuned.
        after: The arm whose runs are the bases of this one's, seed by seed; None for an arm that begins afresh.
    """

    name: str
    configs: tuple[Path, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)
    sampler: Any = None
    space: Path | Mapping[str, Any] | None = None
    after: str | None = None

    @property
    def search_space(self) -> Space | None:
        """The search space.

        Raises:
            UserError: It has a mistake.
        """
        if self.space is None:
            return None
        where = f"arm {self.name}, tune.space"
        return read_space(self.space) if isinstance(self.space, Path) else parsed_space(self.space, where)

    @property
    def words(self) -> list[str]:
        """Arguments of `pt-flows fit` for the recipe with its changes."""
        return [*(word for path in self.configs for word in ("--config", str(path))), *flags(self.changes)]


@dataclass(frozen=True)
class Tuning:
    """The effort that every tuned arm gets.

    Attributes:
        trials: Number of trials.
        iterations: Length of a trial; None for that of the final runs.
        seeds: Training seeds of the trials.
        metric: The number that decides; None for the study's first one.
    """

    trials: int
    iterations: int | None = None
    seeds: tuple[int, ...] = (1000,)
    metric: str | None = None


@dataclass(frozen=True)
class Measurement:
    """Measurement of every finished run by `pt-flows evaluate`.

    Attributes:
        n: Number of generated samples.
        split: Split of the real samples; None for that of `pt-flows evaluate`.
        seeds: Number of sampling seeds.
    """

    n: int
    split: str | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Wish:
    """A wanted verdict.

    Attributes:
        better: Name of the arm that should be better.
        than: Name of the other arm.
        metric: The number that is judged.
    """

    better: str
    than: str
    metric: str


@dataclass(frozen=True)
class Claim:
    """A claim of a paper that the study checks.

    Attributes:
        paper: The paper.
        text: The claim in one sentence.
        wishes: The verdicts that decide it.
    """

    paper: str
    text: str
    wishes: tuple[Wish, ...]


@dataclass(frozen=True)
class StudyFile:
    """The content of a study file.

    Attributes:
        file: The file.
        title: Title of the record.
        arms: The arms by name.
        changes: The changes of all arms.
        seeds: Training seeds of every arm.
        metrics: The numbers that are compared; the first one decides. Empty for the one that `compare` chooses.
        budget: Length of every run; None for that of each recipe.
        tuning: Effort of tuning; None if no arm is tuned.
        measurement: Measurement of finished runs; None if the numbers of training are compared.
        wishes: The wanted verdicts, also those of claims; empty for all pairs by the first number.
        claims: The claims that verdicts decide.
    """

    file: Path
    title: str
    arms: Mapping[str, Arm]
    changes: Mapping[str, Any]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...] = ()
    budget: Budget | None = None
    tuning: Tuning | None = None
    measurement: Measurement | None = None
    wishes: tuple[Wish, ...] = ()
    claims: tuple[Claim, ...] = ()
