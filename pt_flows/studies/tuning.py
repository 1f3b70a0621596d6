"""Tuning of the arms of a study, each with the same effort."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from pt_flows.runs.settings import defining_settings, differences, digest, short
from pt_flows.studies.pool import Slot
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.study_file import Arm, StudyFile
from pt_flows.studies.train import file_name
from pt_flows.studies.tune import Best, search


def tuned(
    study: StudyFile, recipes: Mapping[str, Recipe], out: Path, slots: Sequence[Slot]
) -> tuple[dict[str, Recipe], dict[str, Best]]:
    """Search for the best values of the arms that are to be tuned. A search that has ended returns at once.

    Args:
        study: The study.
        recipes: The recipes of its arms.
        out: Its folder.
        slots: Places to run.

    Returns:
        The recipes, tuned where they are to be, and the results of the searches by arm.

    Raises:
        UserError: No trial of a search has ended.
    """
    found: dict[str, Best] = {}
    for name, arm in study.arms.items():
        if arm.space is not None:
            found[name] = searched(study, arm, recipes[name], out, slots)
    better = {name: tuned_recipe(recipes[name], best.file) for name, best in found.items()}
    return {**recipes, **better}, found


def searched(study: StudyFile, arm: Arm, recipe: Recipe, out: Path, slots: Sequence[Slot]) -> Best:
    """Search for the best values of an arm."""
    effort = study.tuning
    assert effort is not None, "a study file with a search space has an effort"
    assert arm.search_space is not None, "the arm is tuned"
    iterations = effort.iterations
    if iterations is None and study.budget is not None and study.budget.unit == "iterations":
        iterations = int(study.budget.amount)
    measures = study.metrics and study.measurement is None and not study.metrics[0].startswith("area of ")
    metric = effort.metric or (study.metrics[0] if measures else None)
    what = digest([defining_settings(recipe.config), arm.search_space.dimensions, effort, iterations, metric])
    folder = out / "tune" / f"{file_name(arm.name)}-{what}"
    return search(
        folder, f"{arm.name}, tuning", recipe, arm.search_space, effort.trials, effort.seeds,
        slots=slots, metric=metric, iterations=iterations,
    )  # fmt: skip


def tuned_recipe(recipe: Recipe, file: Path) -> Recipe:
    """Return the recipe of a complete configuration that a search has written."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    return replace(recipe, words=("--config", str(file)), config=config)


def told(best: Best, recipe: Recipe, tuned_to: Recipe) -> str:
    """Return a sentence about a search.

    Args:
        best: Its result.
        recipe: The recipe before.
        tuned_to: The recipe after.
    """
    found = differences(defining_settings(recipe.config), defining_settings(tuned_to.config))
    values = ", ".join(f"{key} = {short(here)} (before: {short(there)})" for key, (there, here) in found.items())
    own = "failed" if best.own is None else f"had {best.own:.4g}"
    return f"{best.text}. Best {best.metric} {best.value:.4g}, the recipe itself {own}. {values or 'Nothing changed'}"
