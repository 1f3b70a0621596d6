"""A verdict for each pair of groups: which one is better in most seeds, as far as so few seeds can tell.

A verdict is about most seeds, never about averages. Its null hypothesis is a probability of improvement of one half:
if each method is run once more, either one is equally likely to be better. Few seeds cannot judge a mean: if a method
is bad in a fifth of its seeds, five seeds show no bad one in 0.8^5 = 33 % of all comparisons, and no test can detect
it. So the table has the worst seed and the failed ones, and a line says how large a fraction of bad seeds may be
hidden.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pt_flows.compare.groups import Criterion, Group, families, floor_name, floor_of
from pt_flows.compare.statistics import hidden_share, holm, improvement, judge, least_p, least_seeds, seeds_needed
from pt_flows.compare.table import number


@dataclass
class Verdict:
    """The verdict on a pair of groups.

    Attributes:
        first: Name of the group that is ahead.
        second: Name of the other one.
        verdict: "better" (the first one), "inconclusive" or "too few seeds".
        improvement: Probability that a run of the first one is better than a run of the second.
        p: Adjusted p-value of the null hypothesis.
        sentence: The verdict as a sentence.
    """

    first: str
    second: str
    verdict: str
    improvement: float
    p: float
    sentence: str


def judged(
    groups: Sequence[Group], criterion: Criterion, level: float, wanted: Collection[frozenset[str]] | None = None
) -> list[Verdict]:
    """A verdict for each pair of groups of several runs.

    Args:
        groups: The groups to compare.
        criterion: The number.
        level: Probability of any wrong verdict among all pairs.
        wanted: Pairs of names that are judged; by default all. If they are chosen before the results are known, fewer
            pairs leave more power to each verdict.
    """
    pairs = [(a, b) for a, b in itertools.combinations(groups, 2) if min(len(a.runs), len(b.runs)) > 1]
    pairs = [(a, b) for a, b in pairs if wanted is None or frozenset((a.name, b.name)) in wanted]
    adjusted = holm([judge(a.costs(criterion), b.costs(criterion)) for a, b in pairs])
    reachable = holm([least_p(len(a.runs), len(b.runs)) for a, b in pairs])
    found = []
    for (a, b), p, least in zip(pairs, adjusted, reachable, strict=True):
        if improvement(a.costs(criterion), b.costs(criterion)) < 0.5:
            a, b = b, a
        share = improvement(a.costs(criterion), b.costs(criterion))
        said = f"(probability of improvement {share:.2g}, adjusted p = {p:.2g})"
        if p <= level:
            word, sentence = "better", f"{a.name} is better than {b.name} in most seeds {said}"
        elif least > level:
            word = "too few seeds"
            many = f" for {len(pairs)} pairs" if len(pairs) > 1 else ""
            sentence = (
                f"{a.name} against {b.name}: too few seeds, {len(a.runs)} against {len(b.runs)} cannot go below "
                f"p = {least:.2g}{many}; train at least {least_seeds(level / len(pairs))} of each"
            )
        else:
            word = "inconclusive"
            sentence = f"{a.name} against {b.name}: inconclusive {said}{advice(a, b, criterion, level / len(pairs))}"
        found.append(Verdict(a.name, b.name, word, share, p, sentence + dependence(a, b)))
    return found


def dependence(a: Group, b: Group) -> str:
    """The rest of the sentence about a pair whose runs are not independent, as the tests assume."""
    reasons = []
    if both := {run.folder for run in a.runs} & {run.folder for run in b.runs}:
        reasons.append(f"{len(both)} of their runs are the same")
    runs = {run.folder: run for run in (*a.runs, *b.runs)}
    if forked := sum(len(family) for family in families(list(runs.values())) if len(family) > 1):
        reasons.append(f"{forked} of their runs share a part of their training")
    return f"; not independent: {', '.join(reasons)}" if reasons else ""


def advice(ahead: Group, behind: Group, criterion: Criterion, level: float) -> str:
    """The rest of the sentence about an inconclusive pair."""
    first, second = ahead.costs(criterion), behind.costs(criterion)
    if improvement(first, second) == 0.5:
        return "; neither is ahead"
    if not all(map(math.isfinite, second)):
        return ""
    if failed := sum(map(math.isinf, first)):
        return f"; {ahead.name} is ahead, but {failed} of its {len(first)} seeds failed"
    needed = seeds_needed(first, second, level)
    return "; if the gap is real, " + (
        f"about {needed} runs of each would settle it" if needed else "a thousand runs of each would not settle it"
    )


def said(groups: Sequence[Group], criterion: Criterion, found: Sequence[Verdict]) -> list[str]:
    """Sentences about a comparison: the verdicts, how far they go, and the floor if it was measured."""
    floor = floor_of(groups, criterion.key)
    last = [] if math.isnan(floor) else [f"{floor_name(criterion.key)}: {number(floor)}"]
    if len(groups) == 1:
        return [f"{alone(groups[0], criterion.key)}. A verdict needs a second group", *last]
    return sentences(groups, found) + limits(groups, found) + last


def sentences(groups: Sequence[Group], found: Sequence[Verdict]) -> list[str]:
    """The verdicts as sentences: one for all pairs of three and more groups, if all have too few seeds alike."""
    reasons = {verdict.sentence.removeprefix(f"{verdict.first} against {verdict.second}: ") for verdict in found}
    if len(found) == math.comb(len(groups), 2) > 1 == len(reasons) and found[0].verdict == "too few seeds":
        return [f"all {len(found)} pairs: {reasons.pop()}"]
    return [verdict.sentence for verdict in found]


def limits(groups: Sequence[Group], found: Sequence[Verdict]) -> list[str]:
    """Sentences on what the verdicts do not tell."""
    lines = []
    if told := {name for verdict in found if verdict.verdict == "better" for name in (verdict.first, verdict.second)}:
        n = min(len(group.runs) for group in groups if group.name in told)
        lines.append(
            f"verdicts are about most seeds, not about averages: {n} good seeds do not exclude that up to "
            f"{hidden_share(n):.0%} of all seeds are bad"
        )
    if single := [group.name for group in groups if len(group.runs) < 2]:
        lines.append(f"no verdict on {', '.join(single)}: one run has no spread; add training seeds")
    return lines


def alone(group: Group, key: str) -> str:
    """One sentence about the only group."""
    values, num = group.values(key), len(group.runs)
    failed = f", {num - len(values)} failed" if num > len(values) else ""
    if not values:
        return f"{group.name}: all {num} runs failed" if num > 1 else f"{group.name}: the only run failed"
    if len(values) == 1:
        return f"{group.name}: {key} is {values[0]:.4g} in one run{failed}, which has no spread"
    return (
        f"{group.name}: {key} is {fmean(values):.4g} on average, with standard deviation {stdev(values):.2g} over "
        f"{len(values)} runs{failed}"
    )
