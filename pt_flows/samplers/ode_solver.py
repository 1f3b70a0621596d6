"""Samples of a flow by another number of steps, or another integrator, than its network has."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count
from pt_flows.contracts import FlowNet, MapsLatents
from pt_flows.errors import UserError
from pt_flows.functional.integrators import Integrator, flow_map
from pt_flows.samplers.blocks import InBlocks


class ODESolver(InBlocks):
    """Ends of the paths dx/dt = v(x, t) from latents, t from 0 to 1, by equal steps.

    Sample i starts at the latent from which `Direct` makes sample i.

    Args:
        num_steps: Number of steps.
        integrator: Method of a step: "euler", "heun", "rk4" or "bogacki_shampine", with 1, 2, 4 or 3 velocities.
    """

    def __init__(self, num_steps: Count = 20, integrator: Integrator = "heun") -> None:
        self.num_steps = num_steps
        self.integrator: Integrator = integrator

    def check(self, method: Any) -> None:
        """Check that the generator is a flow."""
        if not isinstance(method, MapsLatents) or not isinstance(method.generator.weighted("raw"), FlowNet):
            wanted, got = "a method whose generator is a flow for ODESolver", type(method).__name__
            raise UserError(f"sampler: expected {wanted}, got {got}. Omit it to draw as the method does")

    @torch.no_grad()
    def block(self, num: int, y: Tensor | None, rng: torch.Generator) -> Iterator[tuple[float, Tensor]]:
        """Draw latents and move them along the velocity."""
        z, _ = self.method.generator.inputs(num, y, rng)
        with self.method.generator.fixed(self.weights) as v:
            yield 1.0, flow_map(v, z, self.num_steps, self.integrator)
