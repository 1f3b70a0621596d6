"""The command `fit --seeds`: one recipe with several seeds."""

from collections.abc import Sequence

from pt_flows.errors import UserError
from pt_flows.runs.settings import defining_settings, digest
from pt_flows.studies.options import at_least_one, seeds_in, taken
from pt_flows.studies.pool import slots_of
from pt_flows.studies.recipes import Recipe, completed
from pt_flows.studies.train import train_all
from pt_flows.studies.wanted import Wanted


def fit_seeds(words: Sequence[str]) -> None:
    """Train a recipe with several seeds side by side, and print their table. Finished seeds are not repeated.

    Args:
        words: Arguments of `fit`, with `--seeds`, and with `--jobs` for the number of runs side by side.

    Raises:
        UserError: The recipe cannot be built, or a run could not end.
        SystemExit: A seed diverged; the exit code is 1.
    """
    own, rest = taken(words, {"seeds": seeds_in, "jobs": at_least_one})
    for flag in ("--seed_everything", "--ckpt_path"):
        if any(word.partition("=")[0] == flag for word in rest):
            raise UserError(f"{flag}: expected --seeds alone, got both. Remove {flag}; interrupted seeds continue")
    seeds: list[int] = own["seeds"]
    recipe = completed({"": [*rest, "--seed_everything", str(seeds[0])]})[""]
    runs = wanted_seeds(recipe, rest, seeds)
    folder = runs[0].place / f"seeds-{digest(defining_settings(runs[0].config))}"
    states = train_all(runs, folder, slots_of([recipe], own.get("jobs")), f"{len(runs)} seeds")
    if any(recipe.config["evaluation"][key] for key in ("metrics", "full_metrics")):
        from pt_flows.compare.command import compare

        print()
        compare([str(state.folder) for state in states])
    print(f"run folders: {runs[0].place}; output of the runs: {folder / 'logs'}")
    if any(state.state == "failed" for state in states):
        raise SystemExit(1)


def wanted_seeds(recipe: Recipe, words: Sequence[str], seeds: Sequence[int]) -> list[Wanted]:
    """Return a run for each seed, all in one group.

    Args:
        recipe: The recipe with the first seed.
        words: Its arguments without a seed.
        seeds: The seeds.
    """
    first = Wanted("", tuple(words), recipe.config)
    if not recipe.config["run"]["group"]:
        group = f"{first.place.name}-{digest(defining_settings(first.config))}"
        first = Wanted("", (*words, "--run.group", group), recipe.config)
    return [first.seeded(seed, f"seed {seed}") for seed in seeds]
