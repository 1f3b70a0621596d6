"""One way to show that long work goes on and when it will end."""

import sys
from collections.abc import Iterable
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
