"""The figure of quality against evaluations per sample."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pt_flows.compare.curves import colour_of, is_wide
from pt_flows.compare.statistics import mean_interval

if TYPE_CHECKING:
    from pt_flows.compare.groups import Criterion, Group

NEAR = 0.03
"""Groups whose costs differ by less than this part of the axis are drawn side by side, so far apart."""


def sampling_figure(groups: "Sequence[Group]", criterion: "Criterion") -> Any:
    """Return the number of every run against the evaluations that drawing one sample takes.

    Every group has one colour, a point for each run, and its mean with Student's interval. Groups of almost equal costs
    stand side by side. A dashed line is the number for real samples. A group of unknown cost is only named.

    Args:
        groups: The groups.
        criterion: The number.

    Returns:
        A figure of matplotlib; None if no two groups are known to differ in the cost of sampling.
    """
    from matplotlib.figure import Figure

    from pt_flows.compare.groups import differ_in_sampling, floor_name, floor_of

    key = criterion.key
    if not differ_in_sampling(groups, key):
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.add_subplot()
    costs = [group.evaluations_per_sample(key) for group in groups]
    places = side_by_side(costs)
    scale(axis, [cost for cost in costs if not math.isnan(cost)], [v for group in groups for v in group.values(key)])
    for i, (group, cost, x) in enumerate(zip(groups, costs, places, strict=True)):
        values, label, colour = group.values(key), label_of(group, key, cost), colour_of(i, len(groups))
        if math.isnan(cost) or not values:
            axis.plot([], [], "o", c=colour, label=label)
            continue
        mean, low, high = mean_interval(values)
        bars = None if math.isnan(low) else [[mean - low], [high - mean]]
        axis.plot([x] * len(values), values, "o", c=colour, ms=5, alpha=0.5, mew=0)
        axis.errorbar([x], [mean], bars, marker="_", ms=11, mew=2, capsize=4, lw=1.2, c=colour, label=label)
    floor = floor_of(groups, key)
    if not math.isnan(floor):
        axis.axhline(floor, c="gray", ls="--", lw=1, label=floor_name(key))
    moved = any(x != cost for x, cost in zip(places, costs, strict=True) if not math.isnan(cost))
    beside = ": see the legend, as almost equal ones stand side by side" if moved else ""
    axis.set_xlabel(f"evaluations per sample, all networks{beside}")
    axis.set_ylabel(str(criterion))
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
    return figure


def label_of(group: "Group", key: str, cost: float) -> str:
    """Return the name of a group with its cost and its failures."""
    failed = len(group.runs) - len(group.values(key))
    told = ["cost unknown" if math.isnan(cost) else f"{rounded(cost)} evaluation{'s' * (cost != 1)}"]
    told += [f"{failed} of {len(group.runs)} failed"] * (failed > 0)
    return f"{group.name} ({', '.join(told)})"


def rounded(cost: float) -> str:
    """A cost with three digits or more.

    Example:
        >>> [rounded(cost) for cost in (1.0, 2.5, 17_012.4)]
        ['1', '2.5', '17,012']
    """
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def scale(axis: Any, costs: Sequence[float], values: Sequence[float]) -> None:
    """Make those axes logarithmic that span more than a decade."""
    axis.set_xscale("log" if is_wide(costs) else "linear")
    axis.set_yscale("log" if is_wide(values) else "linear")
    axis.margins(x=0.12)


def side_by_side(costs: Sequence[float]) -> list[float]:
    """Return positions for groups by their costs, which separate groups of almost equal costs; NaN for unknown costs.

    Example:
        >>> [round(x, 1) for x in side_by_side([1.0, 8.0, 8.0, float("nan")])]
        [1.0, 7.9, 8.1, nan]
    """
    known = sorted((i for i, cost in enumerate(costs) if not math.isnan(cost)), key=lambda i: costs[i])
    is_log = is_wide([costs[i] for i in known])
    on_axis = {i: math.log(costs[i]) if is_log else costs[i] for i in known}
    step = NEAR * (on_axis[known[-1]] - on_axis[known[0]])
    heaps: list[list[int]] = []
    for i in known:
        if heaps and on_axis[i] - on_axis[heaps[-1][-1]] < step:
            heaps[-1].append(i)
        else:
            heaps.append([i])
    places = [math.nan] * len(costs)
    for heap in heaps:
        if len(heap) == 1:
            places[heap[0]] = costs[heap[0]]
            continue
        middle = fmean(on_axis[i] for i in heap)
        for rank, i in enumerate(heap):
            x = middle + step * (rank - (len(heap) - 1) / 2)
            places[i] = math.exp(x) if is_log else x
    return places
