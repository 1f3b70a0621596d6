"""Distances of all pairs against float64 differences, far from zero and close to each other."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pt_flows.data import Toy2D
from pt_flows.functional.distances import exact_distances, feature_distances
from pt_flows.functional.transport import bures_distance, half_squared_distances


def by_differences(x: Tensor, y: Tensor) -> Tensor:
    return (x.double()[:, None] - y.double()).flatten(2).square().sum(2).sqrt()


@pytest.mark.parametrize("distances", [exact_distances, feature_distances])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
def test_distances_keep_their_digits_far_from_zero(distances: Callable[..., Tensor], offset: float) -> None:
    x, y = (offset + 0.01 * torch.randn(n, 3, 4, 4) for n in (60, 70))
    found = distances(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_differences(x, y), rtol=1e-6, atol=0)


def test_tight_clusters_keep_their_digits() -> None:
    """Centred points are still far from the centre."""
    x = torch.cat([10 + 1e-3 * torch.randn(40, 64), -10 + 1e-3 * torch.randn(40, 64)])
    torch.testing.assert_close(feature_distances(x, x).double(), by_differences(x, x), rtol=1e-6, atol=0)


def test_copies_are_at_distance_zero_and_ties_are_equal() -> None:
    x = 10 + torch.randn(300, 64)
    order = torch.randperm(300)
    assert torch.equal(feature_distances(x, x).diagonal(), torch.zeros(300))
    assert torch.equal(feature_distances(x[order[:7]], x), feature_distances(x, x)[order[:7]])


def test_costs_and_their_gradients_keep_their_digits_far_from_zero() -> None:
    x, y = 100 + 0.01 * torch.randn(50, 2), (100 + 0.01 * torch.randn(40, 2)).requires_grad_()
    cost = half_squared_distances(y, x)
    torch.testing.assert_close(cost.double(), 0.5 * by_differences(y, x).square(), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(cost.sum(), y)
    expected = (y.double()[:, None] - x.double()).sum(1)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)


def test_densities_of_narrow_mixtures_keep_their_digits() -> None:
    """Modes with a standard deviation of 0.018 at a distance of 4 from zero, in float32 as in float64."""
    law = Toy2D("grid25").law
    x = law.sample(1000, torch.Generator().manual_seed(0))
    log_prob = law.log_prob  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(log_prob(x).double(), log_prob(x.double()), rtol=0, atol=2e-5)


def test_bures_distance_of_equal_singular_covariances_is_zero() -> None:
    f = torch.randn(10, 64) + 3
    assert 0 <= float(bures_distance(f.T.cov(), f.T.cov())) < 1e-6
