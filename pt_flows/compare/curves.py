"""Curves of runs against their costs."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pt_flows.compare.groups import Criterion, Group

COSTS: dict[str, Callable[[dict[str, float]], float]] = {
    "iterations": lambda costs: costs.get("iteration", math.nan),
    "images seen": lambda costs: costs.get("cost/images_seen", math.nan),
    "minutes of training": lambda costs: costs.get("cost/seconds", math.nan) / 60,
    "samples evaluated by networks": lambda costs: sum(v for k, v in costs.items() if "evaluations_" in k) or math.nan,
}


def curves_figure(groups: "Sequence[Group]", criterion: "Criterion") -> Any:
    """Curves of every run against four costs, a colour for each group, and the best number at each cost."""
    from matplotlib.figure import Figure

    key = criterion.key
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for axis, (label, of) in zip(figure.subplots(2, 2, sharey=True).flat, COSTS.items(), strict=True):
        points: list[tuple[float, float]] = []
        for i, group in enumerate(groups):
            for j, run in enumerate(group.runs):
                curve = [(of(costs), value) for costs, value in run.curve(key)]
                name = group.name if j == 0 else None
                xy = zip(*curve, strict=True) if curve else ([], [])
                mark = "o" if len(curve) == 1 else None  # a line needs two points
                axis.plot(*xy, c=f"C{i}", lw=1.2, alpha=0.8, marker=mark, ms=4, label=name)
                points += curve
        front = pareto_front(points, criterion.higher)
        axis.plot([c for c, _ in front], [v for _, v in front], "k:", lw=1, drawstyle="steps-post", label="best so far")
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3)
    for axis in figure.axes[::2]:
        axis.set_ylabel(key)
    if all(v > 0 for group in groups for run in group.runs for _, v in run.curve(key)):
        figure.axes[0].set_yscale("log")
    figure.axes[-1].legend(frameon=False, fontsize=8)
    return figure


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
