"""The state of work in several processes: a line for each, and the remaining time of all."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


class Piece(Protocol):
    """A piece of work, such as a job."""

    name: str
    kind: str
    work: float

    def done(self) -> float:
        """Return the work done so far."""
        ...

    def text(self) -> str:
        """Return a few words about its state."""
        ...


class Board:
    """Shows bars in a terminal, and otherwise prints lines every half minute.

    Args:
        title: Name of the whole work.
        ahead: Kind and work of every piece that is to be done.
        places: Number of pieces that run side by side.
        quiet: Whether to show nothing.
    """

    def __init__(self, title: str, ahead: Sequence[tuple[str, float]], places: int, quiet: bool = False) -> None:
        self.title, self.places, self.quiet = title, min(places, max(len(ahead), 1)), quiet
        self.num, self.num_ended = len(ahead), 0
        self.ahead: dict[str, float] = defaultdict(float)
        for kind, work in ahead:
            self.ahead[kind] += work
        self.spent: dict[str, tuple[float, float]] = {}
        self.bars: list[tqdm[Any]] = []
        self.last_lines = time.monotonic()

    def show(self, running: Sequence[tuple[Piece, float]]) -> None:
        """Show the state.

        Args:
            running: The pieces that run, with their starts by the monotonic clock.
        """
        if self.quiet:
            return
        lines = [": ".join(part for part in (piece.name, piece.text()) if part) for piece, _ in running]
        if sys.stderr.isatty():
            self.draw(lines, self.summary(running))
        elif time.monotonic() - self.last_lines > SECONDS_BETWEEN_LINES:
            self.last_lines = time.monotonic()
            print("\n".join([*lines, self.summary(running)]), file=sys.stderr, flush=True)

    def draw(self, lines: Sequence[str], summary: str) -> None:
        """Draw a bar for each place, and one for the whole."""
        while len(self.bars) < self.places + 1:
            self.bars.append(tqdm(bar_format="{desc}", position=len(self.bars), leave=False))
        padded = [*lines, *[""] * (self.places - len(lines)), summary]
        for bar, text in zip(self.bars, padded, strict=True):
            if bar.desc != text:
                bar.set_description_str(text)

    def summary(self, running: Sequence[tuple[Piece, float]]) -> str:
        """Return the sentence about the whole."""
        left = self.seconds_left(running)
        time_left = "" if left is None else f", about {tqdm.format_interval(left)} left"
        return f"{self.title}: {self.num_ended} of {self.num} ended{time_left}"

    def seconds_left(self, running: Sequence[tuple[Piece, float]]) -> float | None:
        """Return the remaining seconds, by the pace of each kind so far; None before there is any."""
        spent, ahead = dict(self.spent), dict(self.ahead)
        for piece, since in running:
            work, seconds = spent.get(piece.kind, (0.0, 0.0))
            done = min(piece.done(), piece.work)
            spent[piece.kind] = work + done, seconds + time.monotonic() - since
            ahead[piece.kind] = ahead.get(piece.kind, 0.0) - done
        paces = {kind: seconds / work for kind, (work, seconds) in spent.items() if work > 0}
        if not paces:
            return None
        usual = sum(paces.values()) / len(paces)
        return sum(max(work, 0.0) * paces.get(kind, usual) for kind, work in ahead.items()) / self.places

    def ended(self, piece: Piece, seconds: float) -> None:
        """Count a piece that has ended, also one that ended early."""
        self.num_ended += 1
        work, before = self.spent.get(piece.kind, (0.0, 0.0))
        self.spent[piece.kind] = work + min(piece.done(), piece.work), before + seconds
        self.ahead[piece.kind] -= piece.work

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Remove the bars."""
        for bar in self.bars:
            bar.close()
        self.bars = []
