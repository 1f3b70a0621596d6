"""Direct sampling: latents through the generator, or the method's own way."""

from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import MapsLatents, Samples, Weights
from pt_flows.errors import UserError
from pt_flows.samplers.sampler import Sampler


class Direct(Sampler):
    """One sample per draw: from `method.sample` if there is one, else from latents through `method.generator`."""

    def check(self, method: Any) -> None:
        """Check that the method can be drawn from."""
        if not isinstance(method, MapsLatents | Samples):
            got = type(method).__name__
            raise UserError(f"sampler: expected a method with a generator for Direct, got {got}. Use another sampler")

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        """Check that the method can be drawn from, and has the weights."""
        super().prepare(method, weights, data)
        if isinstance(method, MapsLatents):
            method.generator.weighted(weights)

    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Draw samples; sample i is the same whatever the batching."""
        source = self.method if isinstance(self.method, Samples) else self.method.generator
        return source.sample(num, y, rng, self.weights)
