"""Simulate the error rate and the power of the verdicts of `pt-flows compare` for two methods.

The script prints the fractions of comparisons in which a test rejects at the 5 % level: the rule of `compare`
(`both`: the permutation test of Brunner and Munzel and Welch's test), its two parts, and other candidates. The first
block measures power: one method is better by a known gap. The second measures false positives: in a pair of fresh runs
either method is as likely the better one, though spread, shape and mean differ. In the third, means are equal, but one
method is better in most seeds and has rare bad ones. There a rejection is right about most seeds and wrong about means.

    python benchmarks/verdicts.py [--comparisons 2000]
"""

import argparse
import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from pt_flows.compare.statistics import brunner_munzel, holm, judge, least_p

LEVEL = 0.05
SEEDS = (3, 4, 5, 7, 10)
COLUMNS = ("both", "Welch", "ranks", "means", "W & means", "log Welch", "bootstrap")
Arms = Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


def normal(gap: float, spread: float = 1.0) -> Arms:
    """Return normal runs around 10, and around a worse mean."""
    return lambda rng, shape: (rng.normal(10, 1, shape), rng.normal(10 + gap, spread, shape))


def diverging(good: float, bad: float) -> Arms:
    """Return runs of which one method is better by `good` in four fifths of its seeds, else worse by `bad`."""

    def arms(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        shift = np.where(rng.random(shape) < 0.2, bad, -good)
        return rng.normal(10, 1, shape), rng.normal(10, 1, shape) + shift

    return arms


def log_normal(centre: float, spread: float) -> Arms:
    """Return normal and log-normal runs (sigma 1, median 10)."""
    return lambda rng, shape: (rng.normal(centre, spread, shape), 10 * np.exp(rng.normal(0, 1, shape)))


HALF = math.sqrt(2) * float(stats.norm.ppf(0.5 / 0.8))
"""The advantage of good seeds that makes up for a fifth of bad ones: either method is as likely the better one."""
MEAN = 10 * math.exp(0.5)
BLOCKS: dict[str, dict[str, Arms]] = {
    "power: normal seeds, gap in standard deviations": {f"gap {gap}": normal(gap) for gap in (1, 2, 3)},
    "false positives: probability of improvement one half": {
        "equal": normal(0),
        "sd 1 and 4": normal(0, 4),
        "a fifth bad, +4 sd": diverging(HALF, 4),
        "a fifth bad, +20 sd": diverging(HALF, 20),
        "log-normal, sd 1": log_normal(10, 1),
        "log-normal, sd 3": log_normal(10, 3),
    },
    "equal means, but one method is better in most seeds": {
        "a fifth bad, +4 sd": diverging(1, 4),
        "a fifth bad, +10 sd": diverging(2.5, 10),
        "a fifth bad, +20 sd": diverging(5, 20),
        "log-normal, sd 1": log_normal(MEAN, 1),
        "log-normal, sd 3": log_normal(MEAN, 3),
    },
}


def welch_p(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Welch's p-values, one for each row."""
    return stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue  # pyright: ignore[reportAttributeAccessIssue]


def permutation_of_means(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, most: int = 2000) -> np.ndarray:
    """Return p-values of the permutation test of means; for equal sizes Welch's statistic has the same."""
    n, x = a.shape[1], np.concatenate([a, b], 1)
    if math.comb(2 * n, n) <= most:
        chosen = np.array(list(itertools.combinations(range(2 * n), n)))
    else:
        chosen = rng.random((most, 2 * n)).argsort(1)[:, :n]
        chosen[0] = range(n)
    splits = np.zeros((len(chosen), 2 * n))
    np.put_along_axis(splits, chosen, 1.0, 1)
    distance = np.abs(x @ splits.T - x.sum(1, keepdims=True) / 2)
    return (distance >= distance[:, :1] * (1 - 1e-9)).mean(1)


def bootstrap_rejects(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, num: int = 500) -> float:
    """Return how often the 95 % percentile interval of the difference of means excludes zero."""
    means = [np.take_along_axis(x[:, None], rng.integers(0, x.shape[1], (len(x), num, x.shape[1])), 2).mean(2)
             for x in (a, b)]  # fmt: skip
    low, high = np.quantile(means[0] - means[1], [LEVEL / 2, 1 - LEVEL / 2], axis=1)
    return float(np.mean((low > 0) | (high < 0)))


def rejections(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Return the fraction of rows that each test rejects."""
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    both = np.array([judge(x, y) for x, y in pairs])
    ranks = np.array([brunner_munzel(x, y) for x, y in pairs])
    welch, means = welch_p(a, b), permutation_of_means(a, b, rng)
    logs = welch_p(np.log(a.clip(0.1)), np.log(b.clip(0.1)))
    found = [np.mean(p <= LEVEL) for p in (both, welch, ranks, means, np.maximum(welch, means), logs)]
    return [*map(float, found), bootstrap_rejects(a[:500], b[:500], rng)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=2000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"two methods, {arguments.comparisons} comparisons each; fraction that a test rejects at {LEVEL:.0%}")
    for title, scenes in BLOCKS.items():
        print(f"\n{title}\n{'':<20}{'seeds':>6}" + "".join(f"{name:>11}" for name in COLUMNS))
        for (name, arms), seeds in itertools.product(scenes.items(), SEEDS):
            found = rejections(*arms(rng, (arguments.comparisons, seeds)), rng)
            print(f"{name:<20}{seeds:>6}" + "".join(f"{value:>11.3f}" for value in found), flush=True)
    print("\nfractions of comparisons that show no bad seed if a fifth is bad, and the least p of a permutation test")
    for seeds in SEEDS:
        print(f"{'':<20}{seeds:>6}{0.8**seeds:>11.3f}{least_p(seeds, seeds):>11.4f}")
    print("\nfive methods without any gap, ten pairs, Holm's correction; fraction with any verdict")
    for seeds in (5, 10):
        runs = rng.normal(0, 1, (arguments.comparisons // 4, 5, seeds)).tolist()
        wrong = [min(holm([judge(a, b) for a, b in itertools.combinations(five, 2)])) <= LEVEL for five in runs]
        print(f"{'':<20}{seeds:>6}{np.mean(wrong):>11.3f}")


if __name__ == "__main__":
    main()
