"""Reads the file of a study, and checks it before anything runs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml

from pt_flows.cli.given import check_yaml
from pt_flows.compare.areas import key_of
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import own_direction
from pt_flows.studies.sections import Reader, Section, count, list_of, mapping, path, positive, recipe, seeds, text
from pt_flows.studies.study_file import (
    BASE,
    Arm,
    Budget,
    Claim,
    Measurement,
    StudyFile,
    Tuning,
    Unit,
    Wish,
    begins_upon,
)

KEYS = (
    "title", "arms", "changes", "data", "seeds", "budget", "tune", "metrics", "evaluate", "verdicts", "claims", "base"
)  # fmt: skip
ADDED = ("arms", "changes")
"""Keys of a study file whose content is added to that of its base."""
ELSEWHERE = {
    "seed_everything": "seeds: 0..4",
    "trainer.max_steps": "budget: {iterations: N}",
    "evaluation.sampler": "sampler: ... of the arm",
    BASE: "after: NAME of the arm",
}
"""Keys that are no changes of an arm, and what to use instead."""


def read_study(file: Path) -> StudyFile:
    """Read and check a study file.

    Raises:
        UserError: It does not exist, or something in it is wrong. The sentence names the file and the key.
    """
    if not file.is_file():
        raise UserError(f"{file}: expected a study file, got no such file. Check the path")
    top = content_of(file)
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
    budget = top.get("budget", budget_of, None)
    if tuning is not None and tuning.iterations is None and budget is not None and budget.unit != "iterations":
        advice = "Add, for example, budget: {iterations: 200}"
        raise top.wrong("tune.budget", "iterations, as arms have different ones in the same budget", None, advice)
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
        budget=budget,
        tuning=tuning,
        measurement=measurement,
        wishes=tuple(dict.fromkeys(wishes)),
        claims=claims,
    )


def content_of(file: Path) -> Section:
    """Read the keys of a study file. Those of its base stay below: changes and arms are added, other keys replaced.

    A key without a value removes that of the base, as does an arm.
    """
    own = keys_of(file)
    base = own.get("base", path, None)
    if base is None:
        return own
    if base.resolve().parent != file.resolve().parent:
        raise own.wrong("base", "a study file in the same folder", str(base), "Put them into one folder")
    below, nothing = keys_of(base), Section(file, "", {})
    if "base" in below.content:
        raise own.wrong(
            "base", "a study file without a base", str(base), "Name the base of that file, or copy its keys"
        )
    added = {
        key: {**below.get(key, mapping, nothing).content, **own.get(key, mapping, nothing).content} for key in ADDED
    }
    given, given_here = (one.get("arms", mapping, nothing).content for one in (below, own))
    omitted = {name for name, arm in given_here.items() if arm is None}
    if unknown := omitted - given.keys():
        raise own.wrong("arms", f"arms of {base.name} to omit ({'; '.join(given)})", min(unknown), "Check the name")
    added["arms"] = {name: arm for name, arm in added["arms"].items() if name not in omitted}
    return Section(file, "", {**below.content, **own.content, **added})


def keys_of(file: Path) -> Section:
    """Read a study file without its base."""
    if wrong := check_yaml(file, "arms and seeds", "seeds: 0..4"):
        raise UserError(wrong)
    return Section(file, "", yaml.safe_load(file.read_text(encoding="utf-8"))).only(KEYS)


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
            if key == BASE and not begins_upon(arm.changes.get(BASE)):
                continue
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
