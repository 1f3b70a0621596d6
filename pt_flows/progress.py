"""Progress bars for long work."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(work: Iterable[T], text: str, total: int | None = None, quiet: bool = False) -> Iterable[T]:
    """Show a bar with the remaining time after three seconds, or without a terminal a line every half minute.

    Args:
        work: Items to iterate over.
        text: Description of the work.
        total: Number of items, if `work` has no length.
        quiet: Whether to show nothing, as on all processes but the first.
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
    """Show a bar for work that yields its progress.

    Args:
        work: Pairs of the finished fraction, which rises to one, and a result.
        text: Description of the work.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(desc=text, total=100, unit="%", leave=False, delay=3, mininterval=interval, maxinterval=interval) as bar:
        for fraction, result in work:
            bar.update(int(100 * fraction) - bar.n)
            yield result
