r"""W1-FE: the gradient flow of the Wasserstein-1 distance, forward Euler steps, persistent training.

    dY = ∇f(Y) dt          f a Kantorovich potential from data to the distribution of Y, ‖∇f‖ ≤ 1 (the paper's φ is -f)
    ζ_i = y_i + ε ∇f(y_i)  one Euler step of the particles y_i = G(z_i)
    K times:  G ← one optimizer step on  (1/m) Σ ‖G(z_i) - ζ_i‖²,  the same z and ζ each time

Malik and Huang 2024, A Differential Equation Approach for Wasserstein GANs and Beyond, arXiv:2405.16351. K = 1 is the
Wasserstein GAN, its gradient scaled by 2ε.

Departures: written from the authors' released code and the abstract; the body of the paper was not available. The loss
is a sum over coordinates, as in the formula; the released code's mean is `reduction: mean`. Learning rates and ε may
decay, because a Wasserstein-1 field does not slow down near the data.
"""

from torch import Tensor

from pt_flows.bounds import Count, NonNegative, Positive
from pt_flows.contracts import Terms
from pt_flows.functional.penalties import PENALTIES, Penalty, gradient_norm, interpolate
from pt_flows.functional.potentials import Reduction, wasserstein1_dual
from pt_flows.methods.flows.particle_flow import ParticleFlow
from pt_flows.training.players import Critic, Generator
from pt_flows.training.schedules import Schedule


class W1FE(ParticleFlow):
    """Wasserstein-1 forward Euler with persistent training; the critic f is the potential.

    Args:
        generator: G, latents to samples.
        critic: f; without batch norm, which would break penalties on its gradients.
        penalty: "one_sided" (LP, robust) or "two_sided" (GP).
        penalty_weight: λ.
        step_size: ε, in data units. It has no effect at K = 1 with Adam, which cancels constant factors.
        persistence: K, optimizer steps of G towards the same targets, at least one in every iteration.
        reduction: Squared distance summed over coordinates (formula) or averaged (released code).
        rematch: Pair targets and outputs anew before every inner step after the first, by optimal assignment.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        penalty: Penalty = "one_sided",
        penalty_weight: NonNegative = 10.0,
        step_size: Positive | Schedule = 1.0,
        persistence: Count | Schedule = 5,
        reduction: Reduction = "sum",
        rematch: bool = False,
    ) -> None:
        super().__init__(generator, critic, step_size, persistence, reduction, rematch)
        self.penalty, self.penalty_weight = PENALTIES[penalty], penalty_weight

    def critic_loss(self, x: Tensor, y: Tensor) -> Terms:
        """Loss of f on data x and particles y: the penalised dual of W1."""
        f, lam = self.critic, self.penalty_weight
        u = interpolate(x, y, self.noise.uniform(len(x)))
        dual, penalty = wasserstein1_dual(f, x, y), self.penalty(gradient_norm(f, u))
        return {"loss_D": -dual + lam * penalty, "dual": dual, "penalty": penalty}
