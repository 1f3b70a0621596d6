"""The command `tune`: search for the values of a recipe at which it does best, by an equal effort for every recipe."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from pt_flows.cli.shipped import recipe_file
from pt_flows.compare.table import markdown
from pt_flows.errors import UserError
from pt_flows.files import replacing
from pt_flows.runs.folder import experiment_of
from pt_flows.studies.options import at_least_one, flags, seeds_in, taken
from pt_flows.studies.pool import Slot, slots_of
from pt_flows.studies.recipes import Recipe, completed
from pt_flows.studies.search import Search
from pt_flows.studies.space import Space, as_word, changed, read_space
from pt_flows.studies.storage import database
from pt_flows.studies.trials import identity
from pt_flows.studies.wanted import Wanted

HELP = """pt-flows tune CONFIG [CONFIG ...] [options] [flags of fit]: find better values for a recipe

  --trials 20         number of trials; the first one is the recipe itself
  --space FILE        ranges and choices for keys of the recipe; default CONFIG with .space.yaml instead of .yaml
  --iterations N      length of a trial; default that of the recipe
  --metric KEY        number that ranks trials; default the one that compare chooses
  --seeds 1000        seeds of each trial, which the final comparison must not use
  --jobs N            trials side by side; default one for each core or GPU
  --out DIR           folder of the search; default runs/tune/<data>-<method>-<hash>. The same command continues it
  --storage URL       database for several machines without a common folder; default a file in the folder

See docs/tuning.md.
"""
OPTIONS = {"trials": at_least_one, "space": Path, "iterations": at_least_one, "metric": str, "seeds": seeds_in,
           "jobs": at_least_one, "out": Path, "storage": str}  # fmt: skip
NUM_SHOWN = 5
STATES = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
"""Words for Optuna's states of trials that have ended."""
OTHER_SPLIT = {None: "other", "other": None, "train": "test", "test": "train"}
"""The split for trials, by that of the recipe."""
LEARNED = r"(robust_)?(accuracy|risk)_|log_likelihood_iw"
"""Beginnings of names of numbers about what was learned. Trials take the next samples of the test split."""
SECOND = "_second"
"""End of the names of these numbers in trials."""


@dataclass(frozen=True)
class Best:
    """The result of a search.

    Attributes:
        file: The best recipe, a complete configuration.
        text: The effort, such as "20 trials of 600 iterations".
        metric: The number that ranked the trials.
        value: Its value in the best trial.
        own: Its value with the recipe's own values; None if that trial failed.
        num_trials: Number of trials.
        counts: Number of complete, pruned and failed trials.
        seconds: Seconds of training of all trials in the folder.
    """

    file: Path
    text: str
    metric: str
    value: float
    own: float | None
    num_trials: int
    counts: Mapping[str, int]
    seconds: float


def tune(words: Sequence[str]) -> None:
    """Search for the best values of a recipe, and write the best recipe as a complete file.

    Args:
        words: Configuration files, options of this command, and flags of `fit`.

    Raises:
        UserError: The recipe or the search space has a mistake, or no trial has ended.
    """
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return
    own, rest = taken(words, OPTIONS)
    named = list(takewhile(lambda word: not word.startswith("-"), rest))
    if not named:
        raise UserError("tune: expected CONFIG first, got none. See pt-flows tune --help")
    files = [recipe_file(word) for word in named]
    recipe_words = [word for file in files for word in ("--config", file)] + rest[len(files) :]
    for flag, advice in (("--seed_everything", "Use --seeds"), ("--ckpt_path", "Remove it")):
        if any(word.partition("=")[0] == flag for word in rest):
            raise UserError(f"{flag}: expected no such flag in a search, got one. {advice}")
    space = read_space(own.get("space") or Path(files[0]).with_suffix(".space.yaml"))
    recipes = completed({"": recipe_words} | extremes("", recipe_words, space))
    recipe = recipes[""]
    name = experiment_of(*(recipe.config[key]["class_path"] for key in ("data", "model")))
    best = search(
        own.get("out"), name, recipe, space, own.get("trials", 20), own.get("seeds", [1000]),
        slots=slots_of([recipe], own.get("jobs")), metric=own.get("metric"), iterations=own.get("iterations"),
        storage=own.get("storage"),
    )  # fmt: skip
    print(f"best recipe: {best.file}; train it with pt-flows fit --config {best.file} --seeds 0..4")


def extremes(name: str, words: Sequence[str], space: Space) -> dict[str, list[str]]:
    """Return commands that show before a search whether its keys and values can be built; see `completed`.

    Args:
        name: Name of the recipe, for errors; may be empty.
        words: Arguments of `fit`.
        space: The search space.
    """
    prefix = f"{name}: " if name else ""
    return {f"{prefix}{place}": [*words, *more] for place, more in space.extremes().items()}


def search(
    folder: Path | None, name: str, recipe: Recipe, space: Space, trials: int, seeds: Sequence[int],
    *, slots: Sequence[Slot], metric: str | None = None, iterations: int | None = None, storage: str | None = None,
) -> Best:  # fmt: skip
    """Search for the best values of a recipe, or continue a search. A search that has ended returns at once.

    Args:
        folder: Folder of the search; by default one in the recipe's `run.root`.
        name: Name in messages.
        recipe: The recipe, completed.
        space: The values to try.
        trials: Number of trials.
        seeds: Seeds of each trial.
        slots: Places to run.
        metric: The number that ranks trials; by default the one that `compare` chooses.
        iterations: Length of a trial; by default that of the recipe.
        storage: URL of a database; by default a file in the folder.

    Raises:
        UserError: The recipe lies outside the space, a database does not answer, or no trial has ended.
    """
    length = iterations or recipe.config["trainer"]["max_steps"]
    words, config, ranked = trial_of(recipe, length, metric)
    what = identity(config, space, seeds, ranked)
    if folder is None:
        folder = Path(recipe.config["run"]["root"]) / "tune" / f"{name}-{what}"
    base = Wanted(
        name, (*words, "--run.root", str(folder / "runs")), changed(config, {"run.root": str(folder / "runs")})
    )
    with database(storage):
        found = Search(folder, name, base, space, trials, seeds, ranked, storage, what)
        found.run(slots)
        return written(found, recipe)


def trial_of(recipe: Recipe, length: int, metric: str | None) -> tuple[list[str], dict[str, Any], str | None]:
    """Return arguments and configuration of a trial with the recipe's own values, and the number's name in trials.

    A trial measures against other real samples than the final comparison, so that the choice does not fit them.

    Args:
        recipe: The recipe.
        length: Number of iterations.
        metric: The number that ranks trials, by its name in the final comparison.
    """
    evaluation = recipe.config["evaluation"]
    split = OTHER_SPLIT[evaluation["split"]]
    if metric is not None and evaluation["split"] == "test" and in_trials(metric).endswith(SECOND):
        raise UserError(f"evaluation.split: expected none, as {metric} has the test split anyway, got test. Omit it")
    values: dict[str, Any] = {"trainer.max_steps": length, "pictures.every_n_iterations": 0, "evaluation.split": split}
    if metric is None and evaluation["metrics"]:
        values["evaluation.full_metrics"] = None
    words = [*recipe.words, *flags(values), "--run.wandb", "disabled"]
    return words, changed(recipe.config, values), metric and in_trials(metric.removeprefix("eval/"))


def in_trials(metric: str) -> str:
    """Return the name that a number has if it is measured with other real samples.

    Example:
        >>> in_trials("fd_lite0_64_1k_train5k"), in_trials("fd_lite0_64_10k_test"), in_trials("w2_512")
        ('fd_lite0_64_1k_test5k', 'fd_lite0_64_10k_train', 'w2_512')
        >>> in_trials("robust_accuracy_linf_0.2_pgd10_1k_test")
        'robust_accuracy_linf_0.2_pgd10_1k_test_second'
    """
    if re.match(LEARNED, metric) and metric.endswith("_test"):
        return f"{metric}{SECOND}"
    swapped = {"train": "test", "test": "train"}
    return re.sub(r"_(train|test)(?=(\d+k?)?$)", lambda found: f"_{swapped[found[1]]}", metric)


def written(found: Search, recipe: Recipe) -> Best:
    """Print the best trials, write the best recipe, and return it."""
    key, sign = found.trials.study.user_attrs["metric"]
    counts = found.trials.counts()
    num = found.trials.num_ended
    complete = [trial for trial in found.trials.known() if trial.state.name == "COMPLETE"]
    ranking = sorted(complete, key=lambda trial: (trial.value, trial.number))
    number_of = lambda trial: trial.user_attrs["number"]
    values_of = lambda trial: found.space.values(recipe.config, trial.params)
    own = next((sign * trial.value for trial in complete if number_of(trial) == 0), None)
    best, value = ranking[0], sign * ranking[0].value
    text = f"{num} trial{'s' * (num != 1)} of {found.base.iterations} iterations"
    states = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts[state])
    rows = [
        {"trial": str(number_of(trial)), key: f"{sign * trial.value:.4g}"}
        | {k: as_word(v) for k, v in values_of(trial).items()}
        for trial in ranking[:NUM_SHOWN]
    ]
    print(f"\n{text}: {states}. The best by {key}; trial 0 is the recipe itself.\n\n{markdown(rows)}\n", flush=True)
    config = changed(recipe.config, {**values_of(best), "run.tuned": text})
    compared = "the recipe's own values failed" if own is None else f"the recipe's own values: {own:.4g}"
    seeds = ", ".join(map(str, found.seeds))
    head = f"""\
# The best of {text} ({states}) of this search space:
#     {found.space.where}
# {key} {value:.4g} in trial {number_of(best)}; {compared}. Trials had seed {seeds} and measured against other
# real samples than this recipe does. Study {found.trials.study.study_name} in {found.folder}.
# Command of the recipe before: pt-flows fit {shlex.join(recipe.words)}
"""
    file = found.folder / "best.yaml"
    with replacing(file) as partial:
        partial.write_text(head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return Best(file, text, key, value, own, num, counts, found.seconds())
