"""Sampling from energies: Markov chains from noise, as the method runs them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import RunsChains
from pt_flows.errors import UserError
from pt_flows.samplers.blocks import InBlocks
from pt_flows.training.noise import row_noise
from pt_flows.training.requirements import check_samples


class Chains(InBlocks):
    """Ends of chains under the energy of a method, with the steps that training found."""

    def check(self, method: Any) -> None:
        """Check that the method runs chains."""
        if not isinstance(method, RunsChains):
            got = type(method).__name__
            raise UserError(f"sampler: expected an energy-based model for Chains, got {got}. Use Direct")

    @torch.no_grad()
    def block(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Run chains from noise, and yield their ends last.

        Raises:
            UserError: Class labels were passed.
        """
        if y is not None:
            raise UserError(f"y: expected no labels, as {type(self.method).__name__} is not class-conditional")
        x = torch.empty(0)
        for fraction, x in self.method.sampling(num, row_noise(rng, self.method.device), self.weights):
            yield 0.999 * fraction, x
        check_samples(f"{type(self.method).__name__}.sampling", x, num, self.method.event_shape)
        yield 1.0, self.method.finished(x, self.weights)
