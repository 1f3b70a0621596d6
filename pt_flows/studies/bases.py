"""Arms that begin where the runs of another arm have ended, such as layers on a trained generator."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pt_flows.runs.settings import defining_settings, digest
from pt_flows.studies.options import flags
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.record import ArmRuns
from pt_flows.studies.space import changed
from pt_flows.studies.study_file import BASE, Arm, StudyFile
from pt_flows.studies.train import file_name
from pt_flows.studies.wanted import Wanted


def base_words(arm: Arm, out: Path) -> list[str]:
    """Return the flag that names the base of an arm's runs; empty for an arm without one.

    Args:
        arm: The arm.
        out: Folder of the study.
    """
    return flags({BASE: str(place(out, arm.after) / "{seed}.ckpt")}) if arm.after is not None else []


def upon_bases(study: StudyFile, recipes: Mapping[str, Recipe], out: Path) -> dict[str, Recipe]:
    """Return the final recipes, in which arms with a base name links that only bases of this configuration have.

    So runs on a base are other runs as soon as the recipe, the tuning or the length of the base changes.

    Args:
        study: The study.
        recipes: The recipes of its arms, tuned and with their lengths.
        out: Folder of the study.
    """
    return {name: upon_base(study.arms[name], recipe, recipes, out) for name, recipe in recipes.items()}


def upon_base(arm: Arm, recipe: Recipe, recipes: Mapping[str, Recipe], out: Path) -> Recipe:
    """Return the final recipe of one arm."""
    if arm.after is None:
        return recipe
    values = {BASE: str(place(out, arm.after, recipes[arm.after]) / "{seed}.ckpt")}
    return replace(recipe, words=(*recipe.words, *flags(values)), config=changed(recipe.config, values))


def stages(arms: Sequence[ArmRuns], runs: Sequence[tuple[str, Wanted]]) -> list[list[tuple[str, Wanted]]]:
    """Return the runs in two parts: those of arms without a base, and those that wait for them.

    Args:
        arms: The arms.
        runs: Runs with the names of their arms.
    """
    waiting = {one.arm.name for one in arms if one.arm.after is not None}
    parts = ([run for run in runs if run[0] not in waiting], [run for run in runs if run[0] in waiting])
    return [part for part in parts if part]


def without_base(arms: Mapping[str, ArmRuns], runs: Sequence[tuple[str, Wanted]], out: Path) -> list[str]:
    """Link the checkpoints of finished bases to the paths that their arms expect.

    Args:
        arms: The arms by name, with the states of their runs.
        runs: Runs with the names of their arms.
        out: Folder of the study.

    Returns:
        The names of the runs whose base has not been trained to its end.
    """
    lost = []
    for name, run in runs:
        if (after := arms[name].arm.after) is None:
            continue
        base = arms[after]
        state = base.states[[one.seed for one in base.wanted].index(run.seed)]
        if state.state != "finished" or state.folder is None:
            lost.append(run.name)
            continue
        link = place(out, after, base.recipe) / f"{run.seed}.ckpt"
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(state.folder / "checkpoints" / "last.ckpt", link.parent)
        if not link.is_symlink() or os.readlink(link) != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return lost


def place(out: Path, name: str, recipe: Recipe | None = None) -> Path:
    """Folder of the links to the checkpoints of an arm, for its final recipe."""
    folder = out / "bases" / file_name(name)
    return folder if recipe is None else folder / digest(defining_settings(recipe.config))
