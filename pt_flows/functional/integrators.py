r"""Explicit Runge-Kutta methods as data, and one step for particles and for parameter vectors.

    k_i = v(t + c_i h, y + h Σ_{j<i} a_ij k_j)        y(t + h) ≈ y + h Σ_i b_i k_i

The state y is one tensor of any shape: particles (B, *event), or all parameters of a game as one vector. Every tableau
names a companion: weights of another order, sometimes with one more stage. The difference between the two results
estimates the error of a step and drives the step-size controller.

Hairer, Nørsett, Wanner 1993, Solving Ordinary Differential Equations I, sections II.1 and II.4.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Field = Callable[[float, Tensor], Tensor]
"""A velocity v(t, y) of y's shape."""

Integrator = Literal["euler", "heun", "rk4", "bogacki_shampine"]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

    Attributes:
        a: Rows of the strictly lower triangle, one for each stage, the companion's extra stages last.
        b: Weights of the step; their number is the number of stages that a step evaluates.
        order: Global order of the step.
        companion: Weights of the method that the step is compared with.
        companion_order: Global order of the companion.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int
    companion: tuple[float, ...]
    companion_order: int

    @property
    def num_stages(self) -> int:
        """Evaluations of the field per step."""
        return len(self.b)

    @property
    def c(self) -> tuple[float, ...]:
        """Times of the stages as fractions of the step."""
        return tuple(math.fsum(row) for row in self.a)


EULER = Tableau(((), (1.0,)), (1.0,), 1, (1 / 2, 1 / 2), 2)
HEUN = Tableau(((), (1.0,)), (1 / 2, 1 / 2), 2, (1.0, 0.0), 1)
RK4 = Tableau(
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1.0,)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4,
    (1 / 2, 0.0, 0.0, 0.0, 1 / 2), 2,
)  # fmt: skip
BOGACKI_SHAMPINE = Tableau(
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9), 3,
    (7 / 24, 1 / 4, 1 / 3, 1 / 8), 2,
)  # fmt: skip
"""Euler, Heun and Kutta's methods, each compared with an order that is at most one evaluation away, and the embedded
pair of Bogacki and Shampine 1989, A 3(2) pair of Runge-Kutta formulas."""

TABLEAUS: dict[Integrator, Tableau] = {
    "euler": EULER, "heun": HEUN, "rk4": RK4, "bogacki_shampine": BOGACKI_SHAMPINE,
}  # fmt: skip


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """Σ w_i k_i over the stages whose weight is not zero, one fused operation each.

    Example:
        >>> combine((0.5, 0.0, 0.25), [torch.ones(2), torch.full((2,), torch.nan), torch.ones(2)])
        tensor([0.7500, 0.7500])
    """
    (w, k), *rest = [(w, k) for w, k in zip(weights, stages, strict=False) if w]
    total = w * k
    for w, k in rest:
        total.add_(k, alpha=w)
    return total


def rk_stages(
    field: Field, t: float, y: Tensor, h: float, tableau: Tableau, num: int | None = None, first: Sequence[Tensor] = ()
) -> list[Tensor]:
    """The stages k_1, k_2, ... of one step: velocities of y's shape.

    Args:
        field: v.
        t: Time at the start.
        y: State at the start.
        h: Step size.
        tableau: The method.
        num: Number of stages. None evaluates those of a step, `len(tableau.a)` also those of the companion.
        first: Stages that are already known.
    """
    stages = list(first)
    for row, c in list(zip(tableau.a, tableau.c, strict=True))[len(stages) : num or tableau.num_stages]:
        point = y.add(combine(row, stages), alpha=h) if row else y
        stages.append(field(t + c * h, point))
    return stages


def rk_step(field: Field, t: float, y: Tensor, h: float, tableau: Tableau) -> Tensor:
    """State y(t + h) after one step.

    Args:
        field: v.
        t: Time at the start.
        y: State at the start.
        h: Step size.
        tableau: The method.

    Example:
        >>> rk_step(lambda t, y: -y, 0.0, torch.ones(1), 0.1, HEUN)  # 1 - h + h²/2
        tensor([0.9050])
    """
    return y.add(combine(tableau.b, rk_stages(field, t, y, h, tableau)), alpha=h)


def step_error(stages: Sequence[Tensor], h: float, tableau: Tableau) -> Tensor:
    """Difference between the results of the step and its companion: the local error of the less accurate one.

    Args:
        stages: All `len(tableau.a)` stages of `rk_stages`.
        h: Step size.
        tableau: The method.
    """
    pairs = itertools.zip_longest(tableau.b, tableau.companion, fillvalue=0.0)
    return h * combine([b - e for b, e in pairs], stages)


def solve(field: Field, y: Tensor, t0: float, t1: float, num_steps: int, tableau: Tableau = RK4) -> Tensor:
    """State y(t1) after `num_steps` equal steps.

    Args:
        field: v.
        y: State at t0.
        t0: Start.
        t1: End; may lie before t0.
        num_steps: Number of steps, at least 1.
        tableau: The method.

    Raises:
        ValueError: `num_steps` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, got {num_steps}")
    h = (t1 - t0) / num_steps
    for i in range(num_steps):
        y = rk_step(field, t0 + i * h, y, h, tableau)
    return y


def next_step_size(h: float, error_ratio: float, order: int) -> float:
    """The step size at which the error would be slightly below its tolerance.

    0.9 h ratio^{-1/(p+1)} with p the lower order of the pair, but at least a fifth and at most five times h. It is a
    fifth of h if the error is not finite (Hairer, Nørsett, Wanner 1993, section II.4).

    Args:
        h: The step size of the last attempt.
        error_ratio: Its error over the tolerance; the step is accepted if it is at most 1.
        order: Lower order p of the pair.
    """
    if not math.isfinite(error_ratio):
        return 0.2 * h
    factor = 0.9 * error_ratio ** (-1 / (order + 1)) if error_ratio > 0 else 5.0
    return h * min(5.0, max(0.2, factor))


def solve_adaptively(
    field: Field,
    y: Tensor,
    t0: float,
    t1: float,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    tableau: Tableau = BOGACKI_SHAMPINE,
    max_num_steps: int = 10_000,
) -> Tensor:
    """State y(t1), with the longest steps that the tolerance allows. All particles share one step size.

    Args:
        field: v.
        y: State at t0.
        t0: Start.
        t1: End; may lie before t0.
        rtol: Error allowed per step relative to the state.
        atol: Error allowed per step in the state's units.
        tableau: The method.
        max_num_steps: Largest number of steps to try.

    Raises:
        ValueError: A tolerance is not positive.
        RuntimeError: The end is not reached: the field is stiff, not smooth, or not finite.
    """
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol: expected positive numbers, got {rtol} and {atol}")
    if t0 == t1:
        return y
    t, h, known = t0, (t1 - t0) / 100, []
    first_same_as_last = tableau.a[-1] == tableau.b
    for _ in range(max_num_steps):
        last = abs(t1 - t) <= abs(h) * (1 + 1e-9)
        h = t1 - t if last else h
        stages = rk_stages(field, t, y, h, tableau, len(tableau.a), known)
        new = y.add(combine(tableau.b, stages), alpha=h)
        scale = atol + rtol * torch.maximum(y.abs(), new.abs())
        ratio = float((step_error(stages, h, tableau) / scale).square().mean().sqrt())
        if ratio <= 1 and last:
            return new
        known = stages[:1]
        if ratio <= 1:
            t, y, known = t + h, new, stages[-1:] if first_same_as_last else []
        h = next_step_size(h, ratio, min(tableau.order, tableau.companion_order))
    got = f"t = {t:.6g} with step size {h:.3g}, where it is stiff, not smooth, or not finite"
    raise RuntimeError(f"field: expected t = {t1} after {max_num_steps} steps, got {got}. Loosen rtol and atol")
