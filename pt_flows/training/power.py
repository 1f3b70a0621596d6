r"""Averages of weights with power-function profiles, whose length can be chosen after training.

    p_γ(s; t) = (γ + 1) s^γ / t^(γ + 1),  0 ≤ s ≤ t          the weight of the iterates at s in the average at t
    σ         = (γ + 1)^½ (γ + 2)^-1 (γ + 3)^-½              its width: the standard deviation of s / t
    every iteration t:  θ̄ ← β_t θ̄ + (1 - β_t) θ,  β_t = (1 - 1 / t)^(γ + 1)
    afterwards:         θ̄ of another γ ≈ Σ_i x_i θ̄_i,  x = argmin ‖Σ_i x_i p_i - p_γ‖², scaled to Σ_i x_i = 1

Karras et al. 2024, Analyzing and Improving the Training Dynamics of Diffusion Models, arXiv:2312.02696, section 3 and
appendix C. The update gives the iterate s exactly the integral of p_γ from s - 1 to s.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pt_flows.errors import UserError
from pt_flows.training.ema import Average

N = TypeVar("N", bound=nn.Module)

KEPT = (0.05, 0.1)
"""Widths of the averages that training keeps, as in the paper."""
WIDEST = 12**-0.5
"""Width of the plain mean of all iterates, γ = 0."""


def width_of(gamma: float) -> float:
    """Return the width σ of the profile with an exponent γ ≥ 0: its standard deviation over the length of the run."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def exponent_of(width: float) -> float:
    """Return the exponent γ ≥ 0 of the profile of a width σ: a root of a cubic polynomial.

    Raises:
        UserError: There is none.

    Example:
        >>> round(exponent_of(0.05), 2), round(exponent_of(0.1), 2)
        (16.97, 6.94)
    """
    if not 0 < width <= WIDEST:
        raise UserError(f"weights: expected a width above 0 and at most {WIDEST:.4f}, got {width:g}. Use another width")
    return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())


def inner_product(gamma: Tensor, time: Tensor, other_gamma: Tensor, other_time: Tensor) -> Tensor:
    """Return ∫ p_γ(s; t) p_γ'(s; t') ds of profiles, elementwise with broadcasting, in float64."""
    last = torch.maximum(time, other_time)
    fraction, of_the_later = torch.minimum(time, other_time) / last, torch.where(time < other_time, other_gamma, gamma)
    return (gamma + 1) * (other_gamma + 1) * fraction**of_the_later / ((gamma + other_gamma + 1) * last)


def combination(
    widths: Sequence[float], times: Sequence[float], width: float, time: float
) -> tuple[list[float], float]:
    """Return the least-squares combination of profiles that is nearest to another one.

    Args:
        widths: Widths of the N profiles.
        times: Their iterations.
        width: Width of the wanted profile.
        time: Its iteration.

    Returns:
        N coefficients with sum one, and the L2 norm of the error over that of the wanted profile.

    Raises:
        UserError: A width has no profile.
    """
    gamma, t = torch.tensor([list(map(exponent_of, widths)), list(times)], dtype=torch.float64)
    wanted, end = torch.tensor([exponent_of(width), time], dtype=torch.float64)
    products = inner_product(gamma[:, None], t[:, None], gamma, t)
    scale = products.diagonal().rsqrt()  # profiles of norm one
    to_wanted = inner_product(gamma, t, wanted, end)
    system = scale[:, None] * products * scale
    x = torch.linalg.lstsq(system, (scale * to_wanted)[:, None], driver="gelsd").solution[:, 0] * scale
    x = x / x.sum()
    square = inner_product(wanted, end, wanted, end)
    error = (square - 2 * x @ to_wanted + x @ products @ x) / square
    return x.tolist(), math.sqrt(max(0.0, float(error)))


class PowerAverage(Average[N]):
    """The average of all iterates with a power-function profile. The initial network has no weight.

    Args:
        network: The network to average; copied now.
        width: Width σ of the profile.
    """

    def __init__(self, network: N, width: float) -> None:
        super().__init__(network)
        self.width, self.gamma = width, exponent_of(width)

    def decay_at(self, iteration: int) -> float:
        """Return β_t of an iteration t, counted from 1."""
        return (1 - 1 / iteration) ** (self.gamma + 1)
