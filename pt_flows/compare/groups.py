"""Runs that belong together: seeds of one configuration, and the number by which groups are compared."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pt_flows.compare.areas import AREA, area_named, with_areas
from pt_flows.compare.runs import Note, Run, find_runs, say_note
from pt_flows.compare.subjects import by_subject, shared
from pt_flows.errors import UserError
from pt_flows.evaluation.passport import OWN_SAMPLERS, own_direction
from pt_flows.runs.settings import as_text


@dataclass(frozen=True)
class Criterion:
    """The number that runs are compared by.

    Attributes:
        key: Its name.
        higher: Whether higher is better.
    """

    key: str
    higher: bool

    @property
    def sign(self) -> int:
        """Factor after which lower is better."""
        return -1 if self.higher else 1

    def __str__(self) -> str:
        return f"{self.key} ({'higher' if self.higher else 'lower'} is better)"


@dataclass
class Group:
    """One subject of the runs of one configuration, which differ by their seed.

    Attributes:
        name: Method, with the arguments, weights and sampler in which it differs from other groups.
        runs: Its runs.
    """

    name: str
    runs: list[Run]

    def finished(self, key: str) -> list[Run]:
        """The runs that have not failed."""
        return [run for run in self.runs if not run.failed(key)]

    def values(self, key: str) -> list[float]:
        """The last number of every run that has not failed, mean over sampling seeds."""
        return [fmean(run.last(key)) for run in self.finished(key)]

    def evaluations_per_sample(self, key: str) -> float:
        """Evaluations by all networks that drawing one sample takes, mean over runs; NaN if no record tells them."""
        known = [num for run in self.runs if not math.isnan(num := run.evaluations_per_sample(key))]
        return fmean(known) if known else math.nan

    def sampling_interval(self, key: str) -> tuple[float, float]:
        """The mean of the runs' intervals for the chance in samples; NaN unless all of them have one.

        The noise of samples is the same in all runs, so their errors do not average out.
        """
        ends = [[run.last(f"{key}_{end}") for run in self.finished(key)] for end in ("low", "high")]
        low, high = (fmean(map(fmean, found)) if found and all(found) else math.nan for found in ends)
        return low, high

    def costs(self, criterion: Criterion) -> list[float]:
        """The last number of every run, with its sign such that lower is better; infinite for a failed run."""
        values = [criterion.sign * value for value in self.values(criterion.key)]
        return values + [math.inf] * (len(self.runs) - len(values))


def differ_in_sampling(groups: Sequence[Group], key: str) -> bool:
    """Whether two groups are known to need different numbers of evaluations to draw one sample.

    Args:
        groups: The groups.
        key: The number that is compared.
    """
    known = [num for group in groups if not math.isnan(num := group.evaluations_per_sample(key))]
    return bool(known) and not math.isclose(min(known), max(known), rel_tol=1e-3)


def floor_of(groups: Sequence[Group], key: str) -> float:
    """The number that `floor_name` names, mean over all runs; NaN if nobody measured it."""
    found = [value for group in groups for run in group.runs for value in run.last(f"{key}_floor")]
    return fmean(found) if found else math.nan


def floor_name(key: str) -> str:
    """The subject of the floor of a number: real samples, or the best constant for predictions.

    Example:
        >>> floor_name("w2_512"), floor_name("robust_risk_l2_0.5_fast_all_test")
        ('real samples in place of generated ones', 'the best constant prediction')
    """
    predicted = re.match(r"(robust_)?(accuracy|risk)_", key)
    return "the best constant prediction" if predicted else "real samples in place of generated ones"


def comparable(
    paths: Sequence[str], wanted: str | None, note: Note = say_note, names: Callable[[Run], str] | None = None
) -> tuple[list[Group], Criterion]:
    """Groups of runs and the number to compare them by.

    Args:
        paths: As for `find_runs`.
        wanted: The number, or the area under its curve as in `area_named`; by default a number that all runs have.
        note: Takes a sentence about every run that is skipped, and about limits of the verdicts.
        names: Returns the name of the group of a run with its subject; by default methods and what sets them apart.

    Raises:
        UserError: There is no run, no common number, no common protocol, or a number has two directions.
    """
    runs = independent(find_runs(paths, note), note)
    area = area_named(wanted or "")
    key = chosen_metric(runs, area.key if area else wanted)
    without = [run for run in runs if key not in run.keys and run.failure is None]
    for run in without:
        note(f"{run.folder} has no {key}: skipped")
    runs = [run for run in runs if run not in without]
    criterion = Criterion(key, higher_is_better(runs, key, note))
    for run in runs:
        last, planned = run.iteration, (run.config.get("trainer") or {}).get("max_steps", 0)
        if not run.failed(key) and isinstance(planned, int) and last < planned:
            note(f"{run.folder} has {last:,} of {planned:,} iterations: its last number is from there")
    for related in families(runs):
        if len(related) > 1:
            folders = ", ".join(str(run.folder) for run in related)
            note(f"{folders} share a part of their training, as forks do: they are not independent")
    views = by_subject(runs, key, note)
    for view in views:
        for passport, _ in view.latest(key)[:1]:
            if passport.iteration < view.iteration and not view.failed(key):
                at = f"iteration {passport.iteration:,} of {view.iteration:,}"
                note(f"{view.folder}: {key} of its {passport.weights} weights is from {at}")
    if area is not None:
        views = with_areas(views, area, note)
        criterion = Criterion(f"{AREA}{area.key} over {area.over}", criterion.higher)
    return grouped(views, names), criterion


def higher_is_better(runs: Sequence[Run], key: str, note: Note = say_note) -> bool:
    """Whether higher values of a number are better, by the passports, or else by its name if it is this package's own.

    Args:
        runs: The runs with their passports.
        key: The number.
        note: Takes a sentence if neither tells.

    Raises:
        UserError: Passports contradict each other.
    """
    told = {direction for run in runs for direction in run.directions(key)}
    if len(told) > 1:
        raise UserError(f"{key}: expected one direction, got passports that disagree. Compare runs of one metric")
    direction = told.pop() if told else own_direction(key)
    if direction is None:
        note(f"no passport tells whether higher or lower {key} is better: lower is taken as better")
    return direction == "higher"


def families(runs: Sequence[Run]) -> list[list[Run]]:
    """Lists of runs that were forked from each other or from one run; every other run is alone in its list."""
    found: list[tuple[set[str], list[Run]]] = []
    for run in runs:
        names, members = run.origins, [run]
        for family in [family for family in found if family[0] & names]:
            found.remove(family)
            names, members = family[0] | names, family[1] + members
        found.append((names, members))
    return [members for _, members in found]


def independent(runs: Sequence[Run], note: Note = say_note) -> list[Run]:
    """One run for each seed of a configuration: copies and repetitions are no independent seeds.

    A failed run is kept first, so that no seed is tried until it works, and otherwise the run with most iterations.

    Args:
        runs: Any runs.
        note: Takes a sentence about every run that is omitted.
    """
    known: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: (run.failure is None, -run.iteration)):
        names = identities(run)
        if same := next((known[name] for name in names if name in known), None):
            note(f"{run.folder} is the same run as {same.folder}, or repeats its seed {run.seed}: omitted")
        else:
            known |= dict.fromkeys(names, run)
    return [run for run in runs if known.get(identities(run)[0]) is run]


def identities(run: Run) -> list[tuple[str, str]]:
    """Names that independent runs do not share: configuration and seed, and the id if the folder has one."""
    seeded = run.seed is not None and not isinstance(run.seed, bool)
    own = str(run.seed if seeded else run.rows)  # without a seed only a copy is the same run
    names = [(as_text(shared(run)), own)]
    return names + ([(run.id, str(run.seed))] if re.fullmatch("[0-9a-f]{8}", run.id) else [])


def grouped(runs: Sequence[Run], names: Callable[[Run], str] | None = None) -> list[Group]:
    """Groups of runs with equal configurations, weights and samplers.

    Args:
        runs: Runs with their subjects.
        names: Returns the name of a group from any of its runs.
    """
    together: dict[tuple[str, Any], list[Run]] = {}
    for run in runs:
        together.setdefault((as_text(shared(run)), run.subject), []).append(run)
    firsts = [members[0] for members in together.values()]
    found = [names(run) for run in firsts] if names is not None else unlike_names(firsts)
    return [Group(name, members) for name, members in zip(found, together.values(), strict=True)]


def unlike_names(runs: Sequence[Run]) -> list[str]:
    """Names of runs: methods, and arguments that tell each apart, four unless more are needed."""
    found: list[str] = []
    for limit in range(4, 12):
        found.clear()
        for run in runs:
            details = distinctions(run, runs, limit)
            found.append(f"{run.method} ({', '.join(details)})" if details else run.method)
        if len(set(found)) == len(found):
            break
    return found


def distinctions(run: Run, others: Sequence[Run], limit: int) -> list[str]:
    """At most so many arguments, the weights and the sampler in which a run differs from others of its method.

    Weights are named if any run has other ones. A sampler is also named if it is no method's default. Arguments of a
    class are compared between runs that have this class there.
    """
    alike = [other for other in others if other.method == run.method]
    told = []
    if run.subject is not None:
        if len({other.subject and other.subject.weights for other in others}) > 1:
            told.append(f"{run.subject.weights} weights")
        samplers = {other.subject and other.subject.sampler for other in alike}
        if run.subject.sampler and (len(samplers) > 1 or run.subject.sampler not in OWN_SAMPLERS):
            told.append(run.subject.sampler)
    flat = [flattened(shared(other)) for other in alike]
    own = {key: value for key, value in flattened(shared(run)).items() if not key.endswith(".init_args")}
    classes = [key for key in own if key.endswith(".class_path") and key != "model.class_path"]

    def differs(key: str) -> bool:
        above = [c for c in classes if c != key and key.startswith(c.removesuffix("class_path"))]
        return len({repr(other.get(key)) for other in flat if all(other.get(c) == own[c] for c in above)}) > 1

    differing = sorted(filter(differs, own), key=lambda key: (not key.startswith(("data.", "model.", "trainer.")), key))

    def shown(key: str) -> Any:
        paths = {str(other[key]) for other in flat if key in other}
        last = {path.rpartition(".")[2] for path in paths}
        return str(own[key]).rpartition(".")[2] if key in classes and len(last) == len(paths) else own[key]

    return [*(f"{short_name(key, own)}={shown(key)}" for key in differing[:limit]), *told]


def short_name(key: str, keys: Iterable[str]) -> str:
    """The shortest end of a dotted name that no other name has, without `init_args` and `class_path`.

    Example:
        >>> keys = ["model.init_args.generator.lr", "model.init_args.critic.lr", "model.init_args.step_size"]
        >>> [short_name(key, keys) for key in keys]
        ['generator.lr', 'critic.lr', 'step_size']
    """
    parts = {name: [part for part in name.split(".") if part not in ("init_args", "class_path")] for name in keys}
    own = parts[key]
    ends = (own[-n:] for n in range(1, len(own) + 1))
    return ".".join(next((end for end in ends if sum(p[-len(end) :] == end for p in parts.values()) == 1), own))


def flattened(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for key, value in tree.items() for k, v in flattened(value, f"{prefix}.{key}" if prefix else key).items()
    }


def chosen_metric(runs: Sequence[Run], wanted: str | None) -> str:
    """The number to compare.

    Raises:
        UserError: No run has it, or the runs that have not failed have no number in common.
    """
    measuring = [run for run in runs if run.keys and run.failure is None] or [run for run in runs if run.keys]
    common = set.intersection(*(run.keys for run in measuring)) if measuring else set()
    if wanted is not None:
        wanted = wanted.removeprefix("eval/")
        if not any(wanted in run.keys for run in runs):
            known = ", ".join(sorted(common)) or "no number in common"
            got = f"{wanted}, which is neither better high nor low" * any(wanted in run.measured for run in runs)
            raise UserError(f"--metric: expected a number that runs have ({known}), got {got or wanted}")
        return wanted
    if not common:
        lines = "; ".join(f"{run.folder.name}: {', '.join(sorted(run.keys)) or 'nothing'}" for run in runs[:4])
        raise UserError(f"runs: expected a number in common, got none ({lines}). Measure them with pt-flows evaluate")
    leading = [key for key in common if key.startswith(("fd_", "w2_"))]
    return sorted(leading or common)[0]
