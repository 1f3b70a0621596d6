"""The file of a study: arms, data, seeds, budget, numbers and wanted verdicts, checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from pt_flows.cli.given import check_yaml
from pt_flows.compare.areas import key_of
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.studies.options import flags
from pt_flows.studies.sections import Reader, Section, count, list_of, mapping, path, positive, recipe, seeds, text
from pt_flows.studies.space import Space, parsed_space, read_space

Unit = Literal["iterations", "evaluations", "seconds"]
BASE = "model.base"
"""Key of the checkpoint on which the runs of an arm begin."""
ELSEWHERE = {
    "seed_everything": "seeds: 0..4",
    "trainer.max_steps": "budget: {iterations: N}",
    "evaluation.sampler": "sampler: ... of the arm",
    BASE: "after: NAME of the arm",
}
"""Keys that are no changes of an arm, and what to use instead."""


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


def read_study(file: Path) -> StudyFile:
    """Read and check a study file.

    Raises:
        UserError: It does not exist, or something in it is wrong. The sentence names the file and the key.
    """
    if not file.is_file():
        raise UserError(f"{file}: expected a study file, got no such file. Check the path")
    if wrong := check_yaml(file, "arms and seeds", "seeds: 0..4"):
        raise UserError(wrong)
    names = ("title", "arms", "changes", "data", "seeds", "budget", "tune", "metrics", "evaluate", "verdicts", "claims")
    top = Section(file, "", yaml.safe_load(file.read_text(encoding="utf-8"))).only(names)
    arms = arms_of(top)
    metrics = top.get("metrics", list_of(text), ())
    for metric in metrics:
        if own_direction(key_of(metric)) == "":
            raise top.wrong("metrics", "numbers that are better low or high", metric, "Omit it: runs record it anyway")
    measurement = top.get("evaluate", measurement_of, None)
    for arm in arms.values():
        if arm.sampler is not None and measurement is None:
            raise top.wrong("evaluate", f"a number of samples, because the arm {arm.name} has a sampler", None,
                            "Add, for example, evaluate: {n: 2000}")  # fmt: skip
    tuning = top.get("tune", tuning_of, None)
    if is_tuned := [arm.name for arm in arms.values() if arm.space is not None]:
        if tuning is None:
            raise top.wrong("tune", f"trials, because the arm {is_tuned[0]} is tuned", None, "Add tune: {trials: 20}")
    elif tuning is not None:
        raise top.wrong("tune", "an arm with a search space", "none", "Add tune: {space: FILE} to the arms, or omit it")
    read_wishes = partial(wishes_of, arms=arms, metrics=metrics)
    claims = top.get("claims", partial(claims_of, read_wishes=read_wishes), ())
    wishes = [*top.get("verdicts", read_wishes, ()), *(wish for claim in claims for wish in claim.wishes)]
    return StudyFile(
        file=file,
        title=top.get("title", text, file.stem),
        arms=arms,
        changes=top.get("changes", mapping, Section(file, "", {})).content,
        seeds=top.get("seeds", seeds),
        metrics=metrics,
        budget=top.get("budget", budget_of, None),
        tuning=tuning,
        measurement=measurement,
        wishes=tuple(dict.fromkeys(wishes)),
        claims=claims,
    )


def arms_of(top: Section) -> dict[str, Arm]:
    """Read the arms, each with the changes and the data of all."""
    common, data = top.get("changes", mapping, Section(top.file, "", {})), top.get("data", list_of(recipe), ())
    found: dict[str, Arm] = {}
    given = top.get("arms", mapping)
    for name in given.content:
        arm = given.get(name, mapping).only(("config", "changes", "sampler", "tune", "after"))
        if not str(name).strip():
            raise given.wrong(name, "a name", "none", "Name the arm")
        changes = arm.get("changes", mapping, Section(top.file, "", {}))
        found[name] = Arm(
            name,
            (*arm.get("config", list_of(recipe)), *data),
            {**common.content, **changes.content},
            arm.content.get("sampler"),
            arm.get("tune", space_of, None),
            arm.get("after", text, None),
        )
        if found[name].after is not None and found[name].space is not None:
            raise arm.wrong("after", "no tune beside it", found[name].after, "Omit one of them")
    if len(found) < 2:
        raise top.wrong("arms", "at least two arms", f"{len(found)}", "Add one, or use pt-flows fit --seeds")
    bases = [name for name, arm in found.items() if arm.after is None and arm.sampler is None]
    for arm in found.values():
        if arm.after is not None and arm.after not in bases:
            own = given.get(arm.name, mapping)
            raise own.wrong("after", f"one of the arms {'; '.join(bases)}", arm.after, "Name an arm without a base")
        for key, instead in ELSEWHERE.items():
            if key in arm.changes and (key != "trainer.max_steps" or "budget" in top.content):
                raise top.wrong(f"changes.{key}", "other keys", f"this one for {arm.name}", f"Use {instead}")
    return found


def space_of(section: Section, key: str, value: Any) -> Path | dict[str, Any]:
    """Read the search space of an arm, a file or its content."""
    space = mapping(section, key, value).only(("space",)).content.get("space")
    if isinstance(space, dict):
        return space
    return path(Section(section.file, f"{section.key}.{key}", {}), "space", space)


def budget_of(section: Section, key: str, value: Any) -> Budget:
    """Read the length of a run."""
    units: tuple[Unit, ...] = get_args(Unit)
    own = mapping(section, key, value).only(units)
    if len(own.content) != 1:
        raise section.wrong(key, f"one of {', '.join(units)}", value, "Choose one")
    if "iterations" in own.content:
        return Budget("iterations", own.get("iterations", count))
    unit: Unit = "seconds" if "seconds" in own.content else "evaluations"
    return Budget(unit, own.get(unit, positive))


def tuning_of(section: Section, key: str, value: Any) -> Tuning:
    """Read the effort of tuning."""
    own = mapping(section, key, value).only(("trials", "budget", "seeds", "metric"))
    budget = own.get("budget", budget_of, None)
    if budget is not None and budget.unit != "iterations":
        raise own.wrong("budget", "iterations", budget.unit, "Trials have equal numbers of iterations")
    length = int(budget.amount) if budget else None
    return Tuning(own.get("trials", count), length, own.get("seeds", seeds, (1000,)), own.get("metric", text, None))


def measurement_of(section: Section, key: str, value: Any) -> Measurement:
    """Read the measurement of finished runs."""
    own = mapping(section, key, value).only(("n", "split", "seeds"))
    split = own.get("split", text, None)
    if split not in (None, "train", "test"):
        raise own.wrong("split", "train or test", split, "Correct it")
    return Measurement(own.get("n", count), split, own.get("seeds", count, 1))


def wishes_of(
    section: Section, key: str, value: Any, arms: Mapping[str, Arm], metrics: Sequence[str]
) -> tuple[Wish, ...]:
    """Read the wanted verdicts."""
    found: list[Wish] = []
    for item in value if isinstance(value, list) else [value]:
        own = mapping(section, key, item).only(("better", "than", "metric"))
        for name in ("better", "than"):
            if own.get(name, text) not in arms:
                raise own.wrong(name, f"one of the arms {'; '.join(arms)}", own.content[name], "Check the name")
        if not metrics:
            raise section.wrong("metrics", "the numbers that verdicts are about", None, "Add, for example, [w2_512]")
        metric = own.get("metric", text, metrics[0])
        if metric not in metrics:
            raise own.wrong("metric", f"one of the metrics {', '.join(metrics)}", metric, "Add it to metrics")
        wish = Wish(own.get("better", text), own.get("than", text), metric)
        if wish.better == wish.than:
            raise own.wrong("than", "another arm", wish.than, "Correct it")
        if any({wish.better, wish.than} == {w.better, w.than} and wish.metric == w.metric for w in found):
            raise section.wrong(key, "every pair once", f"{wish.better} and {wish.than} again", "Keep one of them")
        found.append(wish)
    return tuple(found)


def claims_of(section: Section, key: str, value: Any, read_wishes: Reader[tuple[Wish, ...]]) -> tuple[Claim, ...]:
    """Read claims, each with the verdicts that decide it."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        own = mapping(section, key, item).only(("paper", "text", "verdicts"))
        found.append(Claim(own.get("paper", text), own.get("text", text), own.get("verdicts", read_wishes)))
    return tuple(found)
