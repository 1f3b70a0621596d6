"""A trained checkpoint with a sampler as a simulator: a map of starting points to samples, to be distilled."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pt_flows.contracts import MapsLatents, RunsChains, Shape, Weights
from pt_flows.data.simulators.base import Simulator
from pt_flows.errors import UserError
from pt_flows.evaluation.load import device_named, finished
from pt_flows.metrics.base import full_precision
from pt_flows.samplers import Sampler, check_drawn, default_sampler
from pt_flows.training.noise import BLOCK, generator_at, starting_at

SAME = 1e-3
"""Largest difference, in units of the data, of two samples that count as one."""


class TrainedSampler(Simulator):
    """The sample that a sampler draws from a trained method, as a function of where it starts.

    The parameters are the standard normal latents of a generator, or the standard normal numbers from which chains
    under an energy make their first points. All other noise of the sampler is one realisation that all samples share,
    so that the map is deterministic, and rows of parameters do not influence each other. Images are clipped to [-1, 1].

    Args:
        checkpoint: A checkpoint in its run folder, or a run folder.
        sampler: The sampler; by default the method's own one, `Direct` or `Chains`.
        weights: The averaged weights, or the raw ones of the last iteration.
        noise_seed: Seed of the noise that all samples share.
    """

    def __init__(
        self, checkpoint: str, sampler: Sampler | None = None, weights: Weights = "ema", noise_seed: int = 0
    ) -> None:
        if checkpoint in ("last", "best"):
            wanted = "a checkpoint or a run folder, as the newest run soon is another one"
            raise UserError(f"TrainedSampler.checkpoint: expected {wanted}, got {checkpoint}. Name it")
        run = finished(checkpoint)
        self.method: Any = run.method.to(device_named("auto"))
        self.latent_shape = start_of(self.method, run.checkpoint)
        self.names = tuple(f"z{i}" for i in range(1, 1 + math.prod(self.latent_shape)))
        self.sampler, self.noise_seed = sampler or default_sampler(self.method), noise_seed
        self.sampler.check(self.method)  # before the data are asked for
        self.sampler.prepare(self.method, weights, run.data() if self.sampler.needs_data else None)
        self.check(run.checkpoint)

    def parameters(self, u: Tensor) -> Tensor:
        """Standard normal parameters (n, K)."""
        return torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))

    def from_latents(self, z: Tensor) -> Tensor:
        """The latents are the parameters."""
        return z

    def simulate(self, parameters: Tensor) -> Tensor:
        """Samples (n, *event_shape) from starting points (n, K), at most `BLOCK` at once."""
        z = parameters.to(self.method.device, torch.get_default_dtype())
        with full_precision(self.method.device), torch.enable_grad():
            x = torch.cat([self.drawn(part).detach().cpu() for part in z.split(BLOCK)])
        return x.clamp(-1, 1) if x.dim() == 4 else x

    def drawn(self, z: Tensor) -> Tensor:
        """One block of samples."""
        x = self.sampler.sample(len(z), rng=starting_at(z, "trained sampler", self.noise_seed))
        check_drawn(self.sampler, x, len(z), self.method)
        return x

    def check(self, checkpoint: Path) -> None:
        """Check that a sample is a function of where it starts.

        Raises:
            UserError: It depends on other samples, or not on its start.
        """
        z = torch.randn(2, len(self.names), generator=generator_at("cpu", "two starts"))
        x = self(z)
        told = f"{checkpoint}: expected samples that are functions of their starting points"
        if bool((self(z.flip(0)).flip(0) - x).abs().max() > SAME):
            got = f"others from {self.sampler}, as its noise or the rest of the batch decides"
            raise UserError(f"{told}, got {got}. Use a sampler that takes all noise from rng")
        if bool((x[0] - x[1]).abs().max() <= SAME):
            raise UserError(f"{told}, got the same sample from two by {self.sampler}. Use fewer steps")


def start_of(method: Any, checkpoint: Path) -> Shape:
    """The shape of the points where a sampler of this method starts.

    Raises:
        UserError: It does not start from normal noise alone.
    """
    if isinstance(method, MapsLatents):
        if method.generator.moves_data or method.generator.num_classes:
            got = "one that moves data" if method.generator.moves_data else "one with classes"
            wanted = "a generator from normal noise alone"
            raise UserError(f"{checkpoint}: expected {wanted}, got {got}. Give another checkpoint")
        return tuple(method.generator.network.latent_shape)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(method, RunsChains):
        return tuple(method.event_shape)
    wanted, got = "a method with a generator or an energy", type(method).__name__
    raise UserError(f"{checkpoint}: expected {wanted}, got {got}. Give another checkpoint")
