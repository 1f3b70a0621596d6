r"""Markov chains that leave exp(-U) invariant: Langevin steps, and steps to independent proposals.

A chain is a small tuple of tensors; every step is a pure function of it, an energy and a random generator. Energies are
low where the density exp(-U / temperature) is high. A step of size s drifts by s²/2 along -∇U and adds noise of
standard deviation s. All chains of a batch move at once, optionally with individual step sizes. No step waits for the
device.

The energy's parameters get no gradients: these are taken with respect to the points alone, outside autocast, and
also inside `torch.inference_mode`. The energy must be a fixed function of its arguments during a step (no dropout, no
batch statistics).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from pt_flows.functional.precision import widened

Energy = Callable[[Tensor], Tensor]
"""U(x): (B, *event) to (B,)."""

Ratio = Literal["exact", "released"]


class Draws(Protocol):
    """A source of random numbers with a rule of its own, such as one that splits a draw between processes."""

    def normal(self, num: int, *shape: int) -> Tensor:
        """Standard normal (num, *shape)."""
        ...

    def uniform(self, num: int, *shape: int) -> Tensor:
        """Uniform on [0, 1), (num, *shape)."""
        ...


Rng = torch.Generator | Draws
"""The source of a sampler's random numbers, on the chains' device."""


def normal_like(x: Tensor, rng: Rng) -> Tensor:
    """Standard normal noise of the shape and type of x (B, ...)."""
    if (own := own_draws(rng)) is not None:
        return own.normal(*x.shape).to(x)
    return torch.randn(x.shape, generator=cast(torch.Generator, rng), dtype=x.dtype, device=x.device)


def uniform_like(x: Tensor, rng: Rng) -> Tensor:
    """Numbers in [0, 1) of the shape and type of x (B, ...)."""
    if (own := own_draws(rng)) is not None:
        return own.uniform(*x.shape).to(x)
    return torch.rand(x.shape, generator=cast(torch.Generator, rng), dtype=x.dtype, device=x.device)


def own_draws(rng: Rng) -> Draws | None:
    """The source, if it has a rule of its own."""
    return cast(Draws, rng) if hasattr(rng, "normal") else None


class Chain(NamedTuple):
    """The state of chains: points x (B, *event), their energies (B,) and gradients ∇U (B, *event)."""

    x: Tensor
    energy: Tensor
    gradient: Tensor


def chain_at(energy: Energy, x: Float[Tensor, "B *event"]) -> Chain:
    """Chains at given points.

    Args:
        energy: U.
        x: Starting points.
    """
    with differentiable(x.device.type):
        x = widened(x.clone() if x.is_inference() else x).detach()
        u = energy(x.requires_grad_(True))
        (gradient,) = torch.autograd.grad(u, x, torch.ones_like(u))
    return Chain(x.requires_grad_(False), widened(u.detach()), gradient)


def differentiable(device_type: str) -> AbstractContextManager[None]:
    """A context with gradients, outside inference mode and autocast. It costs nothing inside another one."""
    on = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    return nullcontext() if on and not torch.is_autocast_enabled(device_type) else _differentiable(device_type)


@contextmanager
def _differentiable(device_type: str) -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        yield


class Stride(NamedTuple):
    """Factors of a Langevin step: s²/2 of the drift, η of the noise, and s²/(2η) of the noise that leads back.

    Each has shape (B, 1, ...) or (1, 1, ...), to multiply points (B, *event).
    """

    drift: Tensor
    noise: Tensor
    back: Tensor


def stride_of(x: Tensor, step_size: Tensor | float, ratio: Ratio, noise_std: Tensor | float | None) -> Stride:
    """The factors of steps of points x; arguments are those of `propose`."""
    column = lambda size: torch.as_tensor(size, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.dim() - 1))
    s = column(step_size)
    eta = s if noise_std is None else column(noise_std)
    lead_back = s.square() if ratio == "released" else s if noise_std is None else s.square() / eta
    return Stride(0.5 * s.square(), eta, 0.5 * lead_back)


class Proposal(NamedTuple):
    """A Langevin proposal and log min(1, α) (B,), the logarithm of its probability of acceptance."""

    chain: Chain
    log_acceptance: Tensor


def propose(
    energy: Energy,
    chain: Chain,
    step_size: Tensor | float,
    rng: Rng,
    temperature: float = 1.0,
    ratio: Ratio = "exact",
    noise_std: Tensor | float | None = None,
) -> Proposal:
    """One Langevin proposal x' = x - (s²/2) ∇U(x) + η z, by default with η = s.

    The exact ratio, from the noise z' = -z + (s²/(2η)) (∇U(x) + ∇U(x')) that would lead back:
    log α = U(x) - U(x') + ½ ‖z‖² - ½ ‖z'‖² (Roberts and Tweedie 1996). With another η it is still exact, as both
    densities of the proposal have the same normalising constant; chains only mix less well.

    Args:
        energy: U.
        chain: The state of the chains.
        step_size: s, one for all or (B,).
        rng: Source of random numbers on the chains' device.
        temperature: Divisor of U.
        ratio: "exact", or "released": s² in place of s²/η in z', an error in DA-EBM's released code that samples about
            exp(-(2 - s) U).
        noise_std: η, one for all or (B,); None for s.
    """
    moved, log_alpha = moved_by(stride_of(chain.x, step_size, ratio, noise_std), energy, chain, rng, temperature)
    return Proposal(moved, log_acceptance_of(log_alpha))


def moved_by(stride: Stride, energy: Energy, chain: Chain, rng: Rng, temperature: float) -> tuple[Chain, Tensor]:
    """The proposal of `propose`, and log α (B,) as it is: NaN or infinite where energies are so."""
    x, u, g = chain
    z = normal_like(x, rng)
    cooled = lambda values: values if temperature == 1 else values / temperature
    moved = chain_at(energy, x - cooled(stride.drift * g) + stride.noise * z)
    back = cooled(stride.back * (g + moved.gradient)) - z
    squares = lambda noise: noise.flatten(1).square().sum(1)
    return moved, cooled(u - forbidding(moved.energy)) + 0.5 * (squares(z) - squares(back))


def forbidding(energy: Tensor) -> Tensor:
    """Energies of proposals (B,), where those that are not finite have probability zero."""
    return energy.nan_to_num(math.inf, math.inf, math.inf)


def log_acceptance_of(log_alpha: Tensor) -> Tensor:
    """Log min(1, α) (B,) from log α, with probability zero for NaN."""
    return log_alpha.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=0.0)


def ula_step(
    energy: Energy,
    chain: Chain,
    step_size: Tensor | float,
    rng: Rng,
    temperature: float = 1.0,
    ratio: Ratio = "exact",
    noise_std: Tensor | float | None = None,
) -> tuple[Chain, Float[Tensor, " B"]]:
    """Unadjusted Langevin: every proposal is accepted, which is biased (N(0, 1) gets variance 1 / (1 - s²/4)).

    Returns:
        The chains, and the probability (B,) with which a Metropolis test would have accepted.
    """
    proposal = propose(energy, chain, step_size, rng, temperature, ratio, noise_std)
    return proposal.chain, proposal.log_acceptance.exp()


def mala_step(
    energy: Energy,
    chain: Chain,
    step_size: Tensor | float,
    rng: Rng,
    temperature: float = 1.0,
    ratio: Ratio = "exact",
    noise_std: Tensor | float | None = None,
) -> tuple[Chain, Float[Tensor, " B"]]:
    """Metropolis-adjusted Langevin: leaves exp(-U / temperature) exactly invariant.

    A proposal whose energy is not finite is rejected.

    Returns:
        The chains, and the probability of acceptance (B,).
    """
    moved, log_acceptance = propose(energy, chain, step_size, rng, temperature, ratio, noise_std)
    return tested(moved, chain, log_acceptance, rng), log_acceptance.exp()


def tested(moved: Chain, chain: Chain, log_alpha: Float[Tensor, " B"], rng: Rng) -> Chain:
    """Metropolis' test: proposals with probability min(1, α), old states otherwise and where α is NaN."""
    accept = uniform_like(log_alpha, rng).log() < log_alpha
    return Chain(*chosen(accept, moved, chain))


def independent_step(
    potential: Energy, x: Float[Tensor, "B *event"], value: Float[Tensor, " B"], proposed: Tensor, rng: Rng
) -> tuple[Tensor, Tensor, Float[Tensor, " B"]]:
    """Metropolis-Hastings with proposals from a base density p0: leaves p0 exp(-V) exactly invariant.

    The proposal's density cancels, so log α = V(x) - V(x') alone, and no gradient is computed. A proposal whose
    potential is not finite is rejected.

    Args:
        potential: V, minus the logarithm of the ratio of the target to the base density, up to a constant.
        x: Points of the chains.
        value: V(x).
        proposed: x', independent draws from p0, of the shape of x.
        rng: Source of random numbers on the chains' device.

    Returns:
        The points, their potentials, and the probability of acceptance (B,).
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        moved = potential(proposed)
    log_acceptance = log_acceptance_of(value - forbidding(moved))
    accept = uniform_like(log_acceptance, rng).log() < log_acceptance
    x, value = chosen(accept, (proposed, moved), (x, value))
    return x, value, log_acceptance.exp()


def chosen(accept: Tensor, new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
    """New tensors (B, ...) for the chains that accept (B,), old ones for the others."""
    at = {d: accept.reshape(-1, *[1] * (d - 1)) for d in {a.dim() for a in new}}
    return [torch.where(at[a.dim()], a, b) for a, b in zip(new, old, strict=True)]


def langevin(
    energy: Energy,
    x: Float[Tensor, "B *event"],
    step_size: Tensor | float,
    num_steps: int,
    rng: Rng,
    metropolis: bool = True,
    temperature: float = 1.0,
    ratio: Ratio = "exact",
) -> tuple[Chain, Float[Tensor, " B"]]:
    """Several Langevin steps in a row.

    Args:
        energy: U.
        x: Starting points.
        step_size: s, one for all or (B,).
        num_steps: Number of steps.
        rng: On the points' device.
        metropolis: Whether to accept or reject proposals; otherwise all are accepted.
        temperature: U is divided by it.
        ratio: As for `propose`.

    Returns:
        The chains, and the mean probability of acceptance (B,).
    """
    log_alphas = []
    with differentiable(x.device.type):
        chain = chain_at(energy, x)
        stride = stride_of(chain.x, step_size, ratio, None)
        for _ in range(num_steps):
            moved, log_alpha = moved_by(stride, energy, chain, rng, temperature)
            chain = tested(moved, chain, log_alpha, rng) if metropolis else moved
            log_alphas.append(log_alpha)
        if not log_alphas:
            return chain, torch.zeros_like(chain.energy)
        acceptances = log_acceptance_of(torch.stack(log_alphas)).exp()
        return chain, sum(acceptances.unbind(), torch.zeros_like(chain.energy)) / num_steps
