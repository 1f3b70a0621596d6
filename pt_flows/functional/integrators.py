r"""Explicit Runge-Kutta methods as data, and one step for particles and for parameter vectors.

    k_i = v(t + c_i h, y + h Σ_{j<i} a_ij k_j)        y(t + h) ≈ y + h Σ_i b_i k_i

The state y is one tensor of any shape: particles (B, *event), or all parameters of a game as one vector. Every tableau
names a companion: weights of another order, sometimes with one more stage. The difference between the two results
estimates the error of a step. For whole trajectories use a solver of a library, such as torchdiffeq.

Hairer, Nørsett, Wanner 1993, Solving Ordinary Differential Equations I, sections II.1 and II.4.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

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
        >>> import torch
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
        >>> import torch
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


def flow_map(velocity: Callable[[Tensor, Tensor], Tensor], z: Tensor, num_steps: int, integrator: Integrator) -> Tensor:
    """End x(1) of dx/dt = v(x, t) from x(0) = z, after equal steps.

    Args:
        velocity: v, which takes points (B, *event) and times (B,).
        z: Starting points (B, *event).
        num_steps: Number of steps; each evaluates v as often as the method has stages.
        integrator: Name of the method.

    Example:
        >>> import torch
        >>> flow_map(lambda x, t: 2 * t[:, None], torch.zeros(1, 1), 1, "heun")  # x(1) = 1
        tensor([[1.]])
    """
    field = lambda t, x: velocity(x, x.new_full((len(x),), t))
    x, h = z, 1 / num_steps
    for i in range(num_steps):
        x = rk_step(field, i * h, x, h, TABLEAUS[integrator])
    return x
