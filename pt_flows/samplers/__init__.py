"""Samplers draw from a trained method. Importing this package makes their short names known."""

from typing import Any

import torch
from torch import Tensor

from pt_flows.bounds import Count, check_arguments
from pt_flows.contracts import MapsLatents, RunsChains, Samples, Shape, Weights
from pt_flows.errors import DivergenceError, UserError
from pt_flows.samplers.blocks import InBlocks
from pt_flows.samplers.chains import Chains
from pt_flows.samplers.direct import Direct
from pt_flows.samplers.gradient_flow import GradientFlow
from pt_flows.samplers.ode_solver import ODESolver
from pt_flows.samplers.rep_gan import REPGAN
from pt_flows.samplers.sampler import Sampler
from pt_flows.training.noise import row_noise
from pt_flows.training.requirements import check_samples

__all__ = [
    "REPGAN",
    "Chains",
    "Direct",
    "GradientFlow",
    "InBlocks",
    "ODESolver",
    "Sampler",
    "check_drawn",
    "default_sampler",
    "row_noise",
    "sample",
]


def default_sampler(method: Any) -> Sampler:
    """Return the default sampler of a method: chains for energies, else a direct draw.

    Raises:
        UserError: The method does not generate samples.
    """
    if isinstance(method, RunsChains):
        return Chains()
    if isinstance(method, MapsLatents | Samples):
        return Direct()
    wanted = "expected a method that generates samples, got one without generator, sample or sampling"
    raise UserError(f"{type(method).__name__}: {wanted}. Define one of them, or do not measure samples")


def sample(
    method: Any,
    num: Count,
    y: Tensor | None = None,
    rng: torch.Generator | None = None,
    weights: Weights = "ema",
    sampler: Sampler | None = None,
    data: Any = None,
) -> Tensor:
    """Draw samples from a trained method.

    Args:
        method: Any method that generates.
        num: Number of samples.
        y: Labels (num,) for a class-conditional method; drawn uniformly if None.
        rng: Source of randomness, on any device; None for the global one.
        weights: The averaged weights, or the raw ones of the last iteration.
        sampler: The sampler; by default the method's own one, `Direct` or `Chains`.
        data: The method's data, for samplers that need them.

    Returns:
        Samples (num, *event) on the method's device.

    Raises:
        UserError: The method does not generate samples, or the arguments do not fit it.
    """
    check_arguments("", {"num": Count, "weights": Weights}, {"num": num, "weights": weights})
    if not isinstance(sampler, Sampler | None):
        raise UserError(f"sampler: expected a Sampler such as Direct(), got {sampler!r}")
    chosen = sampler or default_sampler(method)
    chosen.prepare(method, weights, data)
    x = chosen.sample(num, y, rng)
    check_drawn(chosen, x, num, method)
    return x


def check_drawn(sampler: Sampler, x: Any, num: int, method: Any) -> None:
    """Check that samples have the shape of a method's samples, if it is known, and are finite.

    Raises:
        UserError: They have another one.
        DivergenceError: A number is not finite.
    """
    if (shape := event_shape_of(method)) is not None:
        check_samples(f"{type(sampler).__name__}.sample", x, num, shape)
    if lost := int((~x.isfinite()).flatten(1).any(1).sum()):
        advice = "Lower the step size, or use an earlier checkpoint"
        raise DivergenceError(f"{lost} of {num} generated samples are not finite. {advice}")


def event_shape_of(method: Any) -> Shape | None:
    """Shape of one sample of a method; None if it is not known."""
    if isinstance(method, MapsLatents):
        return method.generator.event_shape
    return method.event_shape if isinstance(method, RunsChains) else None
