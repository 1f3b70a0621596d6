"""The plan of a study: its recipes, lengths and runs, and what earlier calls have left."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from pt_flows.compare.runs import Run, run_folders
from pt_flows.compare.subjects import shared
from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.runs.settings import as_text, defining_settings, differences, told
from pt_flows.studies.bases import base_words
from pt_flows.studies.options import flags
from pt_flows.studies.pool import Slot
from pt_flows.studies.recipes import Recipe, completed
from pt_flows.studies.record import ArmRuns
from pt_flows.studies.study_file import StudyFile
from pt_flows.studies.trial import Cost, lengths, measured_costs
from pt_flows.studies.tune import extremes
from pt_flows.studies.wanted import Found, Wanted, found, identity_of


def recipes_of(study: StudyFile, out: Path) -> dict[str, Recipe]:
    """Return the complete recipes of all arms, before any tuning. Samplers and ends of search spaces are built, too.

    Args:
        study: The study.
        out: Its folder.

    Raises:
        UserError: A recipe, a sampler or a search space has a mistake, or two arms are the same.
    """
    common = ["--run.group", study.file.stem]  # first, so that a recipe may have another group
    commands = {
        name: [*common, *arm.words, *base_words(arm, out), "--run.root", str(out / "runs")]
        for name, arm in study.arms.items()
    }
    samplers = {
        f"{name} with its sampler": [*commands[name], *flags({"evaluation.sampler": arm.sampler})]
        for name, arm in study.arms.items()
        if arm.sampler is not None
    }
    spaces = {name: space for name, arm in study.arms.items() if (space := arm.search_space) is not None}
    ends = [extremes(name, commands[name], space) for name, space in spaces.items()]
    recipes = completed({name: words for part in (commands, samplers, *ends) for name, words in part.items()})
    for name, space in spaces.items():
        space.own(recipes[name].config)
    known: dict[str, str] = {}
    for name, arm in study.arms.items():
        compared = shared(Run(out, recipes[name].config, None, []))
        identity = as_text({**compared, "sampler": arm.sampler})
        if (other := known.setdefault(identity, name)) != name and arm.space is None:
            got = f"one configuration for {other} and {name}"
            raise UserError(f"{study.file}: arms: expected different arms, got {got}. Change or omit one")
    return {name: recipes[name] for name in study.arms}


def lengthened(study: StudyFile, recipes: Mapping[str, Recipe], out: Path, slots: Sequence[Slot]) -> dict[str, Recipe]:
    """Return the recipes with the length that the budget gives. Budgets that are not in iterations need a short trial.

    Args:
        study: The study.
        recipes: The recipes of its arms.
        out: Its folder.
        slots: Places to run.
    """
    if study.budget is None:
        return dict(recipes)
    if study.budget.unit == "iterations":
        num = dict.fromkeys(recipes, int(study.budget.amount))
    else:
        num = lengths(costs_of(recipes, out, slots), recipes, study.budget)
    return {name: with_length(recipe, num[name]) for name, recipe in recipes.items()}


def costs_of(recipes: Mapping[str, Recipe], out: Path, slots: Sequence[Slot]) -> dict[str, Cost]:
    """Return the costs of recipes by short trials, which one process makes for all that share the folder."""
    (out / "trials").mkdir(parents=True, exist_ok=True)
    with FileLock(out / "trials" / ".lock", thread_local=False):
        return measured_costs(recipes, out / "trials", slots)


def with_length(recipe: Recipe, iterations: int) -> Recipe:
    """Return a recipe with another number of iterations."""
    trainer = {**recipe.config["trainer"], "max_steps": iterations}
    words = (*recipe.words, "--trainer.max_steps", str(iterations))
    return replace(recipe, words=words, config={**recipe.config, "trainer": trainer})


def arm_runs(study: StudyFile, recipes: Mapping[str, Recipe]) -> list[ArmRuns]:
    """Return the arms with their wanted runs and the states of these."""
    arms = []
    for name, arm in study.arms.items():
        first = Wanted(name, recipes[name].words, recipes[name].config)
        wanted = [first.seeded(seed, f"{name}, seed {seed}") for seed in study.seeds]
        arms.append(ArmRuns(arm, recipes[name], wanted, found(wanted)))
    return arms


def unique_runs(arms: Sequence[ArmRuns]) -> list[tuple[str, Wanted]]:
    """Return every run once, with its first arm. Arms that differ by their sampler share runs."""
    known: dict[tuple[str, int], tuple[str, Wanted]] = {}
    for one in arms:
        for run in one.wanted:
            known.setdefault(run.identity, (one.arm.name, run))
    return list(known.values())


def progress(arms: Sequence[ArmRuns]) -> list[dict[str, str]]:
    """Return the table of states, an arm in each row and a seed in each column."""
    return [
        {"arm": one.arm.name, "iterations": f"{one.wanted[0].iterations:,}"}
        | {f"seed {run.seed}": state_text(state) for run, state in zip(one.wanted, one.states, strict=True)}
        for one in arms
    ]


def state_text(state: Found) -> str:
    """Return the state of a run as text."""
    return f"{state.state} at {state.iteration:,}" if state.state in ("begun", "running", "failed") else state.state


def changes_since(arms: Sequence[ArmRuns], out: Path) -> list[str]:
    """Return sentences about arms that have changed since the last call, and about runs that are in no arm now.

    Args:
        arms: The arms.
        out: Folder of the study.
    """
    file = out / "arms.json"
    before: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    here = settings_of(arms)
    same, lines = [name for name in here if as_text(before.get(name, {})) == as_text(here[name])], []
    for name in (name for name in here if name in before and name not in same):
        found = differences(before[name], here[name])
        lines.append(f"{name} has changed ({told(found) if found else 'its arguments'}): its runs are repeated")
    if lines:
        lines.append(f"runs of {', '.join(same)} are reused" if same else "no run is reused")
    identities = {run.identity for one in arms for run in one.wanted}
    others = [folder for folder in run_folders(out / "runs") if identity_of(folder) not in identities]
    if others:
        where = f"{others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        lines.append(f"{where} belong to no arm or seed of the file now: kept, and not compared")
    return lines


def keep_settings(arms: Sequence[ArmRuns], out: Path) -> None:
    """Write the configurations of the arms, for the next call."""
    with replacing(out / "arms.json") as partial:
        partial.write_text(json.dumps(settings_of(arms), default=str) + "\n")


def settings_of(arms: Sequence[ArmRuns]) -> dict[str, Any]:
    """Return the configurations of the arms, without seeds."""
    return {one.arm.name: defining_settings(one.recipe.config) for one in arms}
