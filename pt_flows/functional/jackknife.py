"""The sampling error of a distance from one sample, by the jackknife: the same distance without each of its points.

Efron and Stein 1981, The jackknife estimate of variance, Annals of Statistics 9: on average the jackknife does not
underestimate the variance of a symmetric statistic. The bootstrap fails for distances of covariances. A replicate
repeats points, so its covariance has a smaller rank and its distance is biased upwards.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.functional.transport import eigenvectors

QUANTILE = 1.959964
"""The quantile 0.975 of the standard normal distribution, for 95 % intervals."""
STEP = 0.4
NODES = torch.arange(math.log(1e-11), math.log(1e8), STEP, dtype=torch.float64).exp()
"""Nodes of the integral in `root_trace_losses`, relative to the root of the trace."""


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def interval(value: float, error: float) -> Interval:
    """The 95 % interval of a number with a normal error."""
    return Interval(value - QUANTILE * error, value + QUANTILE * error)


def jackknife_error(left_out: Float[Tensor, " n"]) -> float:
    """Standard error of a number from its values θ_i without point i of n: √((n - 1) / n Σ (θ_i - θ̄)²).

    Args:
        left_out: The values θ_i.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 6.0])
        >>> means_of_two = (x.sum() - x) / 2
        >>> round(jackknife_error(means_of_two), 4), round(float(x.std()) / 3**0.5, 4)
        (1.5275, 1.5275)
    """
    return (len(left_out) - 1) * float(left_out.std()) / math.sqrt(len(left_out))


def frechet_left_out(
    x: Float[Tensor, "n d"], mean: Float[Tensor, " d"], root: Float[Tensor, "d d"]
) -> Float[Tensor, " n"]:
    """Fréchet distances of a sample without each one of its points to N(mean, root²), in float64 to about six digits.

    One eigendecomposition of min(n, d) dimensions serves all points, because a point less changes the scatter around
    the mean by a matrix of rank one: n / (n - 1) times the square of the centred point.

    Args:
        x: Points, at least three.
        mean: Mean of the reference.
        root: Symmetric root of its covariance.
    """
    mean, root = mean.to(x.device, torch.float64), root.to(x.device, torch.float64)
    n, centre, factor = len(x), x.double().mean(0), len(x) / (len(x) - 1)
    centred = x.double() - centre
    eigenvalues, leverages = spectrum(centred, root)
    roots = eigenvalues.sqrt().sum() - root_trace_losses(eigenvalues, leverages, factor)
    squares = centred.square().sum(1)
    shifts = (centre - mean).square().sum() - 2 / (n - 1) * centred @ (centre - mean) + squares / (n - 1) ** 2
    traces = (squares.sum() - factor * squares) / (n - 2)
    return shifts + traces + root.square().sum() - 2 * roots / math.sqrt(n - 2)


def spectrum(
    centred: Float[Tensor, "n d"], root: Float[Tensor, "d d"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, "n r"]]:
    """Eigenvalues λ_k > 0 and eigenvectors v_k of the scatter of the points y_i = root x_i, as leverages.

    The scatter of fewer points than dimensions has the eigenvalues of their Gram matrix.

    Args:
        centred: The points x_i.
        root: A symmetric matrix.

    Returns:
        λ, and the leverages (y_iᵀv_k)² / λ_k.
    """
    few = len(centred) <= centred.shape[1]
    moved = centred @ root
    values, vectors = eigenvectors(moved @ moved.T if few else moved.T @ moved)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    return values, (vectors if few else moved @ (vectors / values.sqrt())).square()


def root_trace_losses(
    eigenvalues: Float[Tensor, " r"], leverages: Float[Tensor, "n r"], factor: float
) -> Float[Tensor, " n"]:
    """The loss tr √A - tr √(A - c y_i y_iᵀ) for each of the points whose scatter is A.

    This form is ours. tr √A is (1/π) ∫ log det(1 + A/t²) dt over t > 0. By the determinant of a rank-one change the
    loss is -(1/π) ∫ log(1 - q_i(t)) dt with q_i = c y_iᵀ(A + t²)⁻¹y_i. Over log t the integrand is analytic in a strip,
    so the trapezoid rule converges exponentially.

    Args:
        eigenvalues: Those of A, as from `spectrum`.
        leverages: The leverages of the points.
        factor: c.
    """
    t = NODES.to(eigenvalues.device) * eigenvalues.sum().sqrt()
    q = leverages @ (factor * eigenvalues[:, None] / (eigenvalues[:, None] + t.square()))
    largest = 1 - torch.finfo(q.dtype).eps  # q tends to 1 for small t if the point is alone in its direction
    return -torch.log1p(-q.clamp(max=largest)) @ t * (STEP / math.pi)
