"""Forward diffusion x_t = a_t x_0 + b_t ε at labels t = 0 ... T, label 0 being the data themselves."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Noising(NamedTuple):
    """Coefficients a_t and b_t, each (T + 1,), with a_t² + b_t² = 1, a_0 = 1 and b_0 = 0."""

    a: Tensor
    b: Tensor

    def diffuse(
        self, x: Float[Tensor, "B *event"], t: Int[Tensor, " B"], noise: Float[Tensor, "B *event"]
    ) -> Float[Tensor, "B *event"]:
        """x_t = a_t x + b_t ε.

        Args:
            x: Data.
            t: Labels in 0 ... T.
            noise: Standard normal ε.
        """
        a, b = (c.to(x)[t].reshape(-1, *[1] * (x.dim() - 1)) for c in self)
        return a * x + b * noise


def squared_cumulative(num_levels: int, low: float, high: float) -> Noising:
    """The schedule of Zhang, Tan and Ou 2023 (arXiv:2304.10707): β_t = min(1, (u_1 + ... + u_t)²), u from low to high.

    a_t is the product of √(1 - β_i) for i ≤ t. The last level is not pure noise: a_T is about a quarter in the paper's
    settings (T = 6, 0.01, 0.3 for rings; T = 50, 0.0002, 0.02 for images).

    Args:
        num_levels: T.
        low: u_1.
        high: u_T.

    Example:
        >>> [round(float(b), 4) for b in squared_cumulative(6, 1e-2, 3e-1).b]
        [0.0, 0.01, 0.0786, 0.218, 0.437, 0.7156, 0.9665]
    """
    u = torch.linspace(low, high, num_levels, dtype=torch.float64)
    beta = torch.cat([u.new_zeros(1), u.cumsum(0).square().clamp(max=1.0)])
    a = (1 - beta).sqrt().cumprod(0)
    b = (1 - a.square()).clamp(min=0.0).sqrt()
    return Noising(a.to(torch.get_default_dtype()), b.to(torch.get_default_dtype()))
