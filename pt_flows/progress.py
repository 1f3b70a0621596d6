"""Progress bars for long work, unless the command line has --quiet."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

QUIET = "PT_FLOWS_QUIET"
"""Environment variable that --quiet sets, for this process and those that it starts."""


def is_quiet() -> bool:
    """Whether only results and errors are printed."""
    return bool(os.environ.get(QUIET))


def track(work: Iterable[T], text: str, total: int | None = None, quiet: bool = False) -> Iterable[T]:
    """Show a bar with the remaining time after three seconds, or without a terminal a line every half minute.

    Args:
        work: Items to iterate over.
        text: Description of the work.
        total: Number of items, if `work` has no length.
        quiet: Whether to show nothing, as on all processes but the first.
    """
    from tqdm import tqdm  # slow, and the command line's help does not need it

    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        work,
        text,
        total=total,
        leave=False,
        delay=3,
        mininterval=interval,
        maxinterval=interval,
        disable=quiet or is_quiet(),
    )


def track_shares(work: Iterable[tuple[float, T]], text: str) -> Iterator[T]:
    """Show a bar for work that yields its progress.

    Args:
        work: Pairs of the finished fraction, which rises to one, and a result.
        text: Description of the work.
    """
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 30.0
    how = {"leave": False, "delay": 3, "mininterval": interval, "maxinterval": interval, "disable": is_quiet()}
    with tqdm(desc=text, total=100, unit="%", **how) as bar:
        for fraction, result in work:
            bar.update(int(100 * fraction) - bar.n)
            yield result
