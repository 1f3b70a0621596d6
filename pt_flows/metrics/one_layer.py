"""Errors of a one-layer generator, whose matrix is read from its samples at the unit latents."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pt_flows.errors import UserError
from pt_flows.functional.one_layer import matrix_of, moment_error, relative_error
from pt_flows.metrics.base import Direction, RealData, SampleMetric, full_precision


class OneLayerError(SampleMetric):
    """Distance of A Aᵀ from the truth Σ* = A* A*ᵀ, without noise of samples.

    `moment_error` is ‖A Aᵀ - Σ*‖. `relative_error` is E = ‖Σ*^{-1/2} A Aᵀ Σ*^{-1/2} - I‖, for A* of full rank: the
    total variation between both distributions is min(1, E) up to constants. Floors are the errors of the covariance of
    the training samples before φ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.A: Tensor | None = None

    @property
    def key(self) -> str:
        """Name of the number that runs are ranked by."""
        return "moment_error"

    def prepare(self, data: RealData, num_samples: int) -> None:
        """Read the truth of the run's seed.

        Raises:
            UserError: The data have no known matrix.
        """
        self.A, known = None, cast(Any, data)
        if not hasattr(data, "training_latents"):
            got = type(data).__name__
            raise UserError(f"OneLayerError: expected data with a known matrix, such as OneLayer, got {got}. Omit it")
        self.real, self.activation = known.truth @ known.truth.T, known.activation
        y = known.training_latents()
        self.empirical = y.T @ y / len(y)
        self.has_full_rank = known.truth.shape[1] >= len(self.real)

    def update_map(self, push: Callable[[Tensor], Tensor]) -> None:
        """Read the matrix from the samples at the unit latents. A has as many columns as rows."""
        unit = torch.eye(len(self.real), device=self.device)
        with full_precision(self.device):
            self.A = matrix_of(push(unit).cpu(), push(-unit).cpu(), self.activation)

    def update(self, x: Tensor) -> None:
        """Ignore generated samples."""

    def compute(self) -> dict[str, float]:
        """Both errors with their floors; empty for methods without a generator."""
        if self.A is None:
            return {}
        own = self.A @ self.A.T
        found = {"moment_error": moment_error(own, self.real)}
        found["moment_error_floor"] = moment_error(self.empirical, self.real)
        if self.has_full_rank:
            found["relative_error"] = relative_error(own, self.real)
            found["relative_error_floor"] = relative_error(self.empirical, self.real)
        return found

    def directions(self) -> dict[str, Direction]:
        """Low errors are better; floors have no direction."""
        return {key: "" if key.endswith("_floor") else "lower" for key in self.compute()}
