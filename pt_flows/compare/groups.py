"""Runs that belong together: seeds of one configuration, and the number by which groups are compared."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pt_flows.compare.runs import Note, Run, find_runs, say_note
from pt_flows.errors import UserError

HIGHER_IS_BETTER = (
    "modes",
    "high_quality",
    "is_",
    "precision",
    "recall",
    "density",
    "coverage",
    "transfer_accuracy",
    "log_likelihood",
)
OWN = ("seed_everything", "run", "ckpt_path")
"""Keys of a configuration in which runs of one group may differ."""


def higher_is_better(key: str) -> bool:
    """Direction of a number."""
    return key.startswith(HIGHER_IS_BETTER)


@dataclass
class Group:
    """Runs of one configuration that differ by their seed.

    Attributes:
        name: Method, with the arguments in which it differs from groups of the same method.
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

    def costs(self, key: str) -> list[float]:
        """The last number of every run, turned so that lower is better; infinite for a failed one."""
        sign = -1 if higher_is_better(key) else 1
        return [sign * value for value in self.values(key)] + [math.inf] * (len(self.runs) - len(self.finished(key)))


def comparable(paths: Sequence[str], wanted: str | None, note: Note = say_note) -> tuple[list[Group], str]:
    """Groups of independent runs and the number to compare them by.

    Args:
        paths: As for `find_runs`.
        wanted: The number; default one that all runs have.
        note: Takes a sentence about every run that is skipped.

    Raises:
        UserError: No run, no number in common, or two protocols.
    """
    runs = independent(find_runs(paths, note), note)
    key = chosen_metric(runs, wanted)
    without = [run for run in runs if key not in run.keys and run.failure is None]
    for run in without:
        note(f"{run.folder} has no {key}: skipped")
    runs = [run for run in runs if run not in without]
    check_protocols(runs, key)
    for run in runs:
        last, planned = run.iteration, (run.config.get("trainer") or {}).get("max_steps", 0)
        if not run.failed(key) and isinstance(planned, int) and last < planned:
            note(f"{run.folder} has logged {last:,} of {planned:,} iterations: its last number is from there")
    return grouped(runs), key


def shared(run: Run) -> str:
    """The part of a configuration that runs of one group have in common, as text."""
    return json.dumps({k: v for k, v in run.config.items() if k not in OWN}, sort_keys=True, default=str)


def independent(runs: Sequence[Run], note: Note = say_note) -> list[Run]:
    """One run for each seed of a configuration: copies and repetitions are no independent seeds.

    Of several the one is kept that failed, so that no seed is tried until it works, else the one that went furthest.

    Args:
        runs: Any.
        note: Takes a sentence about every run that is left out.
    """
    known: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: (run.failure is None, -run.iteration)):
        names = identities(run)
        if same := next((known[name] for name in names if name in known), None):
            note(f"{run.folder} is the same run as {same.folder}, or repeats its seed {run.seed}: left out")
        else:
            known |= dict.fromkeys(names, run)
    return [run for run in runs if known.get(identities(run)[0]) is run]


def identities(run: Run) -> list[tuple[str, str]]:
    """Names of which two independent runs share none: configuration and seed, and the id where the folder has one."""
    seeded = run.seed is not None and not isinstance(run.seed, bool)
    names = [(shared(run), str(run.seed if seeded else run.rows))]  # without a seed only a copy is the same run
    return names + ([(run.id, str(run.seed))] if re.fullmatch("[0-9a-f]{8}", run.id) else [])


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs with equal configurations together."""
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        by_config.setdefault(shared(run), []).append(run)
    groups = list(by_config.values())
    flat = [flattened({key: runs[0].config.get(key) for key in ("model", "data", "trainer")}) for runs in groups]
    methods = [str(runs[0].config["model"]["class_path"]).rsplit(".", 1)[-1] for runs in groups]
    named = []
    for runs, own, method in zip(groups, flat, methods, strict=True):
        same = [other for other, name in zip(flat, methods, strict=True) if name == method]
        differing = sorted(key for key in own if len({repr(other.get(key)) for other in same}) > 1)
        details = ", ".join(f"{key.rsplit('.', 1)[-1]}={own[key]}" for key in differing[:4])
        named.append(Group(f"{method} ({details})" if details else method, runs))
    return named


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
        UserError: No run has it, or no number is common to all that have not failed.
    """
    measuring = [run for run in runs if run.keys and run.failure is None] or [run for run in runs if run.keys]
    common = set.intersection(*(run.keys for run in measuring)) if measuring else set()
    if wanted is not None:
        wanted = wanted.removeprefix("eval/")
        if not any(wanted in run.keys for run in runs):
            raise UserError(f"{runs[0].folder} has no {wanted}; all runs have {', '.join(sorted(common)) or 'nothing'}")
        return wanted
    if not common:
        lines = "; ".join(f"{run.folder.name}: {', '.join(sorted(run.keys)) or 'nothing'}" for run in runs[:4])
        raise UserError(
            f"the runs have no number in common, as their protocols differ ({lines}); measure them alike with "
            "pt-flows evaluate"
        )
    leading = [key for key in common if key.startswith(("fd_", "w2_"))]
    return sorted(leading or common)[0]


def check_protocols(runs: Sequence[Run], key: str) -> None:
    """Refuse to put two protocols into one column.

    Raises:
        UserError: Names the fields that differ.
    """
    protocols = [(run, passport.protocol(key)) for run in runs for passport, numbers in run.records if key in numbers]
    for run, protocol in protocols[1:]:
        first_run, first = protocols[0]
        if differing := [name for name in first if first[name] != protocol[name]]:
            pairs = "; ".join(f"{name}: {first[name]} and {protocol[name]}" for name in differing)
            raise UserError(
                f"{key} of {first_run.folder} and of {run.folder} do not compare, their protocols differ ({pairs})"
            )
