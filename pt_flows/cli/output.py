"""Output whose reader may end first, as in `pt-flows fit ... | head`: a command continues, and the rest is dropped."""

import os
import sys
from collections.abc import Iterable
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

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines, or drop them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, or drop it."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # a copy asks before there is one
            raise AttributeError(name)
        return getattr(self.stream, name)

    def _drop(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())  # what waits in the stream goes there, too, at the latest at exit
        os.close(nothing)


def drop_unread_output() -> None:
    """Let this process drop what it prints when nobody reads it, up to its exit."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Unbroken):  # None if the stream was closed before the start
            setattr(sys, name, Unbroken(stream))
