"""One way to show that long work goes on and when it will end."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(work: Iterable[T], text: str, total: int | None = None, quiet: bool = False) -> Iterable[T]:
    """A bar with the time left, shown after three seconds; a line every half minute where there is no terminal.

    Args:
        work: What is iterated over.
        text: What is being done.
        total: How many items there are, if `work` does not know.
        quiet: Show nothing (on all processes but one).
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        work,
        text,
        total=total,
        leave=False,
        delay=3,
        mininterval=interval,
        maxinterval=interval,
        disable=quiet,
    )


def track_shares(work: Iterable[tuple[float, T]], text: str) -> Iterator[T]:
    """The same for work that says how much of it is done.

    Args:
        work: Pairs of the share done, rising to one, and a result.
        text: What is being done.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(desc=text, total=100, unit="%", leave=False, delay=3, mininterval=interval, maxinterval=interval) as bar:
        for share, result in work:
            bar.update(int(100 * share) - bar.n)
            yield result
