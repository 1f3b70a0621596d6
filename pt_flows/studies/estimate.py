"""The plan of a study in print, with an estimate of its cost from short trials."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pt_flows.compare.areas import key_of
from pt_flows.compare.table import markdown, number
from pt_flows.errors import UserError
from pt_flows.studies.bases import upon_bases
from pt_flows.studies.claims import duration
from pt_flows.studies.plan import arm_runs, changes_since, costs_of, lengthened, progress, unique_runs
from pt_flows.studies.pool import Slot
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.record import ArmRuns
from pt_flows.studies.study_file import StudyFile
from pt_flows.studies.trial import Cost


def dry_run(file: StudyFile, recipes: Mapping[str, Recipe], out: Path, slots: Sequence[Slot]) -> None:
    """Print the plan of a study, with an estimate of its cost from a short trial of each arm.

    Args:
        file: The study file.
        recipes: The recipes of its arms, before tuning.
        out: Folder of the study.
        slots: Places to run.

    Raises:
        UserError: A trial failed, or a wanted number is not measured.
    """
    costs = costs_of(recipes, out, slots)
    check_numbers(file, costs)
    arms = arm_runs(file, upon_bases(file, lengthened(file, recipes, out, slots), out))
    for line in changes_since(arms, out):
        print(f"note: {line}")
    owners = {run.identity: name for name, run in unique_runs(arms)}
    parts = [estimate(file, one, costs[one.arm.name], owners) for one in arms]
    total = sum(seconds for _, seconds in parts)
    print(f"{markdown(progress(arms))}\n\n{markdown([row for row, _ in parts])}\n")
    if file.measurement is not None:
        print("the estimate is without the measurement of finished runs by pt-flows evaluate")
    print(f"about {duration(total)} of one process, {duration(total / len(slots))} with {len(slots)} side by side")


def check_numbers(file: StudyFile, costs: Mapping[str, Cost]) -> None:
    """Check that every arm measures the wanted numbers. Those of `pt-flows evaluate` are not known before.

    Raises:
        UserError: An arm does not measure one.
    """
    for name, cost in costs.items() if file.measurement is None else ():
        has_numbers(file, name, cost.numbers)


def has_numbers(file: StudyFile, name: str, known: Collection[str]) -> None:
    """Check that the wanted numbers are among those of an arm.

    Args:
        file: The study file.
        name: Name of the arm.
        known: The numbers that it measures.

    Raises:
        UserError: One is not.
    """
    for metric in file.metrics:
        if (key := key_of(metric)) not in known:
            told = ", ".join(sorted(known)) or "no number"
            raise UserError(f"{file.file}: metrics: expected numbers that {name} measures ({told}), got {key}")


def estimate(
    file: StudyFile, one: ArmRuns, cost: Cost, owners: Mapping[tuple[str, int], str]
) -> tuple[dict[str, str], float]:
    """Return the row of an arm, and the seconds of one process that it still needs.

    Args:
        file: The study file.
        one: The arm.
        cost: The cost of its recipe.
        owners: The arm to which each run is counted.
    """
    every = one.recipe.config["evaluation"]["every_n_iterations"]
    left = [
        run.iterations - state.iteration * (state.state == "begun")
        for run, state in zip(one.wanted, one.states, strict=True)
        if state.state not in ("finished", "failed") and owners[run.identity] == one.arm.name
    ]
    seconds = sum(cost.of_run(num, every) for num in left)
    trials = file.tuning.trials * len(file.tuning.seeds) if file.tuning and one.arm.space is not None else 0
    if trials and file.tuning:
        seconds += trials * cost.of_run(file.tuning.iterations or one.wanted[0].iterations, every)
    row = {
        "arm": one.arm.name,
        "iterations": f"{one.wanted[0].iterations:,}",
        "samples evaluated by networks": number(one.wanted[0].iterations * cost.evaluations),
        "iterations a second": number(1 / cost.seconds),
        "trials": str(trials),
        "runs to do": str(len(left)),
        "time": duration(seconds),
    }
    return row, seconds
