"""Schedules: numbers that change over a run, as functions of its progress. They have no state to save."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pt_flows.bounds import CountOrZero, Positive, check_arguments, hints_of
from pt_flows.errors import UserError

Decay = Literal["constant", "linear", "cosine"]


class Progress(NamedTuple):
    """Progress of a run.

    Attributes:
        iteration: Iterations done.
        total: Iterations planned; below one for a run without a planned end.
    """

    iteration: int
    total: int

    @property
    def fraction(self) -> float:
        """The fraction of the run that is done, in [0, 1]."""
        return min(max(self.iteration / max(self.total, 1), 0.0), 1.0)


@dataclass(frozen=True)
class Schedule:
    """A number over a run: value x warm-up x decay x piecewise constant factor.

    Args:
        value: The full size. The value 1 makes the schedule a factor.
        decay: Shape of the decrease from full size at the start to zero at the end of the run.
        warmup: Number of iterations over which the value first rises in equal steps.
        boundaries: Ascending iterations after which the factor changes.
        factors: Factors of the pieces, one more than boundaries.

    Raises:
        UserError: Boundaries and factors do not fit.

    Example:
        >>> linear, warm = Schedule(0.2, "linear"), Schedule(warmup=4)
        >>> linear(Progress(25, 100)), [warm(Progress(t, 100)) for t in (0, 3, 50)]
        (0.15000000000000002, [0.25, 1.0, 1.0])
        >>> [Schedule(0.01, boundaries=(500,), factors=(1, 4))(Progress(t, 0)) for t in (0, 500, 501)]
        [0.01, 0.01, 0.04]
    """

    value: Positive = 1.0
    decay: Decay = "constant"
    warmup: CountOrZero = 0
    boundaries: Sequence[int] = ()
    factors: Sequence[Positive] = (1.0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "factors", tuple(self.factors))
        check_arguments("Schedule.", hints_of(Schedule), vars(self))
        if list(self.boundaries) != sorted(self.boundaries) or len(self.factors) != len(self.boundaries) + 1:
            got = f"{list(self.boundaries)} and factors {list(self.factors)}"
            raise UserError(f"Schedule.boundaries: expected ascending ones and one factor more than them, got {got}")

    def __call__(self, progress: Progress) -> float:
        """The number at this point of a run."""
        rise = min(1.0, (progress.iteration + 1) / self.warmup) if self.warmup else 1.0
        fall = {
            "constant": 1.0,
            "linear": 1.0 - progress.fraction,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress.fraction)),
        }[self.decay]
        return self.value * (rise * fall * self.factors[bisect_left(self.boundaries, progress.iteration)])

    @property
    def needs_an_end(self) -> bool:
        """Whether the schedule has no meaning without a planned number of iterations."""
        return self.decay != "constant"


def scheduled(value: float | Schedule) -> Schedule:
    """Return a constant schedule for a number, and a schedule unchanged."""
    return value if isinstance(value, Schedule) else Schedule(value)
