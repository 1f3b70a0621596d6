"""Steps that several methods share: fit a critic, regress a generator onto fixed targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pt_flows.contracts import Batch, Terms
from pt_flows.functional.attacks import Attack
from pt_flows.functional.potentials import Reduction, regression_loss
from pt_flows.functional.transport import assignment
from pt_flows.training.distributed import all_ranks, world
from pt_flows.training.players import Critic, Generator


def fit_critic(
    critic: Critic,
    loss: Callable[[Tensor, Tensor], Terms],
    minibatches: Sequence[Batch],
    generate: Callable[[int], Tensor],
) -> Terms:
    """Take one critic step per minibatch, each against fresh generated samples, attacked if the critic has an attack.

    Args:
        critic: The critic.
        loss: Maps data and generated samples (B, *event) to terms; the critic descends `loss_D`.
        minibatches: Data, one batch per step.
        generate: Draws a number of samples, without a graph.

    Returns:
        The terms of the last step, detached.

    Raises:
        UserError: The terms are not scalars, or lack `loss_D`.
    """
    terms: Terms = {}
    for x, _ in minibatches:
        with torch.no_grad():
            y = generate(len(x))
        if critic.attack is not None:
            with critic.fixed() as network:
                x, y = attacked(critic.attack, network, x, y)
        terms = critic.fit(loss, x, y)
    return terms


def attacked(
    attack: Attack,
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    score_y: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Data and generated samples, each moved so that a score takes it for the other kind.

    Args:
        attack: Moves them.
        score: Scores (B,), high on data.
        x: Data (B, *event).
        y: Generated samples (B, *event).
        score_y: Scores of generated samples, if they are others.
    """
    return attack(lambda u: -score(u), x), attack(score_y or score, y)


def regress(
    generator: Generator,
    z: Tensor,
    y: Tensor,
    zeta: Tensor,
    num_steps: int,
    reduction: Reduction = "sum",
    rematch: bool = False,
) -> Terms:
    """Take K optimizer steps of G, from y = G(z), on the squared distance to targets: the same z and ζ each time.

    Args:
        generator: G.
        z: Latents (B, *latent_shape).
        y: G(z), with its graph, so that the first step needs no second forward pass.
        zeta: Targets ζ (B, *event), constants.
        num_steps: K.
        reduction: As in `regression_loss`.
        rematch: Before every step after the first, pair targets and outputs anew by optimal assignment over all ranks.

    Returns:
        `loss_G` of the last step and `loss_G_first` of the first.
    """
    first = loss = regression_loss(y, zeta, reduction)
    generator.step(loss)
    for _ in range(num_steps - 1):
        if rematch:
            y = generator(z)
            loss = regression_loss(y, matched(y, zeta), reduction)
            generator.step(loss)
        else:
            loss = generator.fit(Regression(generator, reduction), z, zeta, key="loss_G")["loss_G"]
    return {"loss_G": loss.detach(), "loss_G_first": first.detach()}


@dataclass(frozen=True)
class Regression:
    """Squared distance of G(z) to targets, as a loss for `Player.fit`."""

    generator: Generator
    reduction: Reduction

    def __call__(self, z: Tensor, zeta: Tensor) -> Terms:
        """`loss_G`, as in `regression_loss`."""
        return {"loss_G": regression_loss(self.generator(z), zeta, self.reduction)}


def matched(y: Tensor, zeta: Tensor) -> Tensor:
    """Return targets (B, *event) in the order that pairs them with y at the least cost, over all ranks."""
    rank, everything = world()[0], all_ranks(zeta)
    i = assignment(all_ranks(y.detach()), everything)
    return everything[i[rank * len(y) : (rank + 1) * len(y)]]
