"""Output whose reader may end first, as in `pt-flows fit ... | head`: a command continues, and the rest is dropped."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Unbroken:
    """A stream that drops its text once nobody reads it.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what waits, or drop it."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _drop(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())  # what waits in the stream goes there, too, at the latest at exit
        os.close(nothing)


@contextmanager
def unbroken_output() -> Iterator[None]:
    """Continue without output inside a `with` block when its reader has ended."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Unbroken, before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
