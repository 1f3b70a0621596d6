"""Sampling intervals of distances from one sample: against the definition, and their coverage against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pt_flows.functional.jackknife import frechet_left_out, interval, jackknife_error
from pt_flows.functional.transport import symmetric_sqrt
from pt_flows.metrics.frechet import frechet_distance
from pt_flows.metrics.quality import kernel_distance, polynomial_mmd


def without_each(x: Tensor, number: Callable[[Tensor], float]) -> Tensor:
    """The number of the points without each one of them, by the definition."""
    return torch.tensor([number(torch.cat([x[:i], x[i + 1 :]])) for i in range(len(x))], dtype=torch.float64)


def frechet_to(mean: Tensor, covariance: Tensor) -> Callable[[Tensor], float]:
    return lambda x: frechet_distance(mean, covariance, x.mean(0), x.T.cov())


@pytest.mark.parametrize(("n", "d", "rank"), [(12, 30, 30), (40, 7, 7), (20, 20, 20), (40, 7, 3), (12, 30, 4)])
def test_frechet_distances_without_each_point(n: int, d: int, rank: int) -> None:
    """This includes fewer points than dimensions, singular references, and a spectrum of three decades."""
    x = torch.randn(n, d).double() * torch.logspace(0, -3, d) + 5
    a, mean = torch.randn(d, rank).double(), 5 + torch.randn(d).double()
    found = frechet_left_out(x, mean, symmetric_sqrt(a @ a.T))
    torch.testing.assert_close(found, without_each(x, frechet_to(mean, a @ a.T)), rtol=1e-6, atol=1e-5)


def test_equal_points_have_no_error() -> None:
    left_out = frechet_left_out(torch.full((9, 4), 3.0), torch.zeros(4), torch.eye(4))
    torch.testing.assert_close(left_out, torch.full((9,), 40.0, dtype=torch.float64))
    assert jackknife_error(left_out) < 1e-9


def test_kernel_distances_without_each_point() -> None:
    x, y = torch.randn(20, 3).double(), torch.randn(20, 3).double() + 1
    errors = [jackknife_error(without_each(a, lambda x, b=b: polynomial_mmd(x, b))) for a, b in ((x, y), (y, x))]
    assert kernel_distance(x, y).of_generated == pytest.approx(errors[0])
    assert math.isnan(kernel_distance(x, y).error)
    blocks = kernel_distance(torch.cat([x, y]), torch.cat([y, x]), block=20)
    assert blocks.of_generated == pytest.approx(math.hypot(*errors) / 2)


def coverage(truth: float, measured: Callable[[], tuple[float, float]], times: int = 200) -> float:
    """The fraction of repetitions whose interval, from a number and its error, holds the truth."""
    ends = [interval(*measured()) for _ in range(times)]
    return sum(low <= truth <= high for low, high in ends) / times


def test_intervals_hold_the_known_distance_of_gaussians() -> None:
    scales, mean, real = torch.tensor([0.5, 1.0, 2.0]).double(), torch.ones(3).double(), torch.eye(3).double()
    truth = float(mean.square().sum() + (scales - 1).square().sum())

    def measured() -> tuple[float, float]:
        x = torch.randn(500, 3).double() * scales + mean
        zero = torch.zeros(3).double()
        return frechet_to(zero, real)(x), jackknife_error(frechet_left_out(x, zero, real))

    assert 0.88 <= coverage(truth, measured) <= 0.99


def test_intervals_hold_the_mean_distance_of_fewer_points_than_dimensions() -> None:
    """Against a reference σ²eeᵀ the mean is known for any n: the last trace is σ times the standard deviation along e.

    With c₄ = E s / σ₁ of n normal numbers: ‖m‖² + tr Σ / n + tr Σ + σ² - 2 σ c₄ σ₁.
    """
    n, d, sigma = 30, 60, 2.0
    scales = torch.linspace(2, 0.2, d).double()
    direction = torch.zeros(d).double()
    direction[0] = 1
    c4 = math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
    trace = float(scales.square().sum())
    truth = 1 + trace * (1 + 1 / n) + sigma**2 - 2 * sigma * c4 * float(scales[0])
    root, zero = sigma * torch.outer(direction, direction), torch.zeros(d).double()

    def measured() -> tuple[float, float]:
        x = torch.randn(n, d).double() * scales + direction
        return frechet_to(zero, root @ root)(x), jackknife_error(frechet_left_out(x, zero, root))

    assert 0.88 <= coverage(truth, measured) <= 0.99


def test_errors_are_those_of_repetitions_where_the_reference_is_full() -> None:
    """A perfect generator with n < d is the hardest case, where a bootstrap is three times too wide."""
    n, d = 30, 60
    zero, root = torch.zeros(d).double(), torch.linspace(2, 0.1, d).double().diag()
    found = []
    for _ in range(200):
        x = torch.randn(n, d).double() @ root
        found.append((frechet_to(zero, root @ root)(x), jackknife_error(frechet_left_out(x, zero, root))))
    values, errors = torch.tensor(found).T
    assert 0.85 <= float(errors.square().mean().sqrt() / values.std()) <= 1.35


def test_intervals_hold_the_known_kernel_distance() -> None:
    """On the line the kernel (x y + 1)³ compares three moments, so its mean over samples is known."""
    y = 0.5 * torch.randn(200, 1).double()
    x_moments, y_moments = [1, 0.5, 0.5, 0.5], [float((y**j).mean()) for j in range(4)]  # those of N(1/2, 1/4)
    between = lambda a, b: sum(math.comb(3, j) * a[j] * b[j] for j in range(4))
    inside = float(((y @ y.T + 1) ** 3).sum() - ((y.square() + 1) ** 3).sum()) / (200 * 199)
    truth = between(x_moments, x_moments) + inside - 2 * between(x_moments, y_moments)

    def measured() -> tuple[float, float]:
        kid = kernel_distance(0.5 + 0.5 * torch.randn(200, 1).double(), y)
        return kid.distance, kid.of_generated

    assert 0.88 <= coverage(truth, measured) <= 0.99
