"""Chains over points and labels: exact draws of a label, and Langevin steps between them.

An energy U(x, t) of points and labels defines the joint density exp(-U(x, t) / temperature). Its parameters get no
gradients, as in `langevin`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pt_flows.functional.langevin import Energy, Ratio, Rng, langevin, uniform_like
from pt_flows.functional.precision import widened

LabelledEnergy = Callable[[Tensor, Tensor], Tensor]
"""U(x, t): (B, *event) and labels (B,) to (B,)."""


@runtime_checkable
class Conditioned(Protocol):
    """An energy U(x, t) that computes once what depends on labels alone, or on points alone.

    Attributes:
        conditioned: Whether it does; otherwise it is called for every pair.
    """

    conditioned: bool

    def conditions(self, t: Tensor) -> tuple[Tensor, ...]:
        """Tensors that depend on labels (B,) alone."""
        ...

    def at(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """U(x, t) (B,), given them."""
        ...

    def every(self, x: Tensor, labels: Tensor) -> Tensor:
        """U(x, t) (B, L) at each of the labels (L,)."""
        ...


def conditioned(energy: Any) -> Conditioned | None:
    """The energy, if it computes once what depends on labels alone."""
    return energy if isinstance(energy, Conditioned) and energy.conditioned else None


def at_labels(energy: LabelledEnergy, t: Int[Tensor, " B"]) -> Energy:
    """U(x, t) with fixed labels, as a function of points alone."""
    fast = conditioned(energy)
    if fast is None:
        return lambda x: energy(x, t)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(t.device.type, enabled=False):
        conditions = fast.conditions(t)

    def at(x: Tensor) -> Tensor:
        count(energy, x, t)
        return fast.at(x, *conditions)

    return at


def at_every_label(energy: LabelledEnergy, labels: Int[Tensor, " L"]) -> Energy:
    """U(x, t) (B, L) at every one of the labels, as a function of points alone."""
    num_labels = len(labels)
    fast = conditioned(energy)
    if fast is None:
        repeated = lambda x: energy(x.repeat_interleave(num_labels, 0), labels.repeat(len(x)))
        return lambda x: repeated(x).view(-1, num_labels)

    def every(x: Tensor) -> Tensor:
        count(energy, x, labels.repeat(len(x)))
        return fast.every(x, labels)

    return every


def count(energy: Any, x: Tensor, t: Tensor) -> None:
    """Let those who count calls of a module know of evaluations at labels (n,) that are not such calls."""
    for hook in getattr(energy, "_forward_pre_hooks", {}).values():
        hook(energy, (x if len(x) == len(t) else x[:1].expand(len(t), *x.shape[1:]), t))


def label_logits(
    energy: LabelledEnergy, x: Float[Tensor, "B *event"], num_labels: int, temperature: float = 1.0, chunk: int = 4096
) -> Float[Tensor, "B L"]:
    """-U(x, t) / temperature for every label: log p(t | x) up to a constant for each x.

    All labels of all points are evaluated in one batch, in chunks.

    Args:
        energy: U(x, t).
        x: Points.
        num_labels: Labels are 0 ... num_labels - 1.
        temperature: U is divided by it.
        chunk: Largest number of rows of one call of the energy.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        every = at_every_label(energy, torch.arange(num_labels, device=x.device))
        pieces = [every(part) for part in x.split(max(1, chunk // num_labels))]
    return -widened(torch.cat(pieces)) / temperature


def gibbs_labels(
    energy: LabelledEnergy,
    x: Float[Tensor, "B *event"],
    num_labels: int,
    rng: Rng,
    temperature: float = 1.0,
    chunk: int = 4096,
) -> Int[Tensor, " B"]:
    """Exact draws of the label given x, with probabilities proportional to exp(-U(x, t) / temperature).

    Args:
        energy: U(x, t).
        x: Points.
        num_labels: Labels are 0 ... num_labels - 1.
        rng: On the points' device.
        temperature: U is divided by it.
        chunk: As for `label_logits`.
    """
    return drawn_labels(label_logits(energy, x, num_labels, temperature, chunk), rng)


def drawn_labels(logits: Float[Tensor, "B L"], rng: Rng) -> Int[Tensor, " B"]:
    """Draws of a label with probabilities softmax(logits)."""
    below = logits.softmax(1).cumsum(1)[:, :-1]
    return (uniform_like(logits[:, 0], rng)[:, None] >= below).sum(1)


class Transition(NamedTuple):
    """Chains after a transition, and statistics of each label.

    Attributes:
        x: Points (B, *event).
        t: Labels (B,).
        energy: U(x, t) (B,) at the labels before the jump; NaN if the energy at another label is NaN.
        accepted: Sum of acceptance probabilities of the Langevin steps at each label (num_labels,).
        tried: Number of Langevin steps at each label (num_labels,).
        gradient: ∇U(x, t) (B, *event) at the labels before the jump.
    """

    x: Tensor
    t: Tensor
    energy: Tensor
    accepted: Tensor
    tried: Tensor
    gradient: Tensor


def mgms(
    energy: LabelledEnergy,
    x: Float[Tensor, "B *event"],
    t: Int[Tensor, " B"],
    step_sizes: Float[Tensor, " L"],
    num_steps: int,
    rng: Rng,
    metropolis: bool = True,
    temperature: float = 1.0,
    ratio: Ratio = "exact",
    chunk: int = 4096,
) -> Transition:
    """MALA within Gibbs: Langevin steps in x at fixed labels, then one exact draw of the labels.

    Zhang, Tan and Ou 2023, Persistently Trained, Diffusion-assisted Energy-based Models, arXiv:2304.10707. Leaves the
    joint density exp(-U(x, t)) invariant. Labels jump freely, which moves chains between modes that are connected at
    another label.

    Args:
        energy: U(x, t).
        x: Points.
        t: Labels; the label before the jump sets the step size, and acceptance is counted for it.
        step_sizes: s of each label.
        num_steps: Langevin steps per transition.
        rng: On the points' device.
        metropolis: Whether to accept or reject proposals; otherwise all are accepted.
        temperature: U is divided by it.
        ratio: As for `propose`.
        chunk: As for `gibbs_labels`.
    """
    with torch.inference_mode(False):
        labels = t.clone()
    at_t = at_labels(energy, labels)
    chain, acceptance = langevin(at_t, x, step_sizes[t], num_steps, rng, metropolis, temperature, ratio)
    zeros = torch.zeros(len(step_sizes), dtype=acceptance.dtype, device=acceptance.device)
    accepted = zeros.index_add(0, t, num_steps * acceptance)
    tried = zeros.index_add(0, t, torch.full_like(acceptance, num_steps))
    logits = label_logits(energy, chain.x, len(step_sizes), temperature, chunk)
    u = torch.where(logits.isnan().any(1), math.nan, chain.energy)  # such a chain cannot draw a label
    return Transition(chain.x, drawn_labels(logits, rng), u, accepted, tried, chain.gradient)
