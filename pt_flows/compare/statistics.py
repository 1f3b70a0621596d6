"""The arithmetic behind verdicts: tests of whether two methods differ, from a few runs of each."""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, variance
from typing import Any, NamedTuple

import numpy as np
from scipy import special

MOST_SPLITS = 50_000
"""Number of permutations in a test: all of them up to 9 against 9, else a fixed random choice."""
RANKS = 3 / math.pi
"""Efficiency of a test by ranks for normal numbers, relative to a test by means."""


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, which are NaN for a single value."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of runs with different training seeds.

    Args:
        values: One number for each run.
        confidence: Confidence of the interval.
    """
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance(values) / n)
    return Interval(mean, mean - half, mean + half)


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of equal means, variances unknown and unequal (Welch 1947).

    Args:
        a: One number for each run, at least two.
        b: The same for the other side.
    """
    if variance(a) == variance(b) == 0:
        return 1.0 if fmean(a) == fmean(b) else 0.0
    first, second = variance(a) / len(a), variance(b) / len(b)
    share = first / (first + second)
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    return 2 * float(special.stdtr(freedom, -abs(fmean(a) - fmean(b)) / math.sqrt(first + second)))


def improvement(a: Sequence[float], b: Sequence[float]) -> float:
    """Probability of improvement: the fraction of pairs in which a run of `a` is below one of `b`, ties counted half.

    Args:
        a: One number for each run, lower is better; infinite for a failed run.
        b: The same for the other side.

    Example:
        >>> improvement([1.0, 2.0], [2.0, math.inf])
        0.875
    """
    return float(np.mean([1.0 if x < y else 0.5 if x == y else 0.0 for x in a for y in b]))


def brunner_munzel(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of a probability of improvement of one half (Neubert and Brunner 2007).

    The permutation distribution of Brunner and Munzel's rank statistic is exact if both sides have one distribution,
    and close to it if they differ in spread or shape. Few runs have few orders, so the means distinguish splits with
    equal statistics. With failed runs, which are infinite, only the order counts.

    Args:
        a: One number for each run, at least two.
        b: The same for the other side.
    """
    values, is_first = np.array([*a, *b]), np.repeat([True, False], [len(a), len(b)])
    order = values.argsort()
    values, is_first = values[order], is_first[order]
    ranks = (np.searchsorted(values, values, "left") + np.searchsorted(values, values, "right") + 1) / 2
    splits, null = permutations(tuple(ranks), len(a))
    (observed,) = np.abs(rank_statistics(ranks, is_first[None]))
    equal = np.isclose(null, observed, rtol=1e-9, atol=1e-12)
    reached = (null > observed) | equal
    if np.isfinite(values).all():
        centred = values - values.mean()
        distance = np.abs(splits[equal] @ centred)  # proportional to the difference of means
        reached[equal] = distance >= abs(is_first @ centred) * (1 - 1e-9)
    return float(reached.mean())


@lru_cache(maxsize=64)
def permutations(ranks: tuple[float, ...], n: int) -> tuple[Any, Any]:
    """Splits of sorted runs and their absolute rank statistics, which depend on the sizes and on ties alone.

    Args:
        ranks: Rising ranks of all runs.
        n: Number of runs of the first side.
    """
    total = len(ranks)
    if math.comb(total, n) <= MOST_SPLITS:
        chosen = np.array(list(itertools.combinations(range(total), n)))
    else:  # the two splits without overlap are always among them, so that no p-value is zero
        chosen = np.random.default_rng(0).random((MOST_SPLITS, total)).argsort(1)[:, :n]
        chosen[0], chosen[1] = np.arange(n), np.arange(total - n, total)
    splits = np.zeros((len(chosen), total), bool)
    np.put_along_axis(splits, chosen, True, 1)
    return splits, np.abs(rank_statistics(np.array(ranks), splits))


def rank_statistics(ranks: Any, splits: Any) -> Any:
    """Brunner and Munzel's statistic, without its constant factor, of every split.

    Args:
        ranks: Ranks of all runs (N,), ties averaged.
        splits: Boolean (num, N), true for runs of the first side.

    Returns:
        Statistics (num,); infinite for sides that do not overlap.
    """
    n, m = splits[0].sum(), (~splits[0]).sum()
    below = (ranks[:, None] > ranks) + 0.5 * (ranks[:, None] == ranks)
    first = splits @ below.T.astype(float)  # number of runs of the first side below each run
    placement = np.where(splits, (below.sum(1) - first) / m, first / n)  # the fraction of the other side below it
    mean_first = np.where(splits, placement, 0.0).sum(1) / n
    mean_second = np.where(splits, 0.0, placement).sum(1) / m
    deviation = (placement - np.where(splits, mean_first[:, None], mean_second[:, None])) ** 2
    spread = np.where(splits, deviation / (n * (n - 1)), deviation / (m * (m - 1))).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((mean_first - 0.5) / np.sqrt(np.where(spread < 1e-12, 0.0, spread)), posinf=np.inf,
                             neginf=-np.inf)  # fmt: skip


def judge(a: Sequence[float], b: Sequence[float]) -> float:
    """P-value of a verdict: small only if the order of the runs and their means both favour the same side.

    The null hypothesis is that neither side is better in most seeds: the probability of improvement is one half.
    `brunner_munzel` must reject it, and Welch's test must reject equal means, so that the size of a bad number counts.
    A failed seed has no finite mean. If the side behind has one, the order decides; if only the side ahead has one,
    there is no verdict.

    Args:
        a: One number for each run, at least two; lower is better, infinite for a failed run.
        b: The same for the other side.
    """
    ahead, behind = (a, b) if improvement(a, b) >= 0.5 else (b, a)
    if not all(map(math.isfinite, behind)):  # its mean has no bound, so the order decides
        return brunner_munzel(a, b)
    if not all(map(math.isfinite, ahead)) or fmean(ahead) >= fmean(behind):
        return 1.0
    return max(brunner_munzel(a, b), welch(a, b))


def least_p(n: int, m: int) -> float:
    """The smallest p-value that a permutation test of n against m runs can reach.

    Example:
        >>> round(least_p(3, 3), 3), round(least_p(4, 4), 3)
        (0.1, 0.029)
    """
    return min(1.0, 2 / min(math.comb(n + m, n), MOST_SPLITS))


def least_seeds(level: float) -> int:
    """The smallest number of runs of each side with which a permutation test can reach a level."""
    return next(n for n in itertools.count(2) if n > 20 or least_p(n, n) <= level)


def hidden_share(n: int, confidence: float = 0.95) -> float:
    """The largest fraction of bad seeds that n seeds without a bad one do not exclude.

    Example:
        >>> round(hidden_share(5), 2)
        0.45
    """
    return 1 - (1 - confidence) ** (1 / n)


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
    """The number of runs of each side that would detect the observed difference, given the observed variances.

    Args:
        a: One number for each run, at least two, all finite.
        b: The same for the other side.
        level: Level of the test.
        power: Probability to detect the difference.
        most: Largest number to try.

    Returns:
        The number; None if it is above `most` or there is no difference.
    """
    difference, spread = abs(fmean(a) - fmean(b)), variance(a) + variance(b)
    if difference == 0:
        return None
    for n in range(max(len(a), len(b), least_seeds(level) - 1) + 1, most + 1):
        effective = n * RANKS  # the test by ranks is the weaker one
        freedom = 2 * (effective - 1)
        critical = float(special.stdtrit(freedom, 1 - level / 2))
        shift = difference / math.sqrt(spread / effective) if spread else math.inf
        if shift > 100 or 1 - float(special.nctdtr(freedom, shift, critical)) >= power:
            return n
    return None


class Variances(NamedTuple):
    """Standard deviations of a number: between training seeds, and between sampling seeds of one run."""

    training: float
    sampling: float


def components(values: Sequence[Sequence[float]]) -> Variances:
    """Split the variance of nested seeds (one-way random effects, by the method of moments).

    Args:
        values: The numbers of each run for its sampling seeds.

    Returns:
        Both deviations; NaN if there are too few seeds.
    """
    repeated = [run for run in values if len(run) > 1]
    within = fmean([variance(run) for run in repeated]) if repeated else math.nan
    if len(values) < 2:
        return Variances(math.nan, math.sqrt(within))
    between = variance([fmean(run) for run in values])
    share = within * fmean([1 / len(run) for run in values]) if repeated else 0.0
    return Variances(math.sqrt(max(between - share, 0.0)), math.sqrt(within))
