"""Decay of a step size over a run, as a factor in [0, 1] of the fraction of the run that is done."""

import bisect
import math
from collections.abc import Sequence
from typing import Literal

Decay = Literal["constant", "linear", "cosine"]


def decay_factor(decay: Decay, progress: float) -> float:
    """Factor for a quantity that starts at full size and ends at zero (or stays, if constant).

    Args:
        decay: Shape of the decay.
        progress: Iterations done over iterations planned; clipped to [0, 1].

    Example:
        >>> decay_factor("linear", 0.25), round(decay_factor("cosine", 0.5), 12), decay_factor("constant", 0.9)
        (0.75, 0.5, 1.0)
    """
    progress = min(max(progress, 0.0), 1.0)
    if decay == "linear":
        return 1.0 - progress
    if decay == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0


def piecewise_constant(t: int, boundaries: Sequence[int], values: Sequence[float]) -> float:
    """The value of the piece that holds t; a boundary belongs to the piece on its left.

    Args:
        t: Iterations done.
        boundaries: Ascending last t of every piece but the last.
        values: One more than boundaries.

    Example:
        >>> [piecewise_constant(t, [500], [0.01, 0.04]) for t in (0, 500, 501)]
        [0.01, 0.01, 0.04]
    """
    return values[bisect.bisect_left(boundaries, t)]
