"""Whether two methods differ, from a few runs of each: the arithmetic behind a comparison's verdicts."""

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import Any, NamedTuple

from scipy import stats


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval (not numbers for a single value)."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of runs with different training seeds.

    Args:
        values: One number for each run.
        confidence: Of the interval.
    """
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * math.sqrt(variance(values) / n)
    return Interval(mean, mean - half, mean + half)


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of equal means, variances unknown and unequal (Welch 1947).

    Args:
        a: One number for each run, at least two.
        b: The same for the other side.
    """
    if variance(a) == variance(b) == 0:
        return 1.0 if fmean(a) == fmean(b) else 0.0
    result: Any = stats.ttest_ind(a, b, equal_var=False)
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any wrong verdict among all pairs stays below the level (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def seeds_needed(
    a: Sequence[float], b: Sequence[float], level: float, power: float = 0.8, most: int = 1000
) -> int | None:
    """Runs of each side with which a difference as large as the one at hand would be seen, given the variances at hand.

    Args:
        a: One number for each run, at least two.
        b: The same for the other side.
        level: Of the test.
        power: Chance to see the difference.
        most: Where to give up.

    Returns:
        The number, None if it is above `most`.
    """
    difference, spread = abs(fmean(a) - fmean(b)), variance(a) + variance(b)
    for n in range(max(len(a), len(b)) + 1, most + 1):
        freedom = 2 * (n - 1)
        critical = float(stats.t.ppf(1 - level / 2, freedom))
        if float(stats.nct.sf(critical, freedom, difference / math.sqrt(spread / n))) >= power:
            return n
    return None


class Variances(NamedTuple):
    """Standard deviations of a number: between training seeds, and between sampling seeds of one run."""

    training: float
    sampling: float


def components(values: Sequence[Sequence[float]]) -> Variances:
    """Split the variance of nested seeds (one-way random effects, by the method of moments).

    Args:
        values: For each run its numbers for several sampling seeds; not a number where they do not suffice.
    """
    repeated = [run for run in values if len(run) > 1]
    within = fmean([variance(run) for run in repeated]) if repeated else math.nan
    if len(values) < 2:
        return Variances(math.nan, math.sqrt(within))
    between = variance([fmean(run) for run in values])
    share = within * fmean([1 / len(run) for run in values]) if repeated else 0.0
    return Variances(math.sqrt(max(between - share, 0.0)), math.sqrt(within))
