"""Short trials: the cost of an iteration of each arm, for budgets that are not in iterations and for estimates."""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pt_flows.compare.runs import read_rows, run_folders
from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.runs.settings import defining_settings, digest
from pt_flows.studies.board import Board
from pt_flows.studies.options import flags
from pt_flows.studies.pool import Job, Slot, last_lines, run_jobs
from pt_flows.studies.recipes import Recipe
from pt_flows.studies.study_file import BASE, Budget, begins_upon

LEAST_ITERATIONS = 20

LOG_INTERVAL = 50
"""Lightning's default of `log_every_n_steps`."""


@dataclass(frozen=True)
class Cost:
    """The cost of a recipe on this machine.

    Attributes:
        seconds: Seconds of training for an iteration.
        evaluations: Samples that networks evaluate in an iteration.
        frame: Seconds before the first iteration and after the last one.
        evaluation: Seconds of an evaluation of the curve.
        numbers: Names of the numbers that the recipe measures.
    """

    seconds: float
    evaluations: float
    frame: float
    evaluation: float
    numbers: tuple[str, ...]

    def iterations(self, budget: Budget, block: int) -> int:
        """Return the length of a run within a budget, whole blocks of iterations where there is at least one."""
        if budget.unit == "iterations":
            return int(budget.amount)
        longest = int(budget.amount / (self.seconds if budget.unit == "seconds" else self.evaluations))
        return longest // block * block or max(longest, 1)

    def of_run(self, iterations: int, every: int) -> float:
        """Return the seconds that a run is expected to take, with its start and its evaluations."""
        evaluations = iterations // every + (iterations % every > 0) if every else 1
        return self.frame + iterations * self.seconds + evaluations * self.evaluation


def block_of(config: Mapping[str, Any]) -> int:
    """Return the number of iterations that one step of the Trainer runs."""
    return int((config["data"].get("init_args") or {}).get("iterations_per_block") or 1)


def measured_costs(recipes: Mapping[str, Recipe], folder: Path, slots: Sequence[Slot]) -> dict[str, Cost]:
    """Return the cost of every recipe. A recipe that was measured before in this folder is not measured again.

    Args:
        recipes: The recipes by the names of their arms.
        folder: Folder of the measured costs.
        slots: Places to run.

    Raises:
        UserError: A trial failed.
    """
    files = {name: folder / f"{digest(without_length(recipe.config))}.json" for name, recipe in recipes.items()}
    owners = {file: name for name, file in reversed(files.items())}  # equal recipes have one trial, of the first arm
    missing = [name for file, name in owners.items() if not file.is_file()]
    if missing:
        num = len(missing)
        board = Board(f"{num} short trial{'s' * (num > 1)}", [("", 1.0)] * num, len(slots))
        board.say(f"{board.title}: the cost of an iteration of {', '.join(missing)}")
        problems: list[str] = []
        jobs = (trial(name, recipes[name], files[name], problems) for name in missing)
        run_jobs(jobs, slots, board)
        if problems:
            raise UserError(problems[0])
    found = {name: json.loads(file.read_text()) for name, file in files.items()}
    return {name: Cost(**{**cost, "numbers": tuple(cost["numbers"])}) for name, cost in found.items()}


def without_length(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without its seed and its length."""
    settings = defining_settings(config)
    settings["trainer"] = {key: value for key, value in settings["trainer"].items() if key != "max_steps"}
    return settings


def trial(name: str, recipe: Recipe, file: Path, problems: list[str]) -> Job:
    """Return the job that measures the cost of a recipe.

    Args:
        name: Name of the arm.
        recipe: Its recipe.
        file: File for the result.
        problems: List for the sentence about a failure.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    block = block_of(recipe.config)
    num = max(3 * block, LEAST_ITERATIONS)
    once = math.ceil((num // 2 + 1) / block) * block  # the log has one row there, and one at the end
    given = recipe.config["trainer"].get("log_every_n_steps")
    every = LOG_INTERVAL if given is None else max(1, int(given))
    root = Path(tempfile.mkdtemp(prefix="trial-", dir=file.parent))
    words = [
        "fit", *recipe.words, "--trainer.max_steps", str(num), "--trainer.log_every_n_steps", str(once),
        "--evaluation.every_n_iterations", "0", "--run.root", str(root), "--run.wandb", "disabled",
    ]  # fmt: skip
    begins = begins_upon((recipe.config["model"].get("init_args") or {}).get("base"))
    words += flags({BASE: None}) if begins else []  # the checkpoint may not exist yet
    log = file.with_suffix(".log")
    ended = partial(conclude, name, root, file, log, once, every, time.time(), problems)
    return Job(f"trial of {name}", words, log, ended=ended)


def conclude(
    name: str, root: Path, file: Path, log: Path, once: int, every: int, begin: float, problems: list[str], code: int
) -> None:
    """Write the cost of a trial that has ended, for runs with a row of the log every few iterations; remove its run."""
    end = time.time()
    try:
        folder = next(run_folders(root), None)
        if code or folder is None:
            problems.append(f"{name}: the trial of its cost failed. {last_lines(log)}")
            return
        cost = cost_of(folder, once, every, begin, end)
        with replacing(file) as partial_file:
            partial_file.write_text(json.dumps(asdict(cost)) + "\n")
    finally:
        shutil.rmtree(root)


def cost_of(folder: Path, once: int, every: int, begin: float, end: float) -> Cost:
    """Return the cost that a short run shows.

    Iterations between its log point and its end cost what all others do. What the iterations before it evaluate beyond
    that is taken for the diagnostics of a log point. Their seconds do not count, as the first ones are slower.

    Args:
        folder: Its run folder.
        once: The iteration of its log point.
        every: Iterations from one log point to the next in a run of full length.
        begin: Time of its start.
        end: Time of its end.
    """
    rows, _ = read_rows((folder / "metrics.csv").read_text())
    costs = [row for row in rows if "cost/seconds" in row]
    last = costs[-1]  # checkpoints write rows, too
    first = next((row for row in costs if row["iteration"] == once), {"iteration": 0.0, "cost/seconds": 0.0})
    num = last["iteration"] - first["iteration"]
    seconds = (last["cost/seconds"] - first["cost/seconds"]) / num
    middle, total = (sum(v for key, v in row.items() if "evaluations_" in key) for row in (first, last))
    plain = (total - middle) / num
    evaluations = plain + max(middle - plain * first["iteration"], 0.0) / every
    numbers = sorted({key.removeprefix("eval/") for row in rows for key in row if key.startswith("eval/")})
    trained = (folder / "environment.json").stat().st_mtime + last["cost/seconds"]
    measured = max((path.stat().st_mtime for path in (folder / "evaluations").glob("*.json")), default=trained)
    frame = max(end - begin - last["cost/seconds"] - (measured - trained), 0.0)
    return Cost(max(seconds, 1e-9), evaluations, frame, max(measured - trained, 0.0), tuple(numbers))


def lengths(costs: Mapping[str, Cost], recipes: Mapping[str, Recipe], budget: Budget) -> dict[str, int]:
    """Return the number of iterations of every arm within a budget."""
    return {name: cost.iterations(budget, block_of(recipes[name].config)) for name, cost in costs.items()}
