"""Curves of runs against their costs."""

import math
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pt_flows.compare.groups import Criterion, Group

COSTS: dict[str, Callable[[dict[str, float]], float]] = {
    "iterations": lambda costs: costs.get("iteration", math.nan),
    "data seen": lambda costs: costs.get("cost/images_seen", math.nan),
    "minutes of training": lambda costs: costs.get("cost/seconds", math.nan) / 60,
    "samples evaluated by networks": lambda costs: sum(v for k, v in costs.items() if "evaluations_" in k) or math.nan,
}


def curves_figure(groups: "Sequence[Group]", criterion: "Criterion") -> Any:
    """Curves of every run against four costs, a colour for each group, and the best number at each cost.

    A run that failed ends with a cross, and is not among the best. A dashed line is the floor. Groups without a
    curve are omitted.
    """
    from matplotlib.figure import Figure

    from pt_flows.compare.groups import floor_name, floor_of

    key = criterion.key
    curves = [(group.name, [(run.curve(key), run.failed(key)) for run in group.runs]) for group in groups]
    shown = [(name, found) for name, runs in curves if (found := [one for one in runs if one[0]])]
    values = [value for _, found in shown for curve, _ in found for _, value in curve]
    floor = floor_of(groups, key)
    columns = max(1, min(3, 150 // max((len(name) for name, _ in shown), default=1)))
    figure = Figure(figsize=(10, 6.6 + 0.2 * math.ceil((len(shown) + 2) / columns)), layout="constrained")
    for axis, (label, of) in zip(figure.subplots(2, 2, sharey=True).flat, COSTS.items(), strict=True):
        points: list[tuple[float, float]] = []
        for i, (name, found) in enumerate(shown):
            colour = colour_of(i, len(shown))
            for curve, failed in found:
                at_cost = [(of(costs), value) for costs, value in curve]
                mark = "o" if len(curve) == 1 else None  # a line needs two points
                axis.plot(*zip(*at_cost, strict=True), c=colour, lw=1.2, alpha=0.8, marker=mark, ms=4)
                if failed:
                    axis.plot(*at_cost[-1], "x", c=colour, ms=7, mew=2)
                points += [] if failed else at_cost
            axis.plot([], [], c=colour, lw=2, label=fill(name, 140))
        front = pareto_front(points, criterion.higher)
        axis.plot([c for c, _ in front], [v for _, v in front], "k:", lw=1, drawstyle="steps-post", label="best so far")
        if floor > 0 or not (math.isnan(floor) or is_wide(values)):
            axis.axhline(floor, c="gray", ls="--", lw=1, label=floor_name(key))
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
    figure.supylabel(str(criterion), fontsize=10)
    figure.axes[0].set_yscale("log" if is_wide(values) else "linear")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
    return figure


def colour_of(i: int, num: int) -> Any:
    """The colour of the i-th of some groups; all differ up to twenty."""
    if num <= 10:
        return f"C{i}"
    from matplotlib import colormaps

    return colormaps["tab20"](i % 20)


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive numbers span more than a decade."""
    return min(values, default=0.0) > 0 and max(values) > 10 * min(values)


def pareto_front(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """The pairs (cost, number) that are better than all cheaper or equally cheap ones, by rising cost.

    Example:
        >>> pareto_front([(1, 5.0), (2, 6.0), (2, 3.0), (3, 4.0)], higher=False)
        [(1, 5.0), (2, 3.0)]
    """
    sign, front = -1 if higher else 1, []
    for c, v in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if c == c and (not front or sign * v < sign * front[-1][1]):
            front.append((c, v))
    return front
