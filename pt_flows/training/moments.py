"""Running moments of gradients and parameters, and the quadratic model that they fit to a loss.

    mean, variance and covariance of g and x with decay β, each variance before its mean:
        var ← β (var + (1 - β)(value - mean)²),   mean ← β mean + (1 - β) value
    a = cov(g, x) / var(x),   S = var(g),   m = mean(g)² / (2 a)          (`pt_flows.functional.control`)
    β ← β_min + (β_max - β_min) var(g) / (mean(g)² + var(g))              long memory where noise dominates

Ours: m is the height of the quadratic at the mean of x. A public implementation adds var(g) to mean(g)². Then a rate
below 1 / a is never lowered.
"""

from collections.abc import Callable, MutableMapping

import torch
from torch import Tensor

WARM_UP = 20
"""Steps before the moments are used. They begin with variances of zero."""
SHORTEST, LONGEST = 0.9, 0.99
"""β_min and β_max."""

Moments = MutableMapping[str, Tensor]
"""`mean_g` and `mean_x` like the gradient; `var_g`, `var_x`, `cov`, `beta` like the totals; `step`, on the CPU."""
Total = Callable[[Tensor], Tensor]
"""Sum over the coordinates that share a model: `torch.sum` if all share one, `each` if every one has its own."""


def each(values: Tensor) -> Tensor:
    """The values themselves: every coordinate has a model of its own."""
    return values


def follow(moments: Moments, g: Tensor, x: Tensor, total: Total) -> None:
    """Take in a gradient and the parameters that it belongs to; the first call begins.

    Args:
        moments: Changed in place.
        g: Gradient, any shape.
        x: Parameters of the same shape.
        total: Sum over coordinates that share a model.
    """
    if "mean_g" not in moments:
        nothing = torch.zeros_like(total(g))
        moments.update(mean_g=g.clone(), mean_x=x.clone(), beta=torch.full_like(nothing, SHORTEST))
        moments.update(var_g=nothing, var_x=nothing.clone(), cov=nothing.clone(), step=torch.tensor(0.0))
    beta, dg, dx = moments["beta"], g - moments["mean_g"], x - moments["mean_x"]
    for name, product in (("var_g", dg * dg), ("var_x", dx * dx), ("cov", dg * dx)):
        moments[name].add_((1 - beta) * total(product)).mul_(beta)
    moments["mean_g"].add_((1 - beta) * dg)
    moments["mean_x"].add_((1 - beta) * dx)
    noise = moments["var_g"] / (total(moments["mean_g"].square()) + moments["var_g"])
    beta.copy_(SHORTEST + (LONGEST - SHORTEST) * noise.nan_to_num(0.0))
    moments["step"] += 1


def model(moments: Moments, total: Total) -> tuple[Tensor, Tensor, Tensor]:
    """Curvature a, height m and variance S of gradients. The curvature is zero where the parameters have not moved."""
    a = torch.where(moments["var_x"] > 0, moments["cov"] / moments["var_x"], 0.0)
    return a, 0.5 * total(moments["mean_g"].square()) / a, moments["var_g"]
