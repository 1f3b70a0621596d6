"""The violation of the dual constraint over all pairs of two sets of samples, in blocks that fit into the cache."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pt_flows.functional.potentials import inequality_penalty
from pt_flows.functional.transport import half_squared_distances

AT_ONCE = 2**20
"""Number of pairs that are compared at once, with the graph of autograd."""
ROWS = 128
"""Rows of a block of more pairs."""


def all_pairs_penalty(
    phi: Float[Tensor, " n"], psi: Float[Tensor, " m"], x: Float[Tensor, "n *event"], y: Float[Tensor, "m *event"]
) -> Tensor:
    """Mean of max(0, φ(x_i) + ψ(y_j) - ½‖x_i - y_j‖²)² over all pairs, differentiable once in φ and ψ.

    Above a million pairs, autograd would keep several n x m matrices. One pass over blocks of rows keeps the sums of
    rows and columns instead, which are the gradient: ∂/∂φ_i = 2/(nm) Σ_j max(0, φ_i + ψ_j - c_ij).

    Args:
        phi: φ(x_i).
        psi: ψ(y_j).
        x: Samples on the side of φ, constants.
        y: Samples on the side of ψ, constants.
    """
    if len(x) * len(y) <= AT_ONCE:
        return inequality_penalty(phi[:, None], psi, half_squared_distances(x, y))
    return _InBlocks.apply(phi, psi, x, y)  # pyright: ignore[reportReturnType]


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, phi: Tensor, psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The mean, in float64 over float32 violations."""
        centre = y.flatten(1).double().mean(0)
        x, y = (points.flatten(1).double() - centre for points in (x, y))
        above = psi.double() - 0.5 * y.square().sum(1)
        columns, rows, total = torch.zeros_like(above), [], torch.zeros((), dtype=torch.float64, device=phi.device)
        for value, points in zip(phi.double().split(ROWS), x.split(ROWS), strict=True):
            own = value - 0.5 * points.square().sum(1)
            violation = torch.addmm(own[:, None] + above, points, y.T).clamp_(min=0)
            rows.append(violation.sum(1))
            columns += violation.sum(0)
            total += torch.linalg.vector_norm(violation).square()
        ctx.scale = 1 / (len(x) * len(y))
        ctx.save_for_backward(torch.cat(rows).to(phi), columns.to(psi))
        return (total * ctx.scale).to(phi)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sums of rows and columns."""
        rows, columns = ctx.saved_tensors
        factor = 2 * ctx.scale * gradient
        return factor * rows, factor * columns, None, None
