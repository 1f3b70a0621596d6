"""Sampling from energies: Markov chains from noise, as the method runs them."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import RunsChains, Weights
from pt_flows.errors import UserError
from pt_flows.samplers.sampler import Sampler
from pt_flows.training.requirements import check_samples


class Chains(Sampler):
    """Ends of chains under the energy of a method, with the steps that training found."""

    def prepare(self, method: Any, weights: Weights, data: Any = None) -> None:
        """Check that the method runs chains."""
        super().prepare(method, weights, data)
        if not isinstance(method, RunsChains):
            got = type(method).__name__
            raise UserError(f"sampler: expected an energy-based model for Chains, got {got}. Use Direct")

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None, rng: torch.Generator | None = None) -> Tensor:
        """Run chains from noise and return their ends.

        Raises:
            UserError: Class labels were passed.
        """
        if num < 1:
            raise UserError(f"num: expected at least 1, got {num}")
        if y is not None:
            raise UserError(f"y: expected no labels, as {type(self.method).__name__} is not class-conditional")
        _, x = deque(self.sampling(num, rng), maxlen=1).pop()
        return x

    def sampling(self, num: int, rng: torch.Generator | None) -> Iterator[tuple[float, Tensor]]:
        """Run chains step by step: the fraction done and the points so far, samples last."""
        seed = torch.randint(2**62, (), generator=rng, device=rng.device if rng else None)
        own = torch.Generator(self.method.device).manual_seed(int(seed))
        x = torch.empty(0)
        for fraction, x in self.method.sampling(num, own, self.weights):
            yield 0.999 * fraction, x
        check_samples(f"{type(self.method).__name__}.sampling", x, num, self.method.event_shape)
        yield 1.0, self.method.finished(x, self.weights)
