"""Decomposition of the variance of a function of independent inputs, such as a generator with noise inside."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def variance_from(
    function: Callable[[Tensor], Tensor], u: Float[Tensor, "B n"], fresh: Float[Tensor, "B n"], part: slice
) -> Tensor:
    """Estimate E Var(f(u) | all entries of u outside a part): the variance that the part causes.

    The estimate is half of the mean squared change of f when the part is drawn anew, and has no bias. All entries give
    Var f(u). If u is a latent z with noise ξ, the noise gives the last term of Var(x) = Var(E[x | z]) + E Var(x | z).

    Jansen 1999, Analysis of variance designs for model output, Computer Physics Communications 117.

    Args:
        function: f, inputs (B, n) to values (B, *event).
        u: Inputs whose entries are independent.
        fresh: Other inputs from the same distribution, independent of u.
        part: The entries to draw anew.

    Returns:
        The variance (scalar), summed over the entries of the event.
    """
    moved = u.clone()
    moved[:, part] = fresh[:, part]
    with torch.no_grad():
        return (function(moved) - function(u)).square().flatten(1).sum(1).mean() / 2
