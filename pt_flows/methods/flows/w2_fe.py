r"""W2-FE: the gradient flow of half the squared Wasserstein-2 distance, forward Euler steps, persistent training.

    dY = -∇ψ(Y) dt         ψ the Kantorovich potential from the distribution of Y to the data, cost c(x, y) = ½‖x - y‖²
    -∇ψ(y) = T(y) - y      T the optimal map, so particles move straight to the data and W2 falls like e^{-t}
    ζ_i = y_i - ε ∇ψ(y_i)  one Euler step of y_i = G(z_i); ε is the fraction of the way
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

The potentials are those of W2-GAN: φ on data and ψ = -φ + e on particles maximise E φ(x) + E ψ(y), with penalties where
φ(x) + ψ(y) exceeds c(x, y), where they are not equal along their own maps x - ∇φ(x) and y - ∇ψ(y), and where e > 0.

Huang and Malik 2024, Generative Modeling by Minimizing the Wasserstein-2 Loss, arXiv:2406.13619; the estimator is that
of Leygonie et al. 2019, Adversarial Computation of Optimal Transport Maps, arXiv:1906.09691. K = 1 is W2-GAN, its
gradient scaled by 2ε.

Departures: written from the abstract and the authors' released code; the body of the paper was not available. The
released code moves particles along +∇φ instead of -∇ψ (`potential_side: real`) and puts the last penalty on ψ instead
of e; here both are as in the formulas. The inequality is taken over all pairs of a minibatch, not over as many pairs as
there are samples. Learning rates, ε and K may decay.
"""

from typing import Literal

import torch
from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import CriticNet, Terms
from pt_flows.errors import warn
from pt_flows.functional.pairs import all_pairs_penalty
from pt_flows.functional.penalties import interpolate
from pt_flows.functional.potentials import Reduction, equality_penalty, inequality_penalty, quadratic_cost
from pt_flows.functional.transport import exact_wasserstein
from pt_flows.methods.flows.particle_flow import ParticleFlow
from pt_flows.training.distributed import all_ranks
from pt_flows.training.players import Critic, Generator, one_valued
from pt_flows.training.requirements import check_agreement, check_network
from pt_flows.training.schedules import Schedule

Side = Literal["fake", "real", "mean"]
ROWS_TO_WARN = 5
"""Number of successive rows of the log whose dual must be far off."""


class W2FE(ParticleFlow):
    """Wasserstein-2 forward Euler with persistent training; the critic is φ.

    The penalties weigh squared costs, lengths to the fourth power, against a cost. For data scaled by s, divide the
    weights for scale one by s².

    Args:
        generator: G, latents to samples.
        critic: φ; its optimizer moves e, too.
        excess: e, a network like the critic's.
        inequality_weight: Weight of the inequality over all pairs of the minibatch. The released code takes paired
            samples only, with weights 200 in the plane and 10 for images.
        interpolated_weight: Weight of the inequality between points on the segments of paired samples. Without it
            particles gather in the middle of modes, because near pairs are not distinguished.
        equality_weight: Weight of both equality penalties; 0 saves their second derivatives.
        excess_weight: Weight of the penalty on e > 0; 0 in the plane, 10 for images in the released code.
        potential_side: The function that moves particles: "fake" -∇ψ, the formula; "real" ∇φ, the released code; "mean"
            half of each, which cancels the pull inwards of penalised potentials where particles have reached the data.
        step_size: ε, the fraction of the way to the data.
        persistence: K, optimizer steps of G towards the same targets, at least one in every iteration.
        reduction: Squared distance summed over coordinates (formula) or averaged (released code).
        rematch: Pair targets and outputs anew before every inner step after the first, by optimal assignment.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        excess: CriticNet,
        inequality_weight: NonNegative = 200.0,
        interpolated_weight: NonNegative = 200.0,
        equality_weight: NonNegative = 200.0,
        excess_weight: NonNegative = 0.0,
        potential_side: Side = "fake",
        step_size: Positive | Schedule = 1.0,
        persistence: Count | Schedule = 5,
        reduction: Reduction = "sum",
        rematch: bool = False,
    ) -> None:
        super().__init__(generator, critic, step_size, persistence, reduction, rematch)
        check_network("model.excess", excess, CriticNet)
        check_agreement("model.excess", excess, "model.generator", generator.event_shape, 0)
        within_the_way(self.step_size)
        self.excess = one_valued(excess)
        critic.include(self.excess)
        self.penalty_weights = {"inequality": inequality_weight, "interpolated": interpolated_weight}
        self.penalty_weights |= {"equality": equality_weight, "excess": excess_weight}
        self.potential_side = potential_side
        self._rows_far_off = 0

    @property
    def fraction_of_the_way(self) -> float:
        """ε of this iteration, by which an exact step would shorten every path and with it W2."""
        return self.step_size(self.progress)

    def psi(self, y: Tensor) -> Tensor:
        """The potential of the particles' side, ψ = -φ + e."""
        return self.excess(y) - self.critic(y)

    def potential(self, y: Tensor) -> Tensor:
        """-ψ, φ or their mean φ - e/2: high on data."""
        share = {"fake": 1.0, "mean": 0.5, "real": 0.0}[self.potential_side]
        return self.critic(y) - share * self.excess(y) if share else self.critic(y)

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """The penalised dual of ½ W2² on data x and particles y, outside autocast: differences of large values."""
        with torch.autocast(x.device.type, enabled=False):
            return self.penalised_dual(x, y.to(x))

    def penalised_dual(self, x: Tensor, y: Tensor) -> Terms:
        """-E φ(x) - E ψ(y) with its penalties, and its parts."""
        phi, psi, weights = self.critic, self.psi, self.penalty_weights
        at_x, at_y = (points.detach().requires_grad_(weights["equality"] > 0) for points in (x, y))
        phi_x, excess = phi(at_x), self.excess(at_y)
        psi_y = excess - phi(at_y)
        dual = phi_x.mean() + psi_y.mean()
        penalties = {"inequality": all_pairs_penalty(*map(all_ranks, (phi_x, psi_y, x, y)))}
        if weights["interpolated"]:
            u, v = (interpolate(*pair, self.noise.uniform(len(x))) for pair in ((x, y), (y, x)))
            penalties["interpolated"] = inequality_penalty(phi(u), psi(v), quadratic_cost(u, v))
        if weights["equality"]:
            penalties["equality"] = equality_penalty(phi_x, psi, at_x) + equality_penalty(psi_y, phi, at_y)
        if weights["excess"]:
            penalties["excess"] = excess.clamp(min=0).square().mean()
        weighted = [weights[name] * penalty for name, penalty in penalties.items()]
        return {"loss_D": sum(weighted, -dual), "dual": dual} | penalties

    def diagnose(self, row: dict[str, float]) -> dict[str, float]:
        """On vectors, log the exact ½ W2² of the last minibatch beside the dual, and warn if they stay apart."""
        if "train/dual" not in row or not self.critic.latest or len(self.generator.event_shape) != 1:
            return {}
        x, y = self.critic.latest
        exact = 0.5 * exact_wasserstein(x, y, p=2) ** 2
        self._judge(row["train/dual"], exact, 0.5 * float(x.var(0).sum()))
        return {"train/dual_exact": exact}

    def _judge(self, dual: float, exact: float, scale: float) -> None:
        self._rows_far_off = self._rows_far_off + 1 if abs(dual - exact) > 0.5 * exact + 0.1 * scale else 0
        if self._rows_far_off == ROWS_TO_WARN:
            weight = self.penalty_weights["inequality"]
            warn(
                f"the dual of φ and ψ, {dual:.3g}, stays far from ½ W2² of the same samples, {exact:.3g}, at iteration "
                f"{self.iteration}, so particles will not reach the data. If it is too large, raise "
                f"model.inequality_weight ({weight:g}); if it is too small, lower that or raise model.critic.steps"
            )


def within_the_way(step_size: Schedule) -> None:
    """Warn if a step of the Wasserstein-2 flow is longer than the way to the data."""
    if step_size.value > 1:
        warn(
            f"model.step_size: expected at most 1, the whole way to the data, got {step_size.value:g}. Particles "
            "overshoot the data, and diverge from 2 on"
        )
