"""The area under curves at equal cost: how good a number was on average while a common budget was spent."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pt_flows.compare.curves import COSTS
from pt_flows.compare.runs import Note, Run, say_note
from pt_flows.errors import UserError

AREA = "area of "
OVER = {"evaluations": "samples evaluated by networks", "seconds": "minutes of training", "iterations": "iterations"}
"""Costs by which areas can be taken, and their names in figures."""


class Area(NamedTuple):
    """The area under a curve as a number to compare.

    Attributes:
        key: The measured number.
        over: The cost.
    """

    key: str
    over: str


def area_named(wanted: str) -> Area | None:
    """The area that a name means; None for a plain number.

    Raises:
        UserError: The cost is unknown.

    Example:
        >>> area_named("area of w2_512"), area_named("area of w2_512 over seconds"), area_named("w2_512")
        (Area(key='w2_512', over='evaluations'), Area(key='w2_512', over='seconds'), None)
    """
    if not wanted.startswith(AREA):
        return None
    key, _, over = wanted.removeprefix(AREA).partition(" over ")
    if (over or "evaluations") not in OVER:
        raise UserError(f"--metric: expected an area over {', '.join(OVER)}, got {over}. Choose one of them")
    return Area(key.removeprefix("eval/"), over or "evaluations")


def key_of(wanted: str) -> str:
    """The key of the measured number that a name is about, an area or a plain number.

    Example:
        >>> key_of("area of w2_512 over seconds"), key_of("eval/w2_512")
        ('w2_512', 'w2_512')
    """
    area = area_named(wanted)
    return area.key if area else wanted.removeprefix("eval/")


def areas(runs: Sequence[Run], key: str, over: str = "evaluations") -> list[float]:
    """The mean of each curve between the greatest first and the least last cost of all curves.

    Between two evaluations a curve is a straight line.

    Args:
        runs: The runs. Failed ones do not shorten the range.
        key: The measured number.
        over: The cost.

    Returns:
        A number for each run; NaN for a failed run, for one without a curve, and for all if their costs do not overlap
        or are not in all logs.
    """
    curves = {i: curve for i, run in enumerate(runs) if not run.failed(key) and len(curve := run.curve(key)) > 1}
    cost = COSTS[OVER[over]]
    if any(math.isnan(cost(costs)) for curve in curves.values() for costs, _ in curve):
        return [math.nan] * len(runs)
    points = {i: ([cost(costs) for costs, _ in curve], [value for _, value in curve]) for i, curve in curves.items()}
    low = max((costs[0] for costs, _ in points.values()), default=math.nan)
    high = min((costs[-1] for costs, _ in points.values()), default=math.nan)
    return [mean_between(*points[i], low, high) if i in points else math.nan for i in range(len(runs))]


def mean_between(costs: Sequence[float], values: Sequence[float], low: float, high: float) -> float:
    """The mean of a piecewise linear curve over a range; NaN if the range is empty.

    Args:
        costs: Rising positions of the points.
        values: Their values.
        low: Begin of the range.
        high: End of the range.

    Example:
        >>> mean_between([0.0, 2.0, 4.0], [4.0, 2.0, 2.0], 1.0, 3.0)
        2.25
    """
    if not low < high:
        return math.nan
    inside = [c for c in costs if low < c < high]
    ticks = np.array([low, *inside, high])
    return float(np.trapezoid(np.interp(ticks, costs, values), ticks) / (high - low))


def counted(runs: Sequence[Run], key: str) -> str:
    """The cost for areas: evaluations, or iterations if a log has not counted evaluations."""
    cost = COSTS[OVER["evaluations"]]
    is_known = all(not math.isnan(cost(costs)) for run in runs for costs, _ in run.curve(key))
    return "evaluations" if is_known else "iterations"


def with_areas(runs: Sequence[Run], area: Area, note: Note = say_note) -> list[Run]:
    """The runs with the areas under their curves as their only number, without those that have no curve.

    Args:
        runs: Runs with their subjects.
        area: The area.
        note: Takes a sentence about every run that is omitted.

    Raises:
        UserError: No run has a curve.
    """
    name = f"{AREA}{area.key} over {area.over}"
    found = areas(runs, area.key, area.over)
    views = [
        replace(
            run,
            records=[],
            protocol=None,
            rows=[*run.rows, {"iteration": run.iteration, f"{run.section}/{name}": value}],
        )
        for run, value in zip(runs, found, strict=True)
        if math.isfinite(value) or run.failed(area.key)
    ]
    for run, value in zip(runs, found, strict=True):
        if not (math.isfinite(value) or run.failed(area.key)):
            note(f"{run.folder} has no curve of {area.key} in the common range of {area.over}: omitted")
    if all(run.failed(area.key) for run in views):
        raise UserError(
            f"--metric: expected curves of {area.key} that overlap in {area.over}, got none. Compare {area.key}"
        )
    return views
