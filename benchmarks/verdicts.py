"""How often `pt-flows compare` is wrong, and how often it sees a gap: simulated runs with known gaps.

Every comparison is of two methods whose runs scatter normally around means that lie no, one or three standard
deviations apart. Printed are the shares of comparisons with a verdict at the 5 % level: for no gap the false-positive
rate, else the power; for scale also what a percentile bootstrap of the difference (resampling seeds) would do.

    python benchmarks/verdicts.py [--comparisons 4000]
"""

import argparse

import numpy as np

from pt_flows.evaluation.statistics import holm, welch

LEVEL = 0.05


def bootstrap_rejects(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, num: int = 1000) -> bool:
    """Whether the 95 % percentile interval of the difference of means leaves out zero."""
    means = [x[rng.integers(0, len(x), (num, len(x)))].mean(1) for x in (a, b)]
    low, high = np.quantile(means[0] - means[1], [LEVEL / 2, 1 - LEVEL / 2])
    return bool(low > 0 or high < 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=4000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"two methods, {arguments.comparisons} comparisons each; share with a verdict at {LEVEL:.0%}")
    print(f"{'seeds':>6}{'gap (sd)':>10}{'Welch':>9}{'bootstrap':>11}")
    for seeds in (3, 4, 5, 7, 10):
        for gap in (0, 1, 3):
            pairs = [(rng.normal(0, 1, seeds), rng.normal(gap, 1, seeds)) for _ in range(arguments.comparisons)]
            seen = np.mean([welch(a.tolist(), b.tolist()) < LEVEL for a, b in pairs])
            resampled = np.mean([bootstrap_rejects(a, b, rng) for a, b in pairs[:1000]])
            print(f"{seeds:>6}{gap:>10}{seen:>9.3f}{resampled:>11.3f}")
    print("\nfive methods without any gap, ten pairs, Holm's correction; share with any verdict")
    for seeds in (3, 5, 10):
        wrong = 0
        for _ in range(arguments.comparisons // 2):
            runs = rng.normal(0, 1, (5, seeds)).tolist()
            p = holm([welch(runs[i], runs[j]) for i in range(5) for j in range(i)])
            wrong += min(p) < LEVEL
        print(f"{seeds:>6}{'':>10}{wrong / (arguments.comparisons // 2):>9.3f}")


if __name__ == "__main__":
    main()
